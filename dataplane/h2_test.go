package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/h2"
)

// client2 speaks HTTP/2 alone.
func client2(t testing.TB) *http.Client {
	c := client(t)
	tr := c.Transport.(*http.Transport)
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.Protocols.SetHTTP2(true)
	tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return c
}

// HTTP/2 to upstreams that speak HTTP/1.1, by prior knowledge on a port that
// also speaks HTTP/1.1, and by ALPN.
func TestHTTP2(t *testing.T) {
	for _, secure := range []bool{false, true} {
		p := start(t, dataplane.Options{})
		w := &world{}
		port, url := plain(), "http://"
		if secure {
			port.Listeners[0].TLS, port.Listeners[0].Protocol = selfSigned(t, 1, "a.example.com"), "HTTPS"
			url = "https://"
		}
		w.port(port).cluster("a", backend(t, "a")).host(gateway, "*", to("/", "a")).apply(t, p)
		url += address(t, p)
		c := client2(t)
		if secure {
			c.Transport.(*http.Transport).TLSClientConfig.ServerName = "a.example.com"
		} else if resp, body := get(t, client(t), url+"/one"); resp.ProtoMajor != 1 || body != "a GET /one " {
			t.Errorf("HTTP/1.1: %s %q", resp.Proto, body)
		}
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				for j := range 10 {
					content := strings.Repeat("x", i*j*1000)
					resp, err := c.Post(fmt.Sprintf("%s/%d", url, i), "text/plain", strings.NewReader(content))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.ProtoMajor != 2 || string(got) != fmt.Sprintf("a POST /%d %s", i, content) {
						t.Errorf("%d %d: %s %.50q %v", i, j, resp.Proto, got, err)
					}
				}
			})
		}
		group.Wait()
	}
}

// Over TLS nobody begins with HTTP/2 who has not negotiated it.
func TestPriorKnowledge(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	port := plain()
	port.Listeners[0].TLS, port.Listeners[0].Protocol = selfSigned(t, 1, "a.example.com"), "HTTPS"
	w.port(port).host(gateway, "*").apply(t, p)
	nc, err := tls.Dial("tcp", address(t, p), &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(nc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if got, _ := io.ReadAll(nc); !strings.HasPrefix(string(got), "HTTP/1.1 505") {
		t.Errorf("%q", got)
	}

	// In pieces, and with what belongs to no protocol.
	p = start(t, dataplane.Options{})
	w = &world{}
	w.port(plain()).host(gateway, "*").apply(t, p)
	for sent, want := range map[string]string{
		"PRI * HTTP/2.0\r\n\r\n|SM\r\n\r\n|\x00\x00\x00\x04\x00\x00\x00\x00\x00": "\x00\x00\x1e\x04\x00",
		"PRI * HTTP/2.0\r|\n\r\nSM\r\n\r\nGET":                                   "\x00\x00\x1e\x04\x00",
		"PRI * HTTP/2.0\r\nA: b\r\n\r\n":                                         "HTTP/1.1 505",
		"INVALID CONNECTION PREFACE\r\n\r\n":                                     "",
		"GET / RTSP/1.0\r\n\r\n":                                                 "HTTP/1.1 400",
		"GET / http/1.1\r\n\r\n":                                                 "HTTP/1.1 400",
		"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n":                                       "HTTP/1.1 505",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":     "HTTP/1.1 404",
	} {
		nc, err := net.Dial("tcp", address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(8 * time.Second))
		for part := range strings.SplitSeq(sent, "|") {
			_, _ = io.WriteString(nc, part)
			time.Sleep(10 * time.Millisecond)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(nc, got); err != nil || string(got) != want {
			t.Errorf("%q: %q %v", sent, got, err)
		}
		if want == "" {
			if rest, err := io.ReadAll(nc); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q: %q %v, want the connection closed without a word", sent, rest, err)
			}
		}
		nc.Close()
	}
}

// Shutdown and changes of listeners let streams finish.
func TestHTTP2Drains(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	up := http.NewServeMux()
	up.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	p := dataplane.New(dataplane.Options{BindAddresses: []string{"127.0.0.1"}})
	w := &world{}
	w.port(plain()).cluster("a", upstream(t, up)).host(gateway, "*", to("/", "a")).apply(t, p)
	url := "http://" + address(t, p)
	got := make(chan string)
	c := client2(t)
	go func() {
		resp, err := c.Get(url)
		if err != nil {
			got <- err.Error()
			return
		}
		text, _ := io.ReadAll(resp.Body)
		got <- string(text)
	}()
	<-began
	down := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		down <- p.Shutdown(ctx)
	}()
	time.Sleep(20 * time.Millisecond) // it is told to go elsewhere
	close(release)
	if text := <-got; text != "done" {
		t.Error(text)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// A client that gives up a response that never ends ends it for the upstream too.
func TestHTTP2Cancel(t *testing.T) {
	gone := make(chan bool, 1)
	up := http.NewServeMux()
	up.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- true
	})
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("a", upstream(t, up)).host(gateway, "*", to("/", "a")).apply(t, p)
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+address(t, p), nil)
	resp, err := client2(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("the upstream still sends")
	}
}

// WebSocket over HTTP/2, RFC 8441, to an upstream that knows it from HTTP/1.1.
func TestHTTP2WebSocket(t *testing.T) {
	up := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		kind, message, err := c.Read(r.Context())
		if err == nil {
			err = c.Write(r.Context(), kind, append([]byte("echo "), message...))
		}
		if err != nil {
			t.Error(err)
		}
		_ = c.Close(websocket.StatusNormalClosure, "")
	})
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("a", upstream(t, up)).host(gateway, "*", to("/", "a")).apply(t, p)
	nc, err := net.Dial("tcp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(nc, h2.Preface)
	f := http2.NewFramer(nc, nc)
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, pair := range [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/chat"}, {":authority", "a.test"},
		{"sec-websocket-version", "13"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	// A masked text frame; the mask is zero. Then a masked close.
	_ = f.WriteData(1, false, []byte("\x81\x82\x00\x00\x00\x00hi"))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	got := ""
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err, got)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status != "200" {
				t.Fatal(status)
			}
			for _, field := range frame.RegularFields() {
				if field.Name == "sec-websocket-accept" || field.Name == "upgrade" || field.Name == "connection" {
					t.Error(field)
				}
			}
		case *http2.DataFrame:
			got += string(frame.Data())
			if len(got) > 9 && !frame.StreamEnded() {
				_ = f.WriteData(1, true, []byte("\x88\x82\x00\x00\x00\x00\x03\xe8"))
			}
			if frame.StreamEnded() {
				if !strings.HasPrefix(got, "\x81\x07echo hi\x88\x02\x03\xe8") {
					t.Errorf("%q", got)
				}
				return
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatal(frame, got)
		}
	}
}

func upstream(t *testing.T, h http.Handler) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return ln.Addr().String()
}
