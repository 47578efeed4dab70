// Package h1 speaks HTTP/1.1 (and 1.0) on both sides, RFC 9112.
//
// It guarantees that whatever it hands to a handler, or hands back from an
// upstream, can be read in one way only: messages with conflicting or
// malformed framing are refused (towards the client with 400 and a closed
// connection, towards the pipeline with Reason "malformed_response"), and what
// it writes is framed by itself alone, whatever fields it is given.
//
// Strings that it hands out are views into read buffers, see package exchange.
// In the steady state an exchange costs no allocation, one read and one write
// per message where the message fits.
package h1
