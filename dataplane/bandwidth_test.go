package dataplane_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/ratelimit"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// slowed is a route whose content passes so fast in both directions.
func slowed(prefix, cluster string, limits ...ratelimit.BandwidthLimit) *snapshot.Route {
	r := to(prefix, cluster)
	r.Rule.Filters = []policy.Config{
		&ratelimit.Bandwidth{Direction: "Response", Limits: limits},
		&ratelimit.Bandwidth{Direction: "Request", Limits: limits},
	}
	return r
}

// TestBandwidth slows down what each protocol carries, both ways. How long it
// takes at least does not depend on the machine; that the timeouts for a silent
// client or upstream are shorter must not matter.
func TestBandwidth(t *testing.T) {
	const size, rate = 48 << 10, 24 << 10
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if r.Method == "POST" {
			fmt.Fprint(w, len(body))
			return
		}
		_, _ = w.Write(content)
	}))
	defer s.Close()
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	w := &world{}
	l := listener3(t, "l", "a.example.com")
	l.Client = &snapshot.Client{BodyTimeout: 1500 * time.Millisecond}
	limit := ratelimit.BandwidthLimit{Name: "each", Policy: "RateLimitPolicy/shop/slow", BytesPerSecond: rate, Burst: 1 << 10, EachRequest: true}
	w.port3(l).cluster("a", s.Listener.Addr().String()).
		host("l", "a.example.com", slowed("/slow", "a", limit), to("/", "a")).apply(t, p)
	secured := func(c *http.Client) *http.Client {
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.com"}
		return c
	}
	least := (size - 1<<10) * time.Second / rate
	var before atomic.Int32 // protocols in which a request has passed before the slow ones
	speak := func(major int, c *http.Client) {
		url := "https://" + address(t, p)
		if major == 3 {
			url = "https://a.example.com"
		}
		ask := func(method, path string) (string, error) {
			var body io.Reader
			if method == "POST" {
				body = bytes.NewReader(content)
			}
			req, err := http.NewRequest(method, url+path, body)
			if err != nil {
				return "", err
			}
			req.Host = "a.example.com"
			resp, err := c.Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if resp.ProtoMajor != major {
				err = fmt.Errorf("spoken in %s", resp.Proto)
			}
			return string(got), err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		over := make(chan struct{})
		for method, want := range map[string]string{"GET": string(content), "POST": fmt.Sprint(size)} {
			wg.Go(func() {
				began := time.Now()
				got, err := ask(method, "/slow")
				if took := time.Since(began); err != nil || got != want || took < least {
					t.Errorf("HTTP/%d, %s: %d bytes, %v, in %s, want %s or more", major, method, len(got), err, took, least)
				}
			})
		}
		// On the same connection, all else goes on meanwhile.
		go func() {
			wg.Wait()
			close(over)
		}()
		for passed := 0; passed < 10; {
			if got, err := ask("GET", "/"); err != nil || got != string(content) {
				t.Errorf("HTTP/%d meanwhile: %d bytes, %v", major, len(got), err)
			}
			passed++
			select {
			case <-over:
				return
			default:
			}
			if passed == 1 {
				before.Add(1)
			}
		}
	}
	var all sync.WaitGroup
	for major, c := range map[int]*http.Client{
		1: secured(client(t)), 2: secured(client2(t)), 3: client3(t, address3(t, p), &tls.Config{ServerName: "a.example.com"}),
	} {
		all.Go(func() { speak(major, c) })
	}
	all.Wait()
	if n := before.Load(); n != 3 {
		t.Errorf("in %d of 3 protocols all requests have waited for those that are slow", 3-n)
	}

	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	passed, waited := 0.0, 0.0
	for _, f := range families {
		for _, one := range f.GetMetric() {
			switch f.GetName() {
			case "headgate_bandwidth_bytes_total":
				passed += one.GetCounter().GetValue()
			case "headgate_bandwidth_wait_seconds_total":
				waited += one.GetCounter().GetValue()
			}
		}
	}
	if want := float64(3 * (2*size + len(fmt.Sprint(size)))); passed != want || waited <= 0 {
		t.Errorf("%v bytes counted, want %v; waiting for %vs", passed, want, waited)
	}
}

// TestSlowedClientLeaves gives back what a client had that does not wait.
func TestSlowedClientLeaves(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	r := slowed("/", "a", ratelimit.BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 1 << 10, Burst: 1})
	r.Rule.Filters = append(r.Rule.Filters, &ratelimit.Concurrency{Limits: []ratelimit.ConcurrencyLimit{{Name: "one", Key: "one", Requests: 1}}})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20)) // a quarter of an hour
	}))
	defer s.Close()
	w.port(plain()).cluster("a", s.Listener.Addr().String()).host(gateway, "*", r).apply(t, p)
	url := "http://" + address(t, p)
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d", name, resp.StatusCode)
		}
		if refused, body := get(t, client(t), url); refused.StatusCode != 429 {
			t.Errorf("%s: a second at a time: %d %q", name, refused.StatusCode, body)
		}
		resp.Body.Close()
		for deadline := time.Now().Add(20 * time.Second); p.InFlight() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the request is served to nobody", name)
			}
		}
	}
}
