package upstream

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/hangup"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/headgate/headgate/dataplane/deadline.(*janitor).run"))
}

// backend is an endpoint that does as its script says.
type backend struct {
	t        testing.TB
	l        net.Listener
	addr     netip.AddrPort
	conns    atomic.Int64 // accepted
	requests atomic.Int64
	// serve answers one request; false closes the connection.
	serve func(n int64, r *http.Request, c net.Conn) bool

	mu   sync.Mutex
	open map[net.Conn]bool
	wg   sync.WaitGroup
}

func ok(n int64, r *http.Request, c net.Conn) bool {
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	return err == nil
}

func newBackend(t testing.TB, serve func(n int64, r *http.Request, c net.Conn) bool) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, serve)
}

func serveOn(t testing.TB, l net.Listener, serve func(n int64, r *http.Request, c net.Conn) bool) *backend {
	addr, _ := netip.ParseAddrPort(l.Addr().String()) // none of a Unix socket
	b := &backend{t: t, l: l, serve: serve, open: map[net.Conn]bool{}, addr: addr}
	b.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.conns.Add(1)
			b.mu.Lock()
			b.open[c] = true
			b.mu.Unlock()
			b.wg.Go(func() { b.conn(c) })
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *backend) conn(c net.Conn) {
	defer func() {
		c.Close()
		b.mu.Lock()
		delete(b.open, c)
		b.mu.Unlock()
	}()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		if !b.serve(b.requests.Add(1), r, c) {
			return
		}
	}
}

func (b *backend) openConns() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open)
}

func (b *backend) close() {
	b.l.Close()
	b.mu.Lock()
	for c := range b.open {
		c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// awaitEnd waits until the idle connections have heard that their peer has
// closed: the kernel may take its time.
func awaitEnd(t testing.TB, c *Cluster) {
	t.Helper()
	heard := func(k *conn) bool {
		nc := k.client.NC
		if _, secure := nc.(*tls.Conn); !secure {
			nc = tls.Client(nc, &tls.Config{}) // through which New looks
		}
		return !hangup.New(nc).Quiet()
	}
	eventually(t, "idle connections have heard of their end", func() bool {
		for _, m := range c.state.Load().members {
			m.ep.mu.Lock()
			idle := m.ep.shared.idle
			ended := len(idle) == 0 || heard(idle[0])
			m.ep.mu.Unlock()
			if !ended {
				return false
			}
		}
		return true
	})
}

// refusing returns an address where nobody listens.
func refusing(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func endpoints(addrs ...netip.AddrPort) *snapshot.Endpoints {
	eps := &snapshot.Endpoints{}
	for _, a := range addrs {
		eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: a.Addr().String(), Port: a.Port()})
	}
	return eps
}

func newManagerFor(t testing.TB, opts Options) *Manager {
	opts.HTTP1 = &h1.ClientOptions{Poison: true}
	m := NewManager(opts)
	t.Cleanup(m.Close)
	return m
}

func cfg() *snapshot.Cluster { return &snapshot.Cluster{Key: "Service/shop/web/80", Protocol: "http1"} }

// content is a request body.
type content struct{ rest []byte }

func (c *content) Next() ([]byte, error) {
	if len(c.rest) == 0 {
		return nil, io.EOF
	}
	p := c.rest
	c.rest = nil
	return p, nil
}
func (c *content) Ready() bool { return true }
func (c *content) Close()      {}

func fill(ex *exchange.Exchange, method, body string) {
	ex.Reset()
	ex.Client = exchange.Nobody{}
	ex.ClientIP = netip.MustParseAddr("198.51.100.7")
	ex.Out.Method, ex.Out.Scheme, ex.Out.Authority, ex.Out.Host = method, "http", "web.example", "web.example"
	ex.Out.Path, ex.Out.Proto = "/", exchange.HTTP11
	if body != "" {
		ex.Out.Body, ex.Out.Length = &content{[]byte(body)}, int64(len(body))
	}
}

func newExchange(method, body string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	fill(ex, method, body)
	return ex
}

// finish reads the response to its end and releases the lease.
func finish(t testing.TB, ex *exchange.Exchange, lease exchange.Lease) string {
	t.Helper()
	var text strings.Builder
	for ex.Response.Body != nil {
		p, err := ex.Response.Body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("response body: %v", err)
			break
		}
		text.Write(p)
	}
	lease.Release()
	return text.String()
}

// send makes one exchange and wants it to succeed.
func send(t testing.TB, c *Cluster, method, body string) *exchange.Exchange {
	t.Helper()
	ex := newExchange(method, body)
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	if got := finish(t, ex, lease); ex.Response.Status != 200 || got != "ok" {
		t.Fatalf("%s: %d %q", method, ex.Response.Status, got)
	}
	return ex
}

// fail makes one exchange and wants it to fail upstream.
func fail(t testing.TB, c *Cluster, ex *exchange.Exchange) *exchange.UpstreamError {
	t.Helper()
	lease, err := c.RoundTrip(ex)
	if err == nil {
		finish(t, ex, lease)
		t.Fatal("it succeeded")
	}
	if lease != nil {
		t.Error("a lease came with the error")
	}
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		t.Fatalf("got %T: %v", err, err)
	}
	return up
}

func stateOf(t testing.TB, c *Cluster, addr netip.AddrPort) EndpointState {
	t.Helper()
	for _, s := range c.State() {
		if s.Address == addr.String() {
			return s
		}
	}
	t.Fatalf("%s is not in %v", addr, c.State())
	return EndpointState{}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr, b.addr))
	for i := range 20 {
		method, body := "GET", ""
		if i%3 == 0 {
			method, body = "POST", "content"
		}
		ex := send(t, c, method, body)
		if ex.Upstream.Tries != 1 || ex.Upstream.Cluster != "Service/shop/web/80" || ex.Upstream.Wait <= 0 ||
			ex.Upstream.Endpoint != a.addr.String() && ex.Upstream.Endpoint != b.addr.String() {
			t.Fatalf("%+v", ex.Upstream)
		}
	}
	for _, x := range []*backend{a, b} {
		s := stateOf(t, c, x.addr)
		if x.requests.Load() != 10 || x.conns.Load() != 1 {
			t.Errorf("%d requests on %d connections, want 10 on 1", x.requests.Load(), x.conns.Load())
		}
		want := EndpointState{Address: x.addr.String(), Weight: 1, SharePercent: 100, State: "ready", Idle: 1, Connections: 1, Requests: 10, Connects: 1, Latency: s.Latency}
		if !reflect.DeepEqual(s, want) || s.Latency <= 0 {
			t.Errorf("got %+v\nwant %+v", s, want)
		}
	}
}

func TestNoEndpoint(t *testing.T) {
	c := newManagerFor(t, Options{}).NewCluster(cfg(), nil)
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_endpoint" || up.Stage != exchange.Dialing {
		t.Errorf("%v", up)
	}
	c.SetEndpoints(&snapshot.Endpoints{Endpoints: []snapshot.Endpoint{{Address: "not an address", Port: 1}}})
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_endpoint" {
		t.Errorf("%v", up)
	}
}

// TestRemovedFinishes takes an endpoint away from under an exchange.
func TestRemovedFinishes(t *testing.T) {
	for _, how := range []string{"removed", "draining", "closed"} {
		t.Run(how, func(t *testing.T) {
			arrived, proceed := make(chan struct{}), make(chan struct{})
			slow := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool {
				if n == 1 {
					close(arrived)
					<-proceed
				}
				return ok(n, r, c)
			})
			other := newBackend(t, ok)
			c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(slow.addr))
			done := make(chan struct{})
			go func() {
				defer close(done)
				ex := newExchange("POST", "content")
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Error(err)
					return
				}
				finish(t, ex, lease)
			}()
			<-arrived
			eps := endpoints(other.addr)
			switch how {
			case "removed":
				c.SetEndpoints(eps)
			case "draining":
				eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: slow.addr.Addr().String(), Port: slow.addr.Port(), Draining: true})
				c.SetEndpoints(eps)
				if s := stateOf(t, c, slow.addr); s.State != "draining" || s.InFlight != 1 {
					t.Errorf("%+v", s)
				}
			case "closed":
				c.Close()
			}
			if how != "closed" {
				for range 10 {
					send(t, c, "GET", "")
				}
				if slow.requests.Load() != 1 {
					t.Error("it got new requests")
				}
			}
			close(proceed)
			<-done
			if how == "draining" {
				// Nothing else is left.
				c.SetEndpoints(&snapshot.Endpoints{Endpoints: eps.Endpoints[1:]})
				send(t, c, "GET", "")
				if slow.requests.Load() != 2 {
					t.Error("the last endpoint was not used because it drains")
				}
				return
			}
			eventually(t, "the connection is closed", func() bool { return slow.openConns() == 0 })
		})
	}
}

// TestIdentity holds that endpoints keep what they have over swaps.
func TestIdentity(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr))
	send(t, c, "GET", "")
	c.SetEndpoints(endpoints(a.addr, b.addr))
	other := cfg()
	other.Balance.Algorithm = "LeastRequest"
	c.Update(other)
	if s := stateOf(t, c, a.addr); s.Requests != 1 || s.Idle != 1 {
		t.Errorf("%+v", s)
	}
	for range 20 {
		send(t, c, "GET", "")
	}
	if a.conns.Load() != 1 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections", a.conns.Load(), b.conns.Load())
	}
	c.SetEndpoints(endpoints(b.addr))
	eventually(t, "the idle connection is closed", func() bool { return a.openConns() == 0 })
}

// TestSwapUnderLoad changes endpoints and configuration while requests run.
// None may fail: every endpoint serves all the time.
func TestSwapUnderLoad(t *testing.T) {
	var all []*backend
	for range 4 {
		all = append(all, newBackend(t, ok))
	}
	algorithms := []string{"RoundRobin", "LeastRequest", "IPHash", "RandomOfTwo"}
	c := newManagerFor(t, Options{SweepInterval: time.Millisecond}).NewCluster(cfg(), endpoints(all[0].addr))
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			ex := &exchange.Exchange{}
			for i := 0; !stop.Load(); i++ {
				if (g+i)%3 == 0 {
					fill(ex, "POST", "content")
				} else {
					fill(ex, "GET", "")
				}
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Error(err)
					return
				}
				if got := finish(t, ex, lease); got != "ok" {
					t.Errorf("got %q", got)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range 1000 {
		var addrs []netip.AddrPort
		for k, b := range all {
			if (i>>k)&1 == 1 || k == i%4 {
				addrs = append(addrs, b.addr)
			}
		}
		eps := endpoints(addrs...)
		eps.Endpoints[0].Draining = i%3 == 0
		c.SetEndpoints(eps)
		if i%10 == 0 {
			x := cfg()
			x.Balance.Algorithm = algorithms[i/10%4]
			x.Pool.MaxIdle = 1 + i%4
			c.Update(x)
		}
		c.State()
		for before := done.Load(); done.Load() == before && !t.Failed(); {
			time.Sleep(50 * time.Microsecond)
		}
	}
	stop.Store(true)
	wg.Wait()
	for _, s := range c.State() {
		if s.InFlight != 0 || s.Failures != 0 || s.Connections != s.Idle {
			t.Errorf("%+v", s)
		}
	}
}

// leanPeer is an endpoint that allocates nothing, as allocations are counted
// for the whole process.
func leanPeer(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for buf := make([]byte, 4096); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
					c.Write(answer)
				}
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// roundTrip is what the pipeline does for each request.
func roundTrip(t testing.TB, c *Cluster, ex *exchange.Exchange) {
	fill(ex, "GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := ex.Response.Body.Next(); err != nil {
			break
		}
	}
	lease.Release()
}

func TestNoAllocations(t *testing.T) {
	for _, algorithm := range balance.Algorithms() {
		x := cfg()
		x.Balance = snapshot.Balance{
			Algorithm: algorithm, HashBalanceFactor: 125, MaxRequests: 10,
			HashOn: []snapshot.HashKey{
				{Type: "Header", Name: "X-User"}, {Type: "QueryParam", Name: "user"},
				{Type: "Cookie", Name: "sid", SetCookie: &snapshot.HashCookie{MaxAge: time.Hour, Path: "/"}},
			},
		}
		peer := leanPeer(t) // which ends after the manager has closed its connection
		c := newManagerFor(t, Options{SweepInterval: time.Hour}).NewCluster(x, endpoints(peer))
		ex := &exchange.Exchange{}
		if n := testing.AllocsPerRun(500, func() { roundTrip(t, c, ex) }); n != 0 {
			t.Errorf("%s: %v allocations per round trip", algorithm, n)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	adaptive := cfg()
	adaptive.CircuitBreaker = &snapshot.CircuitBreaker{AdaptiveConcurrency: &snapshot.AdaptiveConcurrency{
		MinRequests: 3, MaxRequests: 1000, LatencyTolerancePercent: 50, MinLatencyInterval: 30 * time.Second,
	}}
	for name, to := range map[string]*snapshot.Cluster{"plain": cfg(), "adaptive concurrency": adaptive} {
		b.Run(name, func(b *testing.B) {
			peer := leanPeer(b)
			c := newManagerFor(b, Options{}).NewCluster(to, endpoints(peer))
			ex := &exchange.Exchange{}
			roundTrip(b, c, ex)
			b.ReportAllocs()
			for b.Loop() {
				roundTrip(b, c, ex)
			}
		})
	}
}
