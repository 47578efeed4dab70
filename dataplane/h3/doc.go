// Package h3 speaks HTTP/3, RFC 9114, to clients, on QUIC connections of quic-go.
//
// quic-go has the transport; the mapping of HTTP is ours, since quic-go's own
// is net/http's model of a request. Frames (frame.go) and field sections
// (qpack.go) know no connection; a request stream (stream.go) reads its request
// as it is pulled, straight from QUIC's own buffers and windows.
//
// It guarantees what package h2 does: whatever it hands to a handler could be
// said in HTTP/1.1 in one way only. Messages that break the rules of RFC 9114
// section 4 end with a stream error and are never forwarded. What a client can
// make it hold or do is bounded; who wants more loses the connection.
//
// QPACK's dynamic table has no capacity in either direction: nothing waits for
// another stream, and a field section can be read, or not, by itself.
//
// Strings of fields are views into the exchange's arena.
package h3
