package proxyproto

import (
	"errors"
	"io"
	"net"
)

// Read reads a header from a connection, and nothing else: what comes after it
// is left there. If there is no header, the error is ErrNone, and rest is
// what had to be read to find that out, to be served before what the connection
// has. Where the system cannot look ahead, rest may also follow a header. The
// caller bounds the time by a deadline of c.
func Read(c *net.TCPConn) (h *Header, rest []byte, err error) {
	p := peeker{c: c}
	buf := make([]byte, 256)
	n := 0 // how many bytes of the header have been taken off the connection
	for {
		k, err := p.peek(buf[n:])
		if err != nil {
			if errors.Is(err, io.EOF) && n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, buf[:n], err
		}
		size, err := Size(buf[:n+k])
		if err != nil {
			return nil, append(buf[:n:n], p.taken(buf[n:n+k])...), err
		}
		whole := size > 0 && size <= n+k
		take := k
		if whole {
			take = size - n
		}
		if err := p.take(buf[n : n+take]); err != nil {
			return nil, nil, err
		}
		if whole {
			h, err := Parse(buf[:size])
			return h, p.taken(buf[size : n+k]), err
		}
		n += take
		if size > len(buf) {
			buf = append(make([]byte, 0, size), buf[:n]...)[:size]
		}
	}
}
