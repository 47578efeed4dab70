// Package h2 speaks HTTP/2, RFC 9113, on both sides.
//
// It is made of small mechanisms: frames (frame.go), flow control (flow.go),
// field blocks (decode.go, encode.go) and the order of writes (priority.go)
// know no connection; the server's and the client's connections are built on
// them.
//
// It guarantees that whatever it hands to a handler, or back from an upstream,
// could be said in HTTP/1.1 in one way only: messages that break the rules of
// RFC 9113 section 8 end with a stream error and are never forwarded. What a
// peer can make it hold or do is bounded; who wants more loses the connection.
//
// Strings of fields are not views: they live as long as somebody holds them.
// Content is lent in buffers, see exchange.Body.
package h2
