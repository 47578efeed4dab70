package load

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// server answers, and says in the log of the test nothing of what clients do.
func server(t *testing.T, h http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, roots
}

// until waits for a state of a load's report.
func until(t *testing.T, l *Load, what string, condition func(Report) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(l.Report()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, l.Report())
		}
	}
}

func TestLoadFindsNothingWrong(t *testing.T) {
	s, roots := server(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); r.Method == "POST" && string(body) != content {
			w.WriteHeader(http.StatusTeapot)
		}
		io.WriteString(w, r.Proto)
	})
	for name, o := range map[string]Options{
		"HTTP/1.1":       {},
		"HTTP/1.1 fresh": {Fresh: true},
		"HTTP/1.1 POST":  {Method: "POST"},
		"HTTP/2.0":       {HTTP2: true},
		"HTTP/2.0 POST":  {HTTP2: true, Method: "POST"},
	} {
		t.Run(name, func(t *testing.T) {
			o.Address, o.Host, o.TLS = s.Listener.Addr().String(), "example.com", &tls.Config{RootCAs: roots}
			o.Connections, o.Pause = 3, time.Millisecond
			l := Start(o)
			until(t, l, "requests", func(r Report) bool { return r.Requests >= 20 })
			r := l.Stop()
			if len(r.Failures) > 0 || len(r.Cut) > 0 || r.Announced > 0 || r.By[name[:8]] != r.Requests {
				t.Errorf("%s, by %v", r, r.By)
			}
			if o.Fresh != (r.Connections >= r.Requests) {
				t.Errorf("%d connections for %d requests", r.Connections, r.Requests)
			}
		})
	}
}

// Every way to fail is told from the others, and none of it is tried again.
func TestLoadFindsWhatIsWrong(t *testing.T) {
	var mode atomic.Value
	mode.Store("fine")
	s, roots := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch mode.Load() {
		case "status":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "cut":
			panic(http.ErrAbortHandler)
		case "close":
			w.Header().Set("Connection", "close") // GOAWAY in HTTP/2
		}
	})
	s.Config.ErrorLog = nil
	for _, h2 := range []bool{false, true} {
		l := Start(Options{Address: s.Listener.Addr().String(), Host: "example.com", TLS: &tls.Config{RootCAs: roots}, HTTP2: h2, Pause: time.Millisecond})
		for m, seen := range map[string]func(Report) bool{
			"status": func(r Report) bool { return r.Failed(Response) > 0 },
			"cut":    func(r Report) bool { return r.Failed(Exchange) > 0 },
			"close":  func(r Report) bool { return r.Announced > 0 },
		} {
			mode.Store(m)
			until(t, l, m, seen)
			mode.Store("fine")
		}
		if r := l.Stop(); r.Failed(Connect) > 0 {
			t.Error(r)
		}
	}
}

func TestLoadFindsCutConnections(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s, roots := server(t, func(http.ResponseWriter, *http.Request) {})
		l := Start(Options{Address: s.Listener.Addr().String(), Host: "example.com", TLS: &tls.Config{RootCAs: roots}, HTTP2: h2, Pause: 10 * time.Second})
		until(t, l, "a request", func(r Report) bool { return r.Requests == 1 })
		s.CloseClientConnections()
		until(t, l, "the cut", func(r Report) bool { return len(r.Cut) == 1 })
		if r := l.Stop(); len(r.Failures) > 0 {
			t.Error(r)
		}
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	l := Start(Options{Address: nobody.Addr().String(), Host: "example.com"})
	until(t, l, "a refused connection", func(r Report) bool { return r.Failed(Connect) > 0 })
	l.Stop()
}
