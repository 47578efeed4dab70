package health

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/headgate/headgate/dataplane/deadline.(*janitor).run"))
}

// serve starts a server of HTTP/1.1 and of HTTP/2 by prior knowledge.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// ask asks once; patience is long unless the test is about it.
func ask(t testing.TB, address string, http2 bool, patience time.Duration, settings *snapshot.HealthCheck) error {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := NewConn(nc, http2)
	defer c.Close()
	return c.Ask(ctx, address, settings)
}

// wantWhy compares why a check fails; "" is a check that passes.
func wantWhy(t *testing.T, got error, want string) {
	t.Helper()
	switch {
	case want == "" && got != nil:
		t.Errorf("it fails: %v", got)
	case want != "" && (got == nil || !strings.Contains(got.Error(), want)):
		t.Errorf("got %v, want %q", got, want)
	}
}

const patience = 30 * time.Second

func eachProtocol(t *testing.T, f func(t *testing.T, http2 bool)) {
	t.Run("HTTP1", func(t *testing.T) { f(t, false) })
	t.Run("HTTP2", func(t *testing.T) { f(t, true) })
}

func TestHTTPStatus(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status := 0
		for _, c := range r.URL.Path[1:] {
			status = 10*status + int(c-'0')
		}
		w.WriteHeader(status)
		if status != 204 && status != 304 {
			io.WriteString(w, strings.Repeat("content ", 100))
		}
	})
	ranges := []snapshot.StatusRange{{From: 200, To: 204}, {From: 503, To: 503}}
	for _, tt := range []struct {
		path     string
		statuses []snapshot.StatusRange
		why      string
	}{
		{"/200", nil, ""}, {"/204", nil, ""}, {"/304", nil, ""}, {"/399", nil, ""},
		{"/400", nil, "status 400"}, {"/500", nil, "status 500"},
		{"/200", ranges, ""}, {"/204", ranges, ""}, {"/503", ranges, ""},
		{"/205", ranges, "status 205"}, {"/302", ranges, "status 302"}, {"/502", ranges, "status 502"},
	} {
		eachProtocol(t, func(t *testing.T, http2 bool) {
			err := ask(t, address, http2, patience, &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: tt.path, Statuses: tt.statuses}})
			wantWhy(t, err, tt.why)
		})
	}
}

func TestHTTPRequest(t *testing.T) {
	type seen struct {
		method, target, host, agent, header string
		major                               int
	}
	var got seen
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = seen{r.Method, r.RequestURI, r.Host, r.UserAgent(), r.Header.Get("X-Check"), r.ProtoMajor}
	})
	for _, tt := range []struct {
		name string
		q    snapshot.HTTPHealthCheck
		want seen
	}{
		{"defaults", snapshot.HTTPHealthCheck{}, seen{"GET", "/", address, "Headgate-HealthCheck", "", 0}},
		{"all", snapshot.HTTPHealthCheck{
			Method: "HEAD", Path: "/healthz?full=1", Host: "shop.example",
			Headers: []snapshot.HeaderField{{Name: "X-Check", Value: "yes"}, {Name: "user-agent", Value: "me"}},
		}, seen{"HEAD", "/healthz?full=1", "shop.example", "me", "yes", 0}},
		{"POST", snapshot.HTTPHealthCheck{Method: "POST", Path: "/check?"}, seen{"POST", "/check?", address, "Headgate-HealthCheck", "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachProtocol(t, func(t *testing.T, http2 bool) {
				want := tt.want
				if want.major = 1; http2 {
					want.major = 2
				}
				wantWhy(t, ask(t, address, http2, patience, &snapshot.HealthCheck{HTTP: &tt.q}), "")
				if got != want {
					t.Errorf("got %+v\nwant %+v", got, want)
				}
			})
		})
	}
}

// TestLongContent holds that a check is over when the head is there.
func TestLongContent(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 1000))
		w.(http.Flusher).Flush()
		<-r.Context().Done() // the rest never comes
	})
	eachProtocol(t, func(t *testing.T, http2 bool) {
		wantWhy(t, ask(t, address, http2, patience, &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}}), "")
	})
}

func TestNoAnswerInTime(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	grpc := &snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}
	eachProtocol(t, func(t *testing.T, http2 bool) {
		err := ask(t, address, http2, 50*time.Millisecond, &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}})
		wantWhy(t, err, "no answer in time")
	})
	wantWhy(t, ask(t, address, true, 50*time.Millisecond, grpc), "no answer in time")

	// One that accepts and says nothing at all.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantWhy(t, ask(t, l.Addr().String(), true, 50*time.Millisecond, grpc), "no answer in time")
	wantWhy(t, ask(t, l.Addr().String(), false, patience, &snapshot.HealthCheck{}), "") // to be connected to is all there is to it
}

// TestNonsense is of endpoints that speak another protocol, or badly.
func TestNonsense(t *testing.T) {
	for name, says := range map[string]string{
		"nothing": "", "SSH": "SSH-2.0-x\r\n", "half a head": "HTTP/1.1 200 OK\r\nContent-", "two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
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
					c.Read(make([]byte, 1024))
					io.WriteString(c, says)
					c.Close()
				}
			}()
			defer func() { l.Close(); <-done }()
			eachProtocol(t, func(t *testing.T, http2 bool) {
				err := ask(t, l.Addr().String(), http2, patience, &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}})
				if err == nil || strings.Contains(err.Error(), "in time") {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// grpcAnswer writes a call's answer.
func grpcAnswer(w http.ResponseWriter, message []byte, status, text string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	w.Write(message)
	w.Header().Set("Grpc-Status", status)
	w.Header().Set("Grpc-Message", text)
}

// framed puts the length before a message.
func framed(message ...byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(b, message...)
}

func TestGRPC(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		why    string
	}{
		{"serving", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(1<<3, 1), "0", "") }, ""},
		{"with a field of the future", func(w http.ResponseWriter, r *http.Request) {
			grpcAnswer(w, framed(2<<3|2, 3, 'a', 'b', 'c', 1<<3, 1, 3<<3|5, 1, 2, 3, 4), "0", "")
		}, ""},
		{"unknown", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(), "0", "") }, "UNKNOWN"},
		{"not serving", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(1<<3, 2), "0", "") }, "NOT_SERVING"},
		{"service unknown", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(1<<3, 3), "0", "") }, "SERVICE_UNKNOWN"},
		{"another status", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(1<<3, 9), "0", "") }, "serving status 9"},
		{"unimplemented", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "12")
			w.Header().Set("Grpc-Message", "unknown service grpc.health.v1.Health")
		}, `grpc-status 12 UNIMPLEMENTED: "unknown service grpc.health.v1.Health"`},
		{"not found", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, nil, "5", "") }, "grpc-status 5 NOT_FOUND"},
		{"an error beside a message", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, framed(1<<3, 1), "14", "") }, "grpc-status 14"},
		{"no grpc-status", func(w http.ResponseWriter, r *http.Request) { w.Write(framed(1<<3, 1)) }, "without grpc-status"},
		{"no gRPC", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "status 404"},
		{"no message", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, nil, "0", "") }, "no HealthCheckResponse"},
		{"two messages", func(w http.ResponseWriter, r *http.Request) {
			grpcAnswer(w, append(framed(1<<3, 1), framed(1<<3, 1)...), "0", "")
		}, "no HealthCheckResponse"},
		{"too long", func(w http.ResponseWriter, r *http.Request) { grpcAnswer(w, make([]byte, 70<<10), "0", "") }, "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := serve(t, tt.answer)
			wantWhy(t, ask(t, address, true, patience, &snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}), tt.why)
		})
	}
}

func TestGRPCRequest(t *testing.T) {
	var path, kind, te string
	var body []byte
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path, kind, te = r.URL.Path, r.Header.Get("Content-Type"), r.Header.Get("Te")
		body, _ = io.ReadAll(r.Body)
		grpcAnswer(w, framed(1<<3, 1), "0", "")
	})
	service := strings.Repeat("shop.Orders", 20)
	for name, want := range map[string]string{
		"": "\x00\x00\x00\x00\x00", "shop.Orders": "\x00\x00\x00\x00\x0d\x0a\x0bshop.Orders",
		service: "\x00\x00\x00\x00\xdf\x0a\xdc\x01" + service,
	} {
		wantWhy(t, ask(t, address, true, patience, &snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{Service: name}}), "")
		if string(body) != want || path != "/grpc.health.v1.Health/Check" || kind != "application/grpc" || te != "trailers" {
			t.Errorf("%q: got %q, %s, %s, TE %s", name, body, path, kind, te)
		}
	}
}

func FuzzHealthResponse(f *testing.F) {
	f.Add(framed(1<<3, 1))
	f.Add(framed(2<<3|2, 3, 'a', 'b', 'c', 1<<3, 1, 3<<3|5, 1, 2, 3, 4))
	f.Add(framed(1<<3|1, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Add(framed(2<<3|2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		status, err := readHealthResponse(b)
		if err != nil {
			if status != 0 {
				t.Errorf("%v and %v", status, err)
			}
			return
		}
		// What is understood can be written again, and reads the same.
		again, err := readHealthResponse(framed(binary.AppendUvarint([]byte{1 << 3}, uint64(status))...))
		if err != nil || again != status {
			t.Errorf("%v, %v: want %v", again, err, status)
		}
	})
}
