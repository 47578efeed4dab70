package pipeline

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// tracks is a cluster whose requests come out as the test says, each when it says so.
type tracks struct {
	fake
	t      *testing.T
	begun  chan *track
	early  []*track // that have begun, and are not next yet
	nth    int      // is next
	refuse bool     // hedges
	delay  time.Duration

	mu       sync.Mutex
	answered int
	under    int // hedges that were allowed and have not ended
}

// track is a request that is waiting for its outcome.
type track struct {
	n       int // as they came
	ex      *exchange.Exchange
	outcome chan try
	gone    chan struct{} // closed when it was given up
	body    string
	c       *tracks
}

func (k *track) Close()   { close(k.gone) }
func (k *track) Release() { k.c.mu.Lock(); k.c.released++; k.c.mu.Unlock() }

func (c *tracks) AllowHedge() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.refuse {
		c.under++
	}
	return !c.refuse
}

func (c *tracks) EndRetry()                    { c.mu.Lock(); c.under--; c.mu.Unlock() }
func (c *tracks) HedgeDelay(int) time.Duration { return c.delay }
func (c *tracks) Answered(time.Duration)       { c.mu.Lock(); c.answered++; c.mu.Unlock() }

func (c *tracks) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	c.mu.Lock()
	n := len(c.requests)
	c.requests = append(c.requests, strings.Join(ex.Avoid, " "))
	c.mu.Unlock()
	ex.Upstream.Cluster, ex.Upstream.Endpoint = "a", fmt.Sprintf("192.0.2.%d:80", n+1)
	ex.Upstream.Tries++
	k := &track{n: n, ex: ex, outcome: make(chan try, 1), gone: make(chan struct{}), c: c}
	for ex.Out.Body != nil {
		part, err := ex.Out.Body.Next()
		if err != nil {
			break
		}
		k.body += string(part)
	}
	if !ex.Await(k) {
		return nil, exchange.ErrAbandoned
	}
	c.begun <- k
	var one try
	var err error
	select {
	case one = <-k.outcome:
		err = one.err
	case <-k.gone:
		err = exchange.ErrAbandoned
	}
	ex.Await(nil)
	if err != nil {
		return nil, err
	}
	for _, f := range one.fields {
		name, value, _ := strings.Cut(f, ": ")
		ex.Response.Fields.Add(name, value)
	}
	ex.Response.Status, ex.Response.Proto, ex.Response.Length = one.status, exchange.HTTP11, -1
	ex.Response.Body = &content{parts: []string{ex.Upstream.Endpoint}}
	return k, nil
}

// next waits for the next request, in the order in which they came.
func (c *tracks) next() *track {
	c.t.Helper()
	if i := slices.IndexFunc(c.early, func(k *track) bool { return k.n == c.nth }); i >= 0 {
		c.nth++
		return c.early[i]
	}
	select {
	case k := <-c.begun:
		c.early = append(c.early, k)
		return c.next()
	case <-time.After(20 * time.Second):
		c.t.Fatal("no request is sent")
		return nil
	}
}

// newTracks is a bench whose backend is hedged as h says, with an exchange that is served.
func newTracks(t *testing.T, h *snapshot.Hedge, ex *exchange.Exchange, edit ...func(*snapshot.Route, *tracks)) (*bench, *tracks, <-chan struct{}) {
	c := &tracks{t: t, begun: make(chan *track, 8)}
	b := newBench(t, func(o *Options) {
		o.NewCluster = func(cfg *snapshot.Cluster, _ *snapshot.Endpoints) Cluster {
			if cfg.Key != "a" {
				return &fake{cfg: cfg}
			}
			c.cfg = cfg
			return c
		}
	})
	b.host(gateway, "*", to("a", func(r *snapshot.Route) {
		r.Rule.Backends[0].Hedge = h
		for _, e := range edit {
			e(r, c)
		}
	}))
	b.must()
	served := make(chan struct{})
	go func() {
		defer close(served)
		b.Serve(ex)
	}()
	return b, c, served
}

// over ends the exchange, and sees that nothing is left of it.
func (c *tracks) over(b *bench, ex *exchange.Exchange, served <-chan struct{}, responses int) (status int, text string) {
	c.t.Helper()
	select {
	case <-served:
	case <-time.After(20 * time.Second):
		c.t.Fatal("the request is not answered")
	}
	status = ex.Response.Status
	for ex.Response.Body != nil {
		part, err := ex.Response.Body.Next()
		if err != nil {
			break
		}
		text += string(part)
	}
	b.Done(ex, nil)
	b.copies.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released != responses || c.under != 0 {
		c.t.Errorf("%d leases of %d were released, %d hedges have not ended", c.released, responses, c.under)
	}
	return status, text
}

const soon = time.Millisecond

var (
	fine    = try{status: 200}
	sorry   = try{status: 503}
	noReply = try{err: failed(exchange.Sending, "reset")}
)

// TestHedge has what a request and its hedge come to, in their order.
func TestHedge(t *testing.T) {
	type event struct {
		who int // 0 for the request, 1 for its hedge
		is  try
	}
	for _, tt := range []struct {
		name      string
		events    []event
		status    int
		text      string // which endpoint has answered
		responses int
	}{
		{"the request is faster", []event{{0, fine}}, 200, "192.0.2.1:80", 1},
		{"the hedge is faster", []event{{1, fine}}, 200, "192.0.2.2:80", 1},
		{"the hedge is faster with an error of the client's", []event{{1, try{status: 404}}}, 404, "192.0.2.2:80", 1},
		{"the request fails, the hedge does not", []event{{0, noReply}, {1, fine}}, 200, "192.0.2.2:80", 1},
		{"the hedge fails, the request does not", []event{{1, noReply}, {0, fine}}, 200, "192.0.2.1:80", 1},
		{"the request is an error, the hedge is not", []event{{0, sorry}, {1, fine}}, 200, "192.0.2.2:80", 2},
		{"the hedge is an error, the request is not", []event{{1, sorry}, {0, fine}}, 200, "192.0.2.1:80", 2},
		{"both are errors", []event{{1, sorry}, {0, try{status: 500}}}, 500, "192.0.2.1:80", 2},
		{"both are errors, the other way round", []event{{0, try{status: 500}}, {1, sorry}}, 500, "192.0.2.1:80", 2},
		{"the request fails, the hedge is an error", []event{{0, noReply}, {1, sorry}}, 503, "192.0.2.2:80", 1},
		{"the hedge is an error, the request fails", []event{{1, sorry}, {0, noReply}}, 503, "192.0.2.2:80", 1},
		{"both fail", []event{{0, noReply}, {1, noReply}}, 502, "", 0},
		{"both fail, the other way round", []event{{1, noReply}, {0, noReply}}, 502, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ex := request("GET /")
			b, c, served := newTracks(t, &snapshot.Hedge{After: soon, MaxHedges: 1}, ex)
			both := []*track{c.next(), c.next()}
			if both[0].ex != ex || both[1].ex == ex {
				t.Fatal("the hedge is not a copy")
			}
			for _, e := range tt.events {
				both[e.who].outcome <- e.is
				if e.who == 1 && e.is.status != 200 && e.is.status != 404 {
					awaitEnds(t, c, 0) // so that the next event is behind this
				}
			}
			status, text := c.over(b, ex, served, tt.responses)
			if tt.text == "" {
				text = ""
			}
			if status != tt.status || text != tt.text || ex.Upstream.Hedges != 1 {
				t.Errorf("%d from %s, %d hedges; want %d from %s", status, text, ex.Upstream.Hedges, tt.status, tt.text)
			}
			if got := c.seen(); !slices.Equal(got, []string{"", "192.0.2.1:80"}) {
				t.Errorf("avoided: %q", got)
			}
			if tt.text != "" && ex.Upstream.Endpoint != tt.text {
				t.Errorf("logged as from %s", ex.Upstream.Endpoint)
			}
		})
	}
}

// awaitEnds waits until so many hedges are under way.
func awaitEnds(t *testing.T, c *tracks, n int) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		c.mu.Lock()
		under := c.under
		c.mu.Unlock()
		if under == n {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d hedges are under way", under)
		}
	}
}

func TestHedgeTwice(t *testing.T) {
	ex := request("GET /")
	b, c, served := newTracks(t, &snapshot.Hedge{After: soon, MaxHedges: 2}, ex)
	c.next()
	c.next()
	c.next().outcome <- fine
	if status, text := c.over(b, ex, served, 1); status != 200 || text != "192.0.2.3:80" || ex.Upstream.Hedges != 2 {
		t.Errorf("%d from %s, %d hedges", status, text, ex.Upstream.Hedges)
	}
	if got := c.seen(); !slices.Equal(got, []string{"", "192.0.2.1:80", "192.0.2.1:80 192.0.2.2:80"}) {
		t.Errorf("avoided: %q", got)
	}
}

// TestHedgeWithContent sends all of it, as long as it is kept.
func TestHedgeWithContent(t *testing.T) {
	ex, _ := withBody(request("PUT /"), 6, "abc", "def")
	b, c, served := newTracks(t, &snapshot.Hedge{After: soon, MaxHedges: 1}, ex)
	first, second := c.next(), c.next()
	second.outcome <- try{status: 200, fields: []string{"X-From: hedge"}}
	if status, _ := c.over(b, ex, served, 1); status != 200 || first.body != "abcdef" || second.body != "abcdef" {
		t.Errorf("%d, %q and %q", status, first.body, second.body)
	}
	if got, _ := ex.Response.Fields.Get("X-From"); got != "hedge" {
		t.Errorf("fields: %v", ex.Response.Fields)
	}
}

// TestNotHedged: each waits as long as its request takes, and nothing else is sent.
func TestNotHedged(t *testing.T) {
	h := &snapshot.Hedge{After: soon, MaxHedges: 1}
	large := strings.Repeat("x", snapshot.DefaultRetryContent+1)
	withLarge, _ := withBody(request("PUT /"), int64(len(large)), large)
	upgrade := request("GET /")
	upgrade.In.Upgrade = "websocket"
	for name, tt := range map[string]struct {
		h    *snapshot.Hedge
		ex   *exchange.Exchange
		edit func(*snapshot.Route, *tracks)
	}{
		"POST":              {h, request("POST /"), nil},
		"upgrade":           {h, upgrade, nil},
		"content":           {h, withLarge, nil},
		"trailers":          {h, request("GET /", "Trailer: X-Sum"), nil},
		"refused":           {h, request("GET /"), func(_ *snapshot.Route, c *tracks) { c.refuse = true }},
		"too little known":  {&snapshot.Hedge{After: soon, AfterPercentile: 95, MaxHedges: 1}, request("GET /"), nil},
		"percentile is far": {&snapshot.Hedge{After: soon, AfterPercentile: 95, MaxHedges: 1}, request("GET /"), func(_ *snapshot.Route, c *tracks) { c.delay = time.Hour }},
		"none":              {nil, request("GET /"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			ex := tt.ex
			if tt.edit == nil {
				tt.edit = func(*snapshot.Route, *tracks) {}
			}
			b, c, served := newTracks(t, tt.h, ex, tt.edit)
			first := c.next()
			time.Sleep(20 * soon)
			first.outcome <- fine
			c.over(b, ex, served, 1)
			if got := c.seen(); len(got) != 1 {
				t.Errorf("%d requests", len(got))
			}
		})
	}
}

// TestHedgeIsDue has those hedged that are at an endpoint, and have no trailers.
func TestHedgeIsDue(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(ex *exchange.Exchange)
		want bool
	}{
		"at an endpoint":             {func(*exchange.Exchange) {}, true},
		"in the queue":               {func(ex *exchange.Exchange) { ex.Upstream.Endpoint = "" }, false},
		"in the queue, to try again": {func(ex *exchange.Exchange) { ex.Avoid = []string{"192.0.2.1:80"} }, false},
		"tried again":                {func(ex *exchange.Exchange) { ex.Avoid = []string{"192.0.2.2:80"} }, true},
		"with trailers that no field has told of": {func(ex *exchange.Exchange) {
			ex.Out.Trailers.Add("X-Sum", "1")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := &tracks{t: t}
			b := &backend{cluster: c, hedge: &hedge{&snapshot.Hedge{MaxHedges: 1}, &sync.WaitGroup{}}}
			ex := request("PUT /")
			ex.Out.Method, ex.Upstream.Endpoint = "PUT", "192.0.2.1:80"
			replay := &replayBody{length: -1, eof: true}
			replay.whole.Store(true)
			test.edit(ex)
			ex.Await(&track{})
			h := &hedging{ex: ex, backend: b, replay: replay, wait: time.Hour}
			if sent := h.next() != nil; sent != test.want || c.under > 0 != test.want {
				t.Errorf("hedged %t, %d allowed", sent, c.under)
			}
			if h.timer != nil {
				h.timer.Stop()
			}
		})
	}
}

// TestHedgeOfSession: a session is of one endpoint.
func TestHedgeOfSession(t *testing.T) {
	ex := request("GET /")
	b, c, served := newTracks(t, &snapshot.Hedge{After: time.Hour, MaxHedges: 1}, ex, func(r *snapshot.Route, _ *tracks) {
		r.Rule.SessionPersistence = &snapshot.SessionPersistence{Name: "s", Cookie: &snapshot.SessionCookie{SameSite: "Lax"}}
	})
	c.next().outcome <- fine
	<-served
	cookie, _, _ := strings.Cut(strings.Clone(ex.Response.Fields.Value(exchange.KeySetCookie)), ";")
	b.Done(ex, nil)
	ex = request("GET /", "Cookie: "+cookie)
	ex.Private = nil
	again := make(chan struct{})
	go func() {
		defer close(again)
		b.Serve(ex)
	}()
	first := c.next()
	if stateOf(ex).hedging != nil {
		t.Error("it may be hedged")
	}
	first.outcome <- fine
	c.over(b, ex, again, 2)
}

// TestHedgeClientLeaves: all that is under way for it ends.
func TestHedgeClientLeaves(t *testing.T) {
	for _, fails := range []bool{false, true} {
		ex := request("GET /")
		b, c, served := newTracks(t, &snapshot.Hedge{After: soon, MaxHedges: 1}, ex)
		turn := ex.Turn()
		first, second := c.next(), c.next()
		if fails { // and the hedge alone is waited for
			first.outcome <- sorry
			for until := time.Now().Add(20 * time.Second); len(first.outcome) > 0 || !ex.Awaiting(func() {}); time.Sleep(soon) {
				if time.Now().After(until) {
					t.Fatal("it does not wait")
				}
			}
		}
		ex.Abandon(turn)
		status, _ := c.over(b, ex, served, map[bool]int{true: 1}[fails])
		select {
		case <-second.gone:
		case <-time.After(20 * time.Second):
			t.Error("the hedge goes on")
		}
		if status != 499 {
			t.Errorf("status %d", status)
		}
	}
}

// TestHedgeAndRetry: a try with its hedge is one try.
func TestHedgeAndRetry(t *testing.T) {
	ex := request("GET /")
	b, c, served := newTracks(t, &snapshot.Hedge{After: soon, MaxHedges: 1}, ex, func(r *snapshot.Route, _ *tracks) {
		r.Rule.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 1}
	})
	one, two := c.next(), c.next()
	two.outcome <- sorry
	awaitEnds(t, c, 0)
	one.outcome <- sorry
	three := c.next()
	if got := three.ex.Avoid; !slices.Equal(got, []string{"192.0.2.1:80"}) {
		t.Errorf("the retry avoids %q", got)
	}
	c.next().outcome <- fine
	c.mu.Lock()
	c.under++ // BeginRetry is the fake's
	c.mu.Unlock()
	if status, text := c.over(b, ex, served, 3); status != 200 || text != "192.0.2.4:80" || ex.Upstream.Hedges != 2 {
		t.Errorf("%d from %s after %d hedges", status, text, ex.Upstream.Hedges)
	}
}

// TestHedgedBody takes trailers and waiting time over.
func TestHedgedBody(t *testing.T) {
	from, to := &exchange.Exchange{}, &exchange.Exchange{}
	one := &hedgeRun{ex: from}
	from.Response = exchange.Response{Status: 200, Body: &trailing{ex: from}}
	one.handOver(to)
	if _, err := to.Response.Body.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Response.Body.Next(); err != io.EOF {
		t.Fatal(err)
	}
	if got, _ := to.Response.Trailers.Get("Grpc-Status"); got != "0" || to.Upstream.Wait != 2*time.Second {
		t.Errorf("trailers %v, %v waited", to.Response.Trailers, to.Upstream.Wait)
	}
}

// trailing is content that is waited for, with a trailer.
type trailing struct {
	ex *exchange.Exchange
	n  int
}

func (b *trailing) Next() ([]byte, error) {
	b.ex.Upstream.Wait += time.Second
	if b.n++; b.n == 1 {
		return []byte("x"), nil
	}
	b.ex.Response.Trailers.Add("Grpc-Status", "0")
	return nil, io.EOF
}
func (b *trailing) Ready() bool { return false }
func (b *trailing) Close()      {}
