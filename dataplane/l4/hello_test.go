package l4

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"
)

// hello is what a TLS client of Go's begins with.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 5)
	if _, err := io.ReadFull(server, b); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, int(b[3])<<8|int(b[4]))
	if _, err := io.ReadFull(server, rest); err != nil {
		t.Fatal(err)
	}
	return append(b, rest...)
}

// refragment puts a hello into records of n bytes each.
func refragment(b []byte, n int) (out []byte) {
	for b = b[5:]; len(b) > 0; {
		k := min(n, len(b))
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, b[:k]...)
		b = b[k:]
	}
	return out
}

func TestServerName(t *testing.T) {
	for _, name := range []string{"a.example.com", ""} {
		whole := hello(t, name)
		for _, b := range [][]byte{whole, refragment(whole, 1), refragment(whole, 100), refragment(whole, len(whole))} {
			got, ok, err := serverNameOf(b)
			if got != name || !ok || err != nil {
				t.Errorf("%q: %q, %v, %v", name, got, ok, err)
			}
			for i := range b {
				if _, ok, err := serverNameOf(b[:i]); ok || err != nil {
					t.Fatalf("%q: %d of %d bytes: %v, %v", name, i, len(b), ok, err)
				}
			}
			// What follows is none of our business.
			if got, ok, err := serverNameOf(append(b[:len(b):len(b)], "more"...)); got != name || !ok || err != nil {
				t.Errorf("%q with more: %q, %v, %v", name, got, ok, err)
			}
		}
		// A hello whose inside was damaged is refused, not misread past its end.
		for i := 9; i < len(whole); i++ {
			b := append([]byte(nil), whole...)
			b[i] ^= 0xff
			_, _, _ = serverNameOf(b)
		}
	}
	for _, bad := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x02", "\x15\x03\x01\x00\x02\x01\x00", "\x16\x03\x01\x00\x01\x02", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", "\x16\x03\x01\x00\x00"} {
		if _, ok, err := serverNameOf([]byte(bad)); ok || err == nil {
			t.Errorf("%q: %v, %v", bad, ok, err)
		}
	}
}

// slow yields a byte at a time.
type slow struct {
	net.Conn
	r io.Reader
}

func (s slow) Read(b []byte) (int, error) { return s.r.Read(b) }

func TestReadHello(t *testing.T) {
	b := hello(t, "UPPER.example.com")
	pipe := func(b []byte) slow {
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write(b)
			_ = w.Close()
		}()
		return slow{r: iotest.OneByteReader(r)}
	}
	name, read, err := ReadHello(pipe(b))
	if name != "upper.example.com" || string(read) != string(b) || err != nil {
		t.Errorf("%q, %d bytes, %v", name, len(read), err)
	}
	if _, _, err := ReadHello(pipe(b[:len(b)-1])); err == nil {
		t.Error("half a hello was taken")
	}
	long := refragment(append([]byte{0, 0, 0, 0, 0, 1, 0, 0x3f, 0xff}, make([]byte, 0x3fff)...), 2)
	if _, read, err := ReadHello(pipe(long)); err != errLongHello || len(read) > maxHello {
		t.Errorf("long: %d bytes, %v", len(read), err)
	}
}

func FuzzServerName(f *testing.F) {
	b := hello(f, "a.example.com")
	f.Add(b)
	f.Add(refragment(b, 7))
	f.Add([]byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, whole, err := serverNameOf(b)
		if !whole && name != "" || err != nil && whole || len(name) > len(b) {
			t.Errorf("%q, %v, %v", name, whole, err)
		}
		if whole {
			// More bytes change nothing.
			if again, whole, err := serverNameOf(append(b[:len(b):len(b)], b...)); again != name || !whole || err != nil {
				t.Errorf("%q became %q, %v, %v", name, again, whole, err)
			}
		}
	})
}
