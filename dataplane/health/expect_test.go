package health

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// speak serves one connection after the other by a script.
func speak(t *testing.T, script func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			script(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestTCP(t *testing.T) {
	echo := func(c net.Conn) { io.Copy(c, c) }
	says := func(parts ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, p := range parts {
				io.WriteString(c, p)
			}
			io.Copy(io.Discard, c) // until the check hangs up
		}
	}
	for _, tt := range []struct {
		name         string
		script       func(c net.Conn)
		send, expect string
		why          string
	}{
		{"an answer", echo, "PING\r\n", "PING", ""},
		{"binary", echo, "\x00\xff\x01", "\xff\x01", ""},
		{"a greeting", says("220 mail ESMTP\r\n"), "", "220 ", ""},
		{"in parts", says("+PO", "NG\r", "\n"), "PING\r\n", "+PONG\r\n", ""},
		{"behind much else", says(strings.Repeat("x", 5000), "needle"), "", "needle", ""},
		{"nothing is expected", says(), "QUIT\r\n", "", ""},
		{"something else, and the end", func(c net.Conn) { io.WriteString(c, "-ERR not yours\r\n") }, "", "+PONG", `does not contain "+PONG"; it begins with "-ERR not yours\r\n"`},
		{"nothing but the end", func(c net.Conn) {}, "", "+PONG", "empty"},
		{"without end", func(c net.Conn) {
			for p := bytes.Repeat([]byte("x"), 4096); ; {
				if _, err := c.Write(p); err != nil {
					return
				}
			}
		}, "", "needle", `does not contain "needle"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := ask(t, speak(t, tt.script), false, patience, &snapshot.HealthCheck{TCP: &snapshot.SendExpect{Send: []byte(tt.send), Expect: []byte(tt.expect)}})
			wantWhy(t, err, tt.why)
		})
	}
	err := ask(t, speak(t, says("not yet")), false, 50*time.Millisecond, &snapshot.HealthCheck{TCP: &snapshot.SendExpect{Expect: []byte("ready")}})
	wantWhy(t, err, "no answer in time")
}

func TestUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); ; {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if q := string(buf[:n]); q != "silence" {
				pc.WriteTo([]byte("re: "+q), from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	check := func(patience time.Duration, send, expect string) error {
		nc, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c := NewConn(nc, false)
		defer c.Close()
		return c.Ask(ctx, "", &snapshot.HealthCheck{UDP: &snapshot.SendExpect{Send: []byte(send), Expect: []byte(expect)}})
	}
	wantWhy(t, check(patience, "status", "re: status"), "")
	wantWhy(t, check(patience, "status", ""), "")
	wantWhy(t, check(patience, "status", "fine"), `does not contain "fine"; it begins with "re: status"`)
	wantWhy(t, check(50*time.Millisecond, "silence", ""), "no answer in time")
}

func TestBodyContains(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/late":
			io.WriteString(w, strings.Repeat("x", 1000))
			w.(http.Flusher).Flush()
			io.WriteString(w, `{"ready":true}`)
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the rest never comes, and is not waited for
		case "/far":
			io.WriteString(w, strings.Repeat("x", 80<<10)+`"ready":true`)
		case "/no":
			io.WriteString(w, `{"ready":false}`)
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"ready":true}`)
		}
	})
	for path, why := range map[string]string{
		"/late": "", "/far": "does not contain", "/no": `begins with "{\"ready\":false}"`, "/empty": "empty", "/ill": "status 503",
	} {
		t.Run(path[1:], func(t *testing.T) {
			eachProtocol(t, func(t *testing.T, http2 bool) {
				err := ask(t, address, http2, patience, &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: path, BodyContains: `"ready":true`}})
				wantWhy(t, err, why)
			})
		})
	}
}

// FuzzSearch holds a search in parts to one in the whole.
func FuzzSearch(f *testing.F) {
	f.Add([]byte("aabaab"), []byte("aab"), uint8(1))
	f.Add([]byte("+PONG\r\n"), []byte("+PONG\r\n"), uint8(3))
	f.Add([]byte("abc"), []byte(""), uint8(2))
	f.Fuzz(func(t *testing.T, text, want []byte, each uint8) {
		s, found := search{want: want}, false
		for rest := text; len(rest) > 0 && !found; {
			n := min(int(each)+1, len(rest))
			found, rest = s.found(rest[:n]), rest[n:]
			if max := int(each) + 1 + len(want); len(s.kept) > max {
				t.Fatalf("%d bytes are kept", len(s.kept))
			}
		}
		if whole := len(text) > 0 && bytes.Contains(text, want); found != whole {
			t.Errorf("found: %t, want %t", found, whole)
		}
	})
}
