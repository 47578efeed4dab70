package l4

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
)

// maxHello bounds the bytes that a ClientHello may take, with its records'
// headers. Those with post-quantum key shares take less than 2 KiB.
const maxHello = 16 << 10

var (
	errNotTLS    = errors.New("the connection does not begin with a TLS ClientHello")
	errLongHello = errors.New("the ClientHello is longer than 16 KiB")
)

// ReadHello reads a ClientHello and returns its server name, in lower case and
// "" if it has none, with all the bytes that were read. The caller bounds the
// time by a deadline of c.
func ReadHello(c net.Conn) (serverName string, read []byte, err error) {
	buf := make([]byte, 0, 2048)
	for {
		if len(buf) == cap(buf) {
			if len(buf) >= maxHello {
				return "", buf, errLongHello
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		name, whole, bad := serverNameOf(buf)
		switch {
		case bad != nil:
			return "", buf, bad
		case whole:
			return strings.ToLower(strings.TrimSuffix(name, ".")), buf, nil
		case err != nil:
			return "", buf, err
		}
	}
}

// serverNameOf finds the server name in what may be the beginning of a TLS
// connection. whole is false as long as more bytes are needed.
func serverNameOf(b []byte) (name string, whole bool, err error) {
	hello, whole, err := helloOf(b)
	if !whole || err != nil {
		return "", false, err
	}
	name, ok := parseHello(hello)
	if !ok {
		return "", false, errNotTLS
	}
	return name, true, nil
}

// helloOf joins the handshake message from its records, RFC 8446 section 5.1.
func helloOf(b []byte) (hello []byte, whole bool, err error) {
	var joined []byte
	for len(b) >= 5 {
		size := int(binary.BigEndian.Uint16(b[3:]))
		if b[0] != 22 || b[1] != 3 || size == 0 || size > maxHello {
			return nil, false, errNotTLS
		}
		fragment := b[5:min(5+size, len(b))]
		if joined == nil {
			joined = fragment[:len(fragment):len(fragment)]
		} else {
			joined = append(joined, fragment...)
		}
		if len(joined) >= 1 && joined[0] != 1 {
			return nil, false, errNotTLS
		}
		if len(joined) >= 4 {
			length := int(joined[1])<<16 | int(joined[2])<<8 | int(joined[3])
			if length > maxHello {
				return nil, false, errLongHello
			}
			if len(joined) >= 4+length {
				return joined[4 : 4+length], true, nil
			}
		}
		if len(fragment) < size {
			return nil, false, nil
		}
		b = b[5+size:]
	}
	if len(b) > 0 && b[0] != 22 || len(b) > 1 && b[1] != 3 {
		return nil, false, errNotTLS
	}
	return nil, false, nil
}

// parseHello returns the host_name of the server_name extension, RFC 6066
// section 3, "" if there is none.
func parseHello(b []byte) (name string, ok bool) {
	r := reader{b, true}
	r.skip(2 + 32) // version, random
	r.skip(r.uint(1))
	r.skip(r.uint(2)) // cipher suites
	r.skip(r.uint(1))
	if r.ok && len(r.b) == 0 {
		return "", true // no extensions
	}
	extensions := reader{r.take(r.uint(2)), r.ok}
	if !r.ok || len(r.b) > 0 {
		return "", false
	}
	for len(extensions.b) > 0 {
		kind := extensions.uint(2)
		data := extensions.take(extensions.uint(2))
		if !extensions.ok {
			return "", false
		}
		if kind != 0 {
			continue
		}
		list := reader{data, true}
		names := reader{list.take(list.uint(2)), list.ok}
		if !list.ok || len(list.b) > 0 || name != "" {
			return "", false
		}
		for len(names.b) > 0 {
			kind, value := names.uint(1), names.take(names.uint(2))
			if !names.ok || kind == 0 && (len(value) == 0 || name != "") {
				return "", false
			}
			if kind == 0 {
				name = string(value)
			}
		}
	}
	return name, extensions.ok
}

// reader takes bytes off a slice; ok turns false where there are too few.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.b) {
		r.ok = false
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) skip(n int) { r.take(n) }

// uint takes a number of so many bytes, at most 2.
func (r *reader) uint(bytes int) int {
	n := 0
	for _, b := range r.take(bytes) {
		n = n<<8 | int(b)
	}
	return n
}
