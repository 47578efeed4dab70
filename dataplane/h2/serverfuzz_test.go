package h2_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// FuzzServer has a client that sends anything behind the preface. The
// connection ends, every exchange that began with it, and what the handler
// sees of a request can be read in one way; what the client gets are frames.
func FuzzServer(f *testing.F) {
	request := func(write func(*http2.Framer, func(pairs ...string) []byte)) {
		var seed, block bytes.Buffer
		framer := http2.NewFramer(&seed, nil)
		framer.AllowIllegalWrites = true
		enc := hpack.NewEncoder(&block)
		write(framer, func(pairs ...string) []byte {
			block.Reset()
			for i := 0; i < len(pairs); i += 2 {
				_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
			}
			return bytes.Clone(block.Bytes())
		})
		f.Add(seed.Bytes())
	}
	request(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings()
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(path("/5")...), EndHeaders: true, EndStream: true})
		_ = w.WriteWindowUpdate(0, 100)
		_ = w.WritePing(false, [8]byte{1})
	})
	request(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
		fields := block(":method", "POST", ":scheme", "http", ":authority", "a.test", ":path", "/a?b", "content-length", "5", "cookie", "a=1")
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields[:9], PadLength: 3})
		_ = w.WriteContinuation(1, true, fields[9:])
		_ = w.WriteDataPadded(1, false, []byte("hello"), make([]byte, 7))
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("x-sum", "7"), EndHeaders: true, EndStream: true})
		_ = w.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = w.WriteGoAway(1, http2.ErrCodeNo, nil)
	})
	request(func(w *http2.Framer, block func(...string) []byte) {
		_ = w.WriteSettings()
		_ = w.WritePriority(3, http2.PriorityParam{StreamDep: 1, Weight: 7})
		_ = w.WriteRawFrame(0x10, 0, 0, []byte("\x00\x00\x00\x03u=1, i"))
		_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: block(":method", "CONNECT", ":protocol", "websocket",
			":scheme", "http", ":authority", "a.test", ":path", "/chat")})
		_ = w.WriteData(3, true, []byte("frames"))
	})
	f.Fuzz(func(t *testing.T, sent []byte) {
		var served atomic.Int64
		h := &handler{serve: func(ex *exchange.Exchange) {
			served.Add(1)
			in := &ex.In
			for _, s := range append([]string{in.Method, in.Authority, in.Path, in.Query}, in.Scheme) {
				if strings.ContainsAny(s, " \r\n\x00\t") {
					t.Errorf("%q of %+v", s, in)
				}
			}
			if in.Method == "" || in.Path != "" && in.Path[0] != '/' && in.Path != "*" {
				t.Errorf("%+v", in)
			}
			for _, f := range in.Fields {
				if f.Name == "" || strings.ContainsAny(f.Name, " \r\n\x00:") || strings.ContainsAny(f.Value, "\r\n\x00") ||
					f.Key == exchange.KeyTransferEncoding || f.Key == exchange.KeyConnection {
					t.Errorf("%q", f)
				}
			}
			if in.Body != nil {
				n, err := int64(0), error(nil)
				for err == nil {
					var p []byte
					p, err = in.Body.Next()
					n += int64(len(p))
				}
				if in.Length >= 0 && (n > in.Length || err == io.EOF && n != in.Length) {
					t.Errorf("%d bytes of %d, %v", n, in.Length, err)
				}
			}
			ex.Response.Status, ex.Response.Length = 200, 5
			ex.Response.Body = &content{parts: [][]byte{[]byte("hello")}}
		}}
		near, far := net.Pipe()
		s := h2.NewServerConn(near, &exchange.Conn{ID: 1}, h, &h2.ServerOptions{Poison: true})
		ended := make(chan struct{})
		go func() {
			s.Serve()
			close(ended)
		}()
		go func() {
			_, _ = far.Write(append([]byte(h2.Preface), sent...))
			time.Sleep(time.Millisecond) // for the answers to what was whole
			_ = far.Close()
		}()
		client := http2.NewFramer(nil, far)
		client.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			_, err := client.ReadFrame()
			var broken http2.ConnectionError
			var stream http2.StreamError
			if errors.As(err, &broken) || errors.As(err, &stream) {
				t.Errorf("the server sent what is against the rules: %v", err)
			}
			if err != nil {
				break
			}
		}
		_ = far.Close()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the connection does not end")
		}
		if n := len(h.done()); int64(n) != served.Load() {
			t.Errorf("%d of %d exchanges have ended", n, served.Load())
		}
	})
}
