package ratelimit

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// parts is content that comes in parts.
type parts struct {
	left   [][]byte
	closed bool
}

func content(parts_, size int) *parts {
	p := &parts{}
	for i := range parts_ {
		p.left = append(p.left, bytes.Repeat([]byte{byte(i)}, size))
	}
	return p
}

func (p *parts) Next() ([]byte, error) {
	if len(p.left) == 0 {
		return nil, io.EOF
	}
	part := p.left[0]
	p.left = p.left[1:]
	return part, nil
}
func (p *parts) Ready() bool { return true }
func (p *parts) Close()      { p.closed = true }

// slow builds a Bandwidth on a clock that sleeping moves.
func slow(t testing.TB, direction string, limits ...BandwidthLimit) (*bandwidth, *clock) {
	t.Helper()
	env, clock := newEnv()
	b, err := (&Bandwidth{Direction: direction, Limits: limits}).build(env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.release)
	b.sleep = func(d time.Duration, _ <-chan struct{}) bool {
		clock.advance(d)
		return true
	}
	return b, clock
}

// answering is an exchange with a response of that content, slowed down.
func answering(b *bandwidth, ip string, body exchange.Body) *exchange.Exchange {
	ex := request(ip)
	ex.Response.Status, ex.Response.Body = 200, body
	b.response(ex)
	return ex
}

func drainTo(t testing.TB, body exchange.Body, each func(n int)) (all []byte) {
	t.Helper()
	for {
		p, err := body.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p...)
		each(len(p))
	}
}

func TestBytesPerSecond(t *testing.T) {
	const kib = 1 << 10
	for name, c := range map[string]struct {
		limits []BandwidthLimit
		want   time.Duration // for 1,024 KiB
	}{
		"one":             {[]BandwidthLimit{{BytesPerSecond: 100 * kib, Burst: 100 * kib}}, 9240 * time.Millisecond},
		"a small burst":   {[]BandwidthLimit{{BytesPerSecond: 512 * kib, Burst: 1}}, 2 * time.Second},
		"after a part":    {[]BandwidthLimit{{BytesPerSecond: 100 * kib, Burst: 24 * kib, After: 500 * kib}}, 5 * time.Second},
		"the slowest":     {[]BandwidthLimit{{BytesPerSecond: 1000 * kib, Burst: kib}, {BytesPerSecond: 10 * kib, Burst: 24 * kib}}, 100 * time.Second},
		"for each":        {[]BandwidthLimit{{BytesPerSecond: 100 * kib, Burst: 24 * kib, EachRequest: true}}, 10 * time.Second},
		"more than there": {[]BandwidthLimit{{BytesPerSecond: math.MaxInt64 / 4, Burst: 1 << 30}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range c.limits {
				c.limits[i].Name = string(rune('a' + i))
				c.limits[i].Key = c.limits[i].Name
			}
			b, clock := slow(t, responses, c.limits...)
			body := content(16, 64*kib)
			want := bytes.Join(body.left, nil)
			ex := answering(b, "192.0.2.1", body)
			began, passed := clock.now(), int64(0)
			got := drainTo(t, ex.Response.Body, func(n int) {
				passed += int64(n)
				for _, l := range c.limits {
					most := l.After + l.Burst + int64(clock.now().Sub(began).Seconds()*float64(l.BytesPerSecond)) + 1
					if passed > most && passed > l.After {
						t.Fatalf("after %s: %d bytes, more than %d", clock.now().Sub(began), passed, most)
					}
				}
			})
			if !bytes.Equal(got, want) {
				t.Error("the content is another")
			}
			took := clock.now().Sub(began)
			if took < c.want-c.want/100 || took > c.want+c.want/100+time.Millisecond {
				t.Errorf("it took %s, want %s", took, c.want)
			}
			if ex.Upstream.Wait != took {
				t.Errorf("%s counted as waiting, of %s", ex.Upstream.Wait, took)
			}
		})
	}
}

func TestContentSharesItsKeysBandwidth(t *testing.T) {
	const kib = 1 << 10
	for name, c := range map[string]struct {
		limit BandwidthLimit
		other string // client
		want  time.Duration
	}{
		"one client":        {BandwidthLimit{By: []Part{{Type: "ClientIP"}}}, "192.0.2.1", 20 * time.Second},
		"two clients":       {BandwidthLimit{By: []Part{{Type: "ClientIP"}}}, "192.0.2.2", 10 * time.Second},
		"all together":      {BandwidthLimit{}, "192.0.2.2", 20 * time.Second},
		"each for itself":   {BandwidthLimit{EachRequest: true}, "192.0.2.1", 10 * time.Second},
		"a header's values": {BandwidthLimit{By: []Part{{Type: "Header", Header: "X"}}}, "192.0.2.1", 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c.limit.Name, c.limit.Key, c.limit.BytesPerSecond, c.limit.Burst = "a", "a", 10*kib, 1
			b, clock := slow(t, responses, c.limit)
			// What each waits for, on a clock that moves with the later of the two.
			began := clock.now()
			var at time.Time
			b.sleep = func(d time.Duration, _ <-chan struct{}) bool {
				if until := clock.now().Add(d); until.After(at) {
					at = until
				}
				return true
			}
			one, two := answering(b, "192.0.2.1", content(100, kib)).Response.Body, answering(b, c.other, content(100, kib)).Response.Body
			for over := 0; over < 2; {
				over = 0
				for _, body := range []exchange.Body{one, two} {
					if _, err := body.Next(); err == io.EOF {
						over++
					}
				}
			}
			if took := at.Sub(began); took < c.want-c.want/50 || took > c.want+c.want/50 {
				t.Errorf("both took %s, want %s", took, c.want)
			}
		})
	}
}

func TestReadyMeansNoWaiting(t *testing.T) {
	b, clock := slow(t, responses, BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 1000, Burst: 300, After: 100})
	waited := false
	b.sleep = func(d time.Duration, _ <-chan struct{}) bool {
		waited = true
		clock.advance(d)
		return true
	}
	body := answering(b, "", content(10, 77)).Response.Body
	ready, waits := 0, 0
	for {
		was := body.Ready()
		waited = false
		_, err := body.Next()
		if err == io.EOF {
			break
		}
		if was && waited {
			t.Fatal("it said that it was ready, and waited")
		}
		if was {
			ready++
		}
		if waited {
			waits++
		}
	}
	if ready == 0 || waits == 0 {
		t.Errorf("ready %d times, waited %d times", ready, waits)
	}
}

func TestGivingUpEndsWaiting(t *testing.T) {
	for _, direction := range []string{requests, responses} {
		b, _ := slow(t, direction, BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 1, Burst: 1})
		waits := make(chan struct{})
		b.sleep = func(d time.Duration, gone <-chan struct{}) bool {
			close(waits)
			return sleep(d+time.Hour, gone)
		}
		from := content(2, 1)
		var body exchange.Body
		if direction == responses {
			body = answering(b, "", from).Response.Body
		} else {
			ex := request("")
			ex.Out.Body = from
			b.request(ex)
			body = ex.Out.Body
		}
		if _, err := body.Next(); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			_, err := body.Next()
			failed <- err
		}()
		<-waits
		body.Close()
		err := <-failed
		if err == nil || errors.Is(err, exchange.ErrAbandoned) != (direction == responses) {
			t.Errorf("%s: %v", direction, err)
		}
		if !from.closed {
			t.Error("what it is made of was not closed")
		}
		body.Close()
		if _, err := body.Next(); err == nil {
			t.Error("there is content after Close")
		}
	}
}

func TestResponsesAreSlowedUntilTheirDeadline(t *testing.T) {
	b, clock := slow(t, responses, BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 100, Burst: 100})
	ex := request("")
	ex.Response.Body, ex.Deadline = content(1, 1000), clock.now().Add(2*time.Second)
	b.response(ex)
	began, passed := clock.now(), 0
	for {
		p, err := ex.Response.Body.Next()
		if err != nil {
			var timeout *exchange.UpstreamError
			if !errors.As(err, &timeout) || timeout.Reason != "timeout" {
				t.Error(err)
			}
			break
		}
		passed += len(p)
	}
	if took := clock.now().Sub(began); took != 2*time.Second || passed != 300 {
		t.Errorf("%d bytes in %s", passed, took)
	}
}

// pipe is an upstream's side of a tunnel.
type pipe struct {
	bytes.Buffer
	written int
}

func (p *pipe) Write(b []byte) (int, error) { p.written += len(b); return len(b), nil }
func (p *pipe) Close() error                { return nil }
func (p *pipe) CloseWrite() error           { return nil }

func TestTunnels(t *testing.T) {
	for _, direction := range []string{requests, responses} {
		b, clock := slow(t, direction, BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 1000, Burst: 1000})
		ex := request("")
		under := &pipe{}
		under.Buffer.Write(make([]byte, 5000))
		ex.Response.Status, ex.Response.Tunnel = 101, under
		b.response(ex)
		took := func(do func()) time.Duration {
			began := clock.now()
			do()
			return clock.now().Sub(began).Round(100 * time.Millisecond)
		}
		up := took(func() {
			if n, err := ex.Response.Tunnel.Write(make([]byte, 5000)); n != 5000 || err != nil || under.written != 5000 {
				t.Errorf("%d of %d, %v", n, under.written, err)
			}
		})
		down := took(func() {
			if all, err := io.ReadAll(ex.Response.Tunnel); err != nil || len(all) != 5000 {
				t.Errorf("%d, %v", len(all), err)
			}
		})
		want := [2]time.Duration{4 * time.Second, 0}
		if direction == responses {
			want[0], want[1] = want[1], want[0]
		}
		if up != want[0] || down != want[1] {
			t.Errorf("%s: up %s, down %s", direction, up, down)
		}
		if err := ex.Response.Tunnel.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBandwidthRefuses(t *testing.T) {
	good := BandwidthLimit{Name: "a", Key: "a", BytesPerSecond: 1, Burst: 1}
	for name, c := range map[string]Bandwidth{
		"direction": {Direction: "Sideways", Limits: []BandwidthLimit{good}},
		"rate":      {Direction: requests, Limits: []BandwidthLimit{good, {Name: "b", Key: "b", Burst: 1}}},
		"burst":     {Direction: requests, Limits: []BandwidthLimit{{Name: "a", Key: "a", BytesPerSecond: 1}}},
		"huge":      {Direction: requests, Limits: []BandwidthLimit{{Name: "a", Key: "a", BytesPerSecond: 1, Burst: 1 << 20}}},
		"key":       {Direction: requests, Limits: []BandwidthLimit{{Name: "a", Key: "a", BytesPerSecond: 1, Burst: 1, By: []Part{{Type: "Moon"}}}}},
	} {
		env, _ := newEnv()
		if _, err := c.Build(env); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestConcurrency(t *testing.T) {
	env, _ := newEnv()
	f, err := (&Concurrency{Limits: []ConcurrencyLimit{
		{Name: "all", Key: "all", Requests: 3},
		{Name: "client", Key: "client", Requests: 2, By: []Part{{Type: "ClientIP"}}},
	}}).Build(env)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	pass := func(ip string) (*exchange.Exchange, bool) {
		ex := request(ip)
		return ex, f.Request(ex) == exchange.Continue
	}
	first, ok := pass("192.0.2.1")
	if !ok {
		t.Fatal("the first was refused")
	}
	if _, ok := pass("192.0.2.1"); !ok {
		t.Error("the second was refused")
	}
	third, ok := pass("192.0.2.1")
	if ok || third.Response.Status != 429 || third.Response.LocalReason != "concurrency_limited" || third.Response.Fields.Value(exchange.KeyRetryAfter) != "1" {
		t.Errorf("the client's third: %v %+v", ok, third.Response)
	}
	// What was refused by the second limit is not counted in the first.
	other, ok := pass("192.0.2.2")
	if !ok {
		t.Error("another client was refused")
	}
	if _, ok := pass("192.0.2.3"); ok {
		t.Error("a fourth at a time")
	}
	f.Done(other)
	f.Done(first)
	if _, ok := pass("192.0.2.1"); !ok {
		t.Error("there is no room after one is done")
	}
	// Counts are kept when the configuration changes.
	again, err := (&Concurrency{Limits: []ConcurrencyLimit{{Name: "all", Key: "all", Requests: 2}}}).Build(env)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if again.Request(request("")) == exchange.Continue {
		t.Error("the counts were forgotten")
	}
	if _, err := (&Concurrency{Limits: []ConcurrencyLimit{{Name: "a", Key: "a"}}}).Build(env); err == nil {
		t.Error("a limit of nothing was accepted")
	}
	if n := testing.AllocsPerRun(100, func() {
		if f.Request(third) == exchange.Continue {
			f.Done(third)
		}
	}); n > 2 { // the fields of the refusal
		t.Errorf("%v allocations", n)
	}
}
