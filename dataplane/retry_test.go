package dataplane_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// flaky fails as often as a request's query says, and in the way that it says,
// and then answers with its content. What is one request its Id says.
type flaky struct {
	mu   sync.Mutex
	seen map[string]int
}

func (f *flaky) tries(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[id]
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen[r.Header.Get("Id")]++
	n := f.seen[r.Header.Get("Id")]
	f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if times, _ := strconv.Atoi(r.URL.Query().Get("times")); n > times {
		fmt.Fprintf(w, "%s %d", r.Method, len(body))
		return
	}
	switch how := r.URL.Query().Get("how"); how {
	case "reset":
		if h, ok := w.(http.Hijacker); ok {
			c, _, err := h.Hijack()
			if err != nil {
				panic(err)
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			return
		}
		panic(http.ErrAbortHandler) // resets the stream
	case "late":
		<-r.Context().Done()
	default:
		code, _ := strconv.Atoi(how)
		w.WriteHeader(code)
		io.WriteString(w, "sorry")
	}
}

// TestRetry has clients and upstreams of both versions.
func TestRetry(t *testing.T) {
	f := &flaky{seen: map[string]int{}}
	old := httptest.NewServer(f)
	t.Cleanup(old.Close)
	p := start(t, dataplane.Options{})
	w := (&world{}).port(plain()).cluster("h1", old.Listener.Addr().String()).h2cCluster("h2", h2cBackend(t, f.ServeHTTP))
	for _, cluster := range []string{"h1", "h2"} {
		r := to("/", cluster)
		r.Rule.Retry = &snapshot.Retry{Codes: []int{500, 503}, Attempts: 2, Backoff: time.Millisecond}
		late := to("/late", cluster) // as many tries as a busy machine may need to be in time
		late.Rule.Retry, late.Rule.BackendTimeout = &snapshot.Retry{Attempts: 20}, 200*time.Millisecond
		w.host(gateway, cluster+".example.com", late, r)
	}
	w.apply(t, p)

	small, large := strings.Repeat("x", 60_000), strings.Repeat("x", 100_000)
	id := 0
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		for _, cluster := range []string{"h1", "h2"} {
			for _, tt := range []struct {
				method, path, body string
				status, tries      int
			}{
				{"GET", "/?how=500&times=0", "", 200, 1},
				{"GET", "/?how=500&times=2", "", 200, 3},
				{"GET", "/?how=500&times=3", "", 500, 3},
				{"GET", "/?how=502&times=1", "", 502, 1},
				{"POST", "/?how=503&times=2", small, 200, 3},
				{"POST", "/?how=503&times=2", large, 503, 1},
				{"GET", "/?how=reset&times=2", "", 200, 3},
				{"GET", "/?how=reset&times=9", "", 502, 3},
				{"PUT", "/?how=reset&times=1", small, 200, 2},
				{"POST", "/?how=reset&times=1", small, 502, 1},
				{"GET", "/late?how=late&times=1", "", 200, 2},
				{"POST", "/late?how=late&times=1", "", 504, 1},
			} {
				for _, known := range []bool{true, false} {
					if tt.body == "" && !known {
						continue
					}
					id++
					var body io.Reader
					if tt.body != "" {
						body = strings.NewReader(tt.body)
						if !known {
							body = io.MultiReader(body)
						}
					}
					req, err := http.NewRequest(tt.method, "http://"+address(t, p)+tt.path, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Host = cluster + ".example.com"
					req.Header.Set("Id", fmt.Sprint(id))
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					want := fmt.Sprintf("%s %d", tt.method, len(tt.body))
					got := f.tries(fmt.Sprint(id))
					switch {
					case tt.path == "/?how=reset&times=9" && cluster == "h1" && got > tt.tries && got <= 2*tt.tries:
						got = tt.tries // what a reused connection never carried does not count, RFC 9112 section 9.3.1
					case strings.HasPrefix(tt.path, "/late") && tt.status == 200:
						got = min(got, tt.tries)
					case strings.HasPrefix(tt.path, "/late"):
						got = max(got, tt.tries) // the time of a try may be over before the upstream has it
					}
					if err != nil || resp.StatusCode != tt.status || got != tt.tries || tt.status == 200 && string(text) != want {
						t.Errorf("%s to %s, %s %s, known length %v: %d after %d tries, %q, %v; want %d after %d",
							version, cluster, tt.method, tt.path, known, resp.StatusCode, got, text, err, tt.status, tt.tries)
					}
				}
			}
		}
	}
}

// TestRetryGoesElsewhere has one endpoint that always fails, and one that does not.
func TestRetryGoesElsewhere(t *testing.T) {
	var failed atomic.Int64
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failed.Add(1)
		w.WriteHeader(503)
	}))
	t.Cleanup(bad.Close)
	p := start(t, dataplane.Options{})
	r := to("/", "a")
	r.Rule.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 1}
	w := (&world{}).port(plain()).cluster("a", bad.Listener.Addr().String(), backend(t, "good"))
	w.host(gateway, "*", r).apply(t, p)
	c := client(t)
	for range 20 {
		if resp, _ := get(t, c, "http://"+address(t, p)+"/"); resp.StatusCode != 200 {
			t.Fatalf("%d", resp.StatusCode)
		}
	}
	if failed.Load() == 0 {
		t.Error("the endpoint that fails was never tried")
	}
	if n := connections(t, p, bad.Listener.Addr().String()); n != 1 {
		t.Errorf("%d connections to the endpoint that fails, one after the other", n)
	}
	// With no other, the same one is tried again.
	w.endpoints("a", bad.Listener.Addr().String()).apply(t, p)
	failed.Store(0)
	if resp, _ := get(t, c, "http://"+address(t, p)+"/"); resp.StatusCode != 503 {
		t.Errorf("%d", resp.StatusCode)
	}
	if n := failed.Load(); n != 2 {
		t.Errorf("%d tries", n)
	}
}

// connections is how many connections to an endpoint were made so far.
func connections(t *testing.T, p *dataplane.Proxy, addr string) uint64 {
	t.Helper()
	for _, cluster := range p.Clusters() {
		for _, e := range cluster.Endpoints {
			if e.Address == addr {
				return e.Connects
			}
		}
	}
	t.Fatalf("no endpoint %s", addr)
	return 0
}

// TestRetryEndsWithItsClient: nobody waits for who has gone.
func TestRetryEndsWithItsClient(t *testing.T) {
	tried := make(chan bool, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(503)
		tried <- true
	}))
	t.Cleanup(s.Close)
	p := start(t, dataplane.Options{})
	r := to("/", "a")
	r.Rule.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Hour}
	(&world{}).port(plain()).cluster("a", s.Listener.Addr().String()).host(gateway, "*", r).apply(t, p)
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		t.Run(version, func(t *testing.T) {
			c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if err == nil {
					_ = nc.(*net.TCPConn).SetLinger(0) // leaves with a reset, which is seen at once
				}
				return nc, err
			}
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, "PUT", "http://"+address(t, p)+"/", bytes.NewReader([]byte("content")))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() {
				resp, err := c.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				done <- err
			}()
			<-tried
			cancel()
			if err := <-done; err == nil {
				t.Error("it was answered")
			}
			for until := time.Now().Add(20 * time.Second); p.InFlight() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatal("it still waits for its next try")
				}
			}
		})
	}
}

// TestRetryBudget fails every request for a while, and counts what the upstream gets.
func TestRetryBudget(t *testing.T) {
	var got atomic.Int64
	upstream := h1Backend(t, func(w http.ResponseWriter, _ *http.Request) {
		got.Add(1)
		w.WriteHeader(503)
	})
	p := start(t, dataplane.Options{})
	r := to("/", "web")
	r.Rule.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 3}
	w := (&world{}).port(plain()).host(gateway, "*", r).cluster("web", upstream)
	cfg, _ := w.snap.Clusters.Get("web")
	cfg.RetryBudget = &snapshot.RetryBudget{Percent: 20, Interval: time.Hour, MinRetryRate: snapshot.RequestRate{Count: 1, Interval: time.Hour}}
	w.apply(t, p)
	const requests = 100
	c := client(t)
	for range requests {
		resp, _ := get(t, c, "http://"+address(t, p)+"/")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
	}
	if n := got.Load(); n != requests+requests/5 {
		t.Errorf("the upstream got %d for %d requests", n, requests)
	}
}

// TestRetryGRPC makes calls that fail at first, with a message and without.
func TestRetryGRPC(t *testing.T) {
	var calls atomic.Int64
	upstream := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		message, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		switch {
		case n > 2:
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(message)
			w.Header().Set("Grpc-Status", "0")
		case r.URL.Path == "/shop.Orders/Watch":
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = io.WriteString(w, "one")
			w.Header().Set("Grpc-Status", "14")
		default:
			w.Header().Set("Grpc-Status", "14") // nothing but trailers
		}
	})
	p := start(t, dataplane.Options{})
	r := to("/", "rpc")
	r.Rule.Backends[0].Retry = &snapshot.Retry{GRPCCodes: []int{14}, Attempts: 3}
	w := (&world{}).port(plain()).host(gateway, "*", r).h2cCluster("rpc", upstream)
	w.apply(t, p)
	for _, tt := range []struct {
		method, status, message string
		calls                   int64
	}{
		{"/shop.Orders/Get", "0", "hello", 3},
		{"/shop.Orders/Watch", "14", "one", 1},
	} {
		calls.Store(0)
		req, err := http.NewRequest("POST", "http://"+address(t, p)+tt.method, strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := client2(t).Do(req)
		got := text(t, resp, err)
		if err == nil && (got != tt.message || resp.Trailer.Get("Grpc-Status") != tt.status || calls.Load() != tt.calls) {
			t.Errorf("%s: %q, status %q after %d calls", tt.method, got, resp.Trailer.Get("Grpc-Status"), calls.Load())
		}
	}
}
