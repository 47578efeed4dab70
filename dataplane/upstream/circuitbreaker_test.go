package upstream

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// long is a time that nothing here takes.
const long = time.Minute

// breakerCfg is a cluster whose endpoints take so many requests each, and whose
// queue has so many places.
func breakerCfg(each, queue int) *snapshot.Cluster {
	c := cfg()
	c.CircuitBreaker = &snapshot.CircuitBreaker{
		PerEndpoint: snapshot.PerEndpointBounds{MaxRequests: each},
		Queue:       snapshot.RequestQueue{MaxRequests: queue, Timeout: long},
	}
	return c
}

// hold makes an exchange whose response is not read yet: it stays in flight
// until the func is called.
func hold(t testing.TB, c *Cluster) (ex *exchange.Exchange, done func()) {
	t.Helper()
	ex = newExchange("GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	return ex, func() { finish(t, ex, lease) }
}

// outcome is what a request came to that was sent from another goroutine.
type outcome struct {
	ex   *exchange.Exchange
	done func()
	err  error
}

// start sends a request from another goroutine.
func start(t testing.TB, c *Cluster, ex *exchange.Exchange) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		lease, err := c.RoundTrip(ex)
		out <- outcome{ex, func() { finish(t, ex, lease) }, err}
	}()
	return out
}

// ask sends a request and waits until it is in the queue.
func ask(t testing.TB, c *Cluster, ex *exchange.Exchange) <-chan outcome {
	t.Helper()
	before := c.Circuit().Queued
	out := start(t, c, ex)
	eventually(t, "the request is in the queue", func() bool { return c.Circuit().Queued > before })
	return out
}

func get(t testing.TB, from <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-from:
		return o
	case <-time.After(long):
		t.Fatal("the request waits for ever")
		return outcome{}
	}
}

func refusals(c *Cluster, reason string) uint64 { return c.Circuit().Refused[reason] }

// TestCircuitOpens holds that an endpoint at its bound is not picked, and that
// a request is refused at once if all are.
func TestCircuitOpens(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(breakerCfg(2, 0), endpoints(a.addr, b.addr))
	var held []func()
	for range 4 {
		_, done := hold(t, c)
		held = append(held, done)
	}
	for _, s := range c.State() {
		if s.InFlight != 2 || s.MaxInFlight != 2 || s.State != "full" {
			t.Errorf("%+v", s)
		}
	}
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" || up.Stage != exchange.Dialing {
		t.Errorf("%+v", up)
	}
	if n := refusals(c, "full"); n != 1 {
		t.Errorf("%d refusals are counted", n)
	}
	held[0]()
	send(t, c, "GET", "")
	for _, done := range held[1:] {
		done()
	}
	if s := c.Circuit(); s.InFlight != 0 || s.Waits != 0 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
}

// TestCircuitOfCluster bounds all endpoints together.
func TestCircuitOfCluster(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	to := cfg()
	to.CircuitBreaker = &snapshot.CircuitBreaker{MaxRequests: 3}
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr, b.addr))
	var held []func()
	for range 3 {
		_, done := hold(t, c)
		held = append(held, done)
	}
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" {
		t.Error(up)
	}
	// Without its circuit breaker the cluster takes more.
	c.Update(cfg())
	send(t, c, "GET", "")
	if c.Circuit() != nil {
		t.Error("the circuit breaker is still there")
	}
	for _, done := range held {
		done()
	}
}

// TestBoundIsKept sends more at a time than may be in flight, and counts at the
// endpoint.
func TestBoundIsKept(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	a := newBackend(t, func(n int64, r *http.Request, nc net.Conn) bool {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		now--
		mu.Unlock()
		return ok(n, r, nc)
	})
	to := breakerCfg(0, 1000)
	to.CircuitBreaker.PerEndpoint.MaxConnections = 3
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				send(t, c, "GET", "")
			}
		})
	}
	wg.Wait()
	if most > 3 || a.conns.Load() > 3 {
		t.Errorf("%d requests at a time, on %d connections", most, a.conns.Load())
	}
	if s := c.Circuit(); s.InFlight != 0 || s.Queued != 0 || a.requests.Load() != 320 {
		t.Errorf("%+v after %d requests", s, a.requests.Load())
	}
}

// TestQueueInOrder holds that each place that becomes free is given to one
// request, the one that has waited for the longest.
func TestQueueInOrder(t *testing.T) {
	a := newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(breakerCfg(1, 3), endpoints(a.addr))
	_, done := hold(t, c)
	var waiting []<-chan outcome
	for range 3 {
		waiting = append(waiting, ask(t, c, newExchange("GET", "")))
	}
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" || refusals(c, "queue_full") != 1 {
		t.Errorf("%v, %+v", up, c.Circuit())
	}
	for i, from := range waiting {
		done()
		o := get(t, from)
		if o.err != nil {
			t.Fatal(o.err)
		}
		if s := c.Circuit(); s.Queued != 2-i || s.InFlight != 1 || s.Waits != uint64(i+1) {
			t.Errorf("after %d: %+v", i+1, s)
		}
		for _, later := range waiting[i+1:] {
			if len(later) > 0 {
				t.Error("a later one was served too")
			}
		}
		done = o.done
	}
	done()
}

// TestQueueUnderOverload holds that the newest goes first, and has room in the
// queue, as soon as the oldest has waited too long.
func TestQueueUnderOverload(t *testing.T) {
	a := newBackend(t, ok)
	var now clock
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(breakerCfg(1, 2), endpoints(a.addr))
	_, done := hold(t, c)
	oldest, older := ask(t, c, newExchange("GET", "")), ask(t, c, newExchange("GET", ""))
	now.advance(long/2 + 1)
	newest := start(t, c, newExchange("GET", ""))
	if o := get(t, oldest); !errors.Is(o.err, errCircuitOpen) || refusals(c, "queue_full") != 1 {
		t.Errorf("the oldest: %v, %+v", o.err, c.Circuit())
	}
	done()
	o := get(t, newest)
	if o.err != nil || len(older) > 0 {
		t.Fatalf("the newest was not served first: %v", o.err)
	}
	o.done()
	if o = get(t, older); o.err != nil {
		t.Fatal(o.err)
	}
	o.done()
}

// TestQueueLeft holds that nobody waits for longer than the queue's timeout, the
// request's time or its client.
func TestQueueLeft(t *testing.T) {
	a := newBackend(t, ok)
	m := newManagerFor(t, Options{})
	to := breakerCfg(1, 10)
	c := m.NewCluster(to, endpoints(a.addr))
	_, done := hold(t, c)

	late := newExchange("GET", "")
	late.Deadline = time.Now().Add(500 * time.Millisecond) // it is in the queue by then
	if up := fail(t, c, late); up.Reason != "timeout" {
		t.Errorf("beyond its deadline: %v", up)
	}
	gone := newExchange("GET", "")
	turn := gone.Turn()
	from := ask(t, c, gone)
	gone.Abandon(turn)
	if o := get(t, from); o.err != exchange.ErrAbandoned {
		t.Errorf("abandoned: %v", o.err)
	}
	short := breakerCfg(1, 10)
	short.CircuitBreaker.Queue.Timeout = 20 * time.Millisecond
	c.Update(short)
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" || refusals(c, "queue_timeout") != 1 {
		t.Errorf("beyond the timeout: %v, %+v", up, c.Circuit())
	}
	if s := c.Circuit(); s.Queued != 0 || s.Waits != 3 || s.InFlight != 1 {
		t.Errorf("%+v", s)
	}
	done()
	send(t, c, "GET", "")
}

// TestQueueHearsOfEndpoints holds that who waits has the room of a new endpoint,
// and is answered when there is none left.
func TestQueueHearsOfEndpoints(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(breakerCfg(1, 10), endpoints(a.addr))
	_, done := hold(t, c)
	first, second := ask(t, c, newExchange("GET", "")), ask(t, c, newExchange("GET", ""))
	c.SetEndpoints(endpoints(a.addr, b.addr))
	o := get(t, first)
	if o.err != nil || o.ex.Upstream.Endpoint != b.addr.String() {
		t.Fatalf("%v, at %s", o.err, o.ex.Upstream.Endpoint)
	}
	c.SetEndpoints(nil)
	if o := get(t, second); !errors.Is(o.err, errNoEndpoint) {
		t.Errorf("%v", o.err)
	}
	o.done()
	done()
}

// TestFullIsNotEjected holds that a request rather waits for an endpoint with no
// room than going to one that is out of use.
func TestFullIsNotEjected(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	var now clock
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(breakerCfg(1, 10), endpoints(a.addr, b.addr))
	st := c.state.Load()
	out := st.find(b.addr)
	c.refused(st, out, false, errors.New("a test"))
	ex, done := hold(t, c)
	if ex.Upstream.Endpoint != a.addr.String() {
		t.Fatal("the endpoint is not ejected")
	}
	from := ask(t, c, newExchange("GET", ""))
	done()
	o := get(t, from)
	if o.err != nil || o.ex.Upstream.Endpoint != a.addr.String() {
		t.Fatalf("%v, at %s", o.err, o.ex.Upstream.Endpoint)
	}
	o.done()
}

// TestQueueOfSessions holds that a strict session waits for its endpoint and
// lets others by; any other goes where there is room.
func TestQueueOfSessions(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(breakerCfg(1, 10), endpoints(a.addr, b.addr))
	at := func(addr netip.AddrPort, strict bool) *exchange.Exchange {
		ex := newExchange("GET", "")
		ex.Session = exchange.Session{Endpoint: addr, Strict: strict}
		return ex
	}
	lease, err := c.RoundTrip(at(a.addr, true))
	if err != nil {
		t.Fatal(err)
	}
	strict := ask(t, c, at(a.addr, true))
	lax := get(t, start(t, c, at(a.addr, false)))
	if lax.err != nil || lax.ex.Upstream.Endpoint != b.addr.String() {
		t.Fatalf("%v, at %s", lax.err, lax.ex.Upstream.Endpoint)
	}
	lax.done()
	lease.Release()
	o := get(t, strict)
	if o.err != nil || o.ex.Upstream.Endpoint != a.addr.String() {
		t.Fatalf("%v, at %s", o.err, o.ex.Upstream.Endpoint)
	}
	o.done()
}

// TestCircuitOfConnections bounds those that are passed on unread.
func TestCircuitOfConnections(t *testing.T) {
	a := newBackend(t, ok)
	to := breakerCfg(0, 10)
	to.Protocol, to.CircuitBreaker.PerEndpoint.MaxConnections = "tcp", 1
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr))
	from := &exchange.Conn{Remote: netip.MustParseAddrPort("198.51.100.7:4000")}
	nc, release, err := c.Connect(from)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Connect(from); !errors.Is(err, errCircuitOpen) || refusals(c, "full") != 1 {
		t.Errorf("%v, %+v", err, c.Circuit())
	}
	nc.Close()
	release()
	nc, release, err = c.Connect(from)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	release()
}

// TestIdleMakesRoom holds that a client's idle connection, which nobody else can
// use, does not keep others from having one.
func TestIdleMakesRoom(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := serveOn(t, headed{l}, ok)
	to := breakerCfg(0, 0)
	to.ProxyProtocol, to.CircuitBreaker.PerEndpoint.MaxConnections = "V1", 1
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr))
	for _, client := range []string{"203.0.113.7:4000", "203.0.113.8:4000"} {
		ex := newExchange("GET", "")
		ex.Conn = &exchange.Conn{Remote: netip.MustParseAddrPort(client), Local: netip.MustParseAddrPort("192.0.2.1:443")}
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		finish(t, ex, lease)
		if s := c.State()[0]; s.Connections != 1 || s.Idle != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// TestCircuitOfStreams bounds those of an HTTP/2 endpoint: by requests, and by
// as many as its connections carry.
func TestCircuitOfStreams(t *testing.T) {
	let := make(chan struct{})
	a := newH2Backend(t, 2, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			<-let
		}
	})
	to := breakerCfg(0, 10)
	to.Protocol, to.CircuitBreaker.PerEndpoint.MaxConnections = "h2c", 1
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr))
	lease, err := c.RoundTrip(newExchange("GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	eventually(t, "its SETTINGS are known", func() bool { return c.State()[0].MaxInFlight == 2 })
	var held []<-chan outcome
	for range 2 {
		ex := newExchange("GET", "")
		ex.Out.Path = "/held"
		held = append(held, start(t, c, ex))
	}
	eventually(t, "two are in flight", func() bool { return c.Circuit().InFlight == 2 })
	third := ask(t, c, newExchange("GET", ""))
	close(let)
	for _, from := range append(held, third) {
		o := get(t, from)
		if o.err != nil {
			t.Fatal(o.err)
		}
		o.done()
	}
	if s := c.Circuit(); s.InFlight != 0 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
}

// TestQueueLosesNobody has requests that end in all ways while endpoints come and
// go: nothing is counted for ever, and nobody waits for what there is.
func TestQueueLosesNobody(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	to := breakerCfg(2, 1000)
	to.CircuitBreaker.MaxRequests = 3
	c := newManagerFor(t, Options{SweepInterval: time.Hour}).NewCluster(to, endpoints(a.addr, b.addr))
	var wg sync.WaitGroup
	for worker := range 12 {
		wg.Go(func() {
			for n := range 60 {
				ex := newExchange("GET", "")
				if (worker+n)%5 == 0 {
					ex.Abandon(ex.Turn())
				}
				if (worker+n)%3 == 0 {
					ex.Session = exchange.Session{Endpoint: a.addr, Strict: n%2 == 0}
				}
				if lease, err := c.RoundTrip(ex); err == nil {
					finish(t, ex, lease)
				} else if up := (*exchange.UpstreamError)(nil); errors.As(err, &up) {
					t.Error(err)
				}
			}
		})
	}
	for n := range 40 {
		c.SetEndpoints(endpoints([][]netip.AddrPort{{a.addr, b.addr}, {a.addr}}[n%2]...))
	}
	wg.Wait()
	if s := c.Circuit(); s.InFlight != 0 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
}

func TestMaxRetries(t *testing.T) {
	to := cfg()
	to.CircuitBreaker = &snapshot.CircuitBreaker{MaxRetries: 1}
	c := newManagerFor(t, Options{}).NewCluster(to, nil)
	if !c.BeginRetry() || c.BeginRetry() || refusals(c, "max_retries") != 1 {
		t.Errorf("%+v", c.Circuit())
	}
	c.EndRetry()
	if !c.BeginRetry() {
		t.Error("a retry that is over still counts")
	}
	c.EndRetry()
}

// TestCircuitBreakerAllocates holds that bounds cost no garbage where nothing waits.
func TestCircuitBreakerAllocates(t *testing.T) {
	addr := newBackend(t, ok).addr
	of := func(cfg *snapshot.Cluster) float64 {
		c := newManagerFor(t, Options{}).NewCluster(cfg, endpoints(addr))
		st := c.state.Load()
		return testing.AllocsPerRun(1000, func() {
			ep, _, _ := c.admit(st, exchange.Session{}, wish{})
			ep.end()
		})
	}
	if n := of(breakerCfg(2, 2)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
