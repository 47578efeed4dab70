package dataplane_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/ratelimit"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// limited is a target whose connections or flows have these filters.
func limited(t *snapshot.Target, filters ...policy.Config) *snapshot.Target {
	t.Filters = filters
	return t
}

// TestStreamBandwidth slows down connections of TCP, of TLS that is terminated and of TLS that
// is not. How long it takes at least does not depend on the machine.
func TestStreamBandwidth(t *testing.T) {
	const size, rate, burst = 32 << 10, 64 << 10, 1 << 10
	bandwidth := func(direction string, limit ratelimit.BandwidthLimit) *ratelimit.Bandwidth {
		limit.Name, limit.Policy, limit.Key = direction, "RateLimitPolicy/shop/slow", direction
		limit.BytesPerSecond, limit.Burst = rate, burst
		return &ratelimit.Bandwidth{Direction: direction, Limits: []ratelimit.BandwidthLimit{limit}}
	}
	each := ratelimit.BandwidthLimit{EachRequest: true}
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	inner := pair(t, selfSigned(t, 7, "pass.example.com"))
	w := &world{}
	w.port(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: "pass", Port: 443, Protocol: "TLS", Hostname: "*.example.com", Targets: []*snapshot.Target{
			limited(target("up.example.com", "tls"), bandwidth("Request", each)),
			limited(target("down.example.com", "tls"), bandwidth("Response", each)),
			limited(target("client.example.com", "tls"), bandwidth("Response", ratelimit.BandwidthLimit{By: []ratelimit.Part{{Type: "ClientIP"}}})),
			target("plain.example.com", "tls"),
		}},
		{Key: "ends", Port: 443, Protocol: "TLS", Hostname: "ends.example.com", TLS: selfSigned(t, 8, "ends.example.com"),
			Targets: []*snapshot.Target{limited(target("ends.example.com", "plain"), bandwidth("Response", each), bandwidth("Request", each))}},
	}}).cluster("tls", echo(t, "tls", &tls.Config{Certificates: []tls.Certificate{inner}})).cluster("plain", echo(t, "plain", nil)).apply(t, p)

	content := strings.Repeat("0123456789abcdef", size/16)
	least := (size - burst) * time.Second / rate
	ask := func(name, backend string, least time.Duration) {
		began := time.Now()
		c := tls.Client(dial(t, address(t, p)), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		got, err := talk(t, c, content)
		if took := time.Since(began); err != nil || got != backend+"\n"+content+"bye" || took < least {
			t.Errorf("%s: %d bytes, %v, in %s, want %s or more", name, len(got), err, took, least)
		}
	}
	var wg sync.WaitGroup
	for name, backend := range map[string]string{"up.example.com": "tls", "down.example.com": "tls", "ends.example.com": "plain"} {
		wg.Go(func() { ask(name, backend, least) })
	}
	began := time.Now()
	var shared sync.WaitGroup
	for range 2 {
		shared.Go(func() { ask("client.example.com", "tls", least) })
	}
	ask("plain.example.com", "tls", 0)
	shared.Wait()
	if took := time.Since(began); took < 2*least {
		t.Errorf("two connections of one client took %s, want %s or more", took, 2*least)
	}
	wg.Wait()
	if got := l4Series(t, m); len(got) == 0 {
		t.Error("nothing was counted")
	}
	awaitQuiet(t, p)
}

// TestStreamBandwidthEnds cuts off connections that wait for their turn, from each side.
func TestStreamBandwidthEnds(t *testing.T) {
	never := func(direction string) policy.Config {
		return &ratelimit.Bandwidth{Direction: direction, Limits: []ratelimit.BandwidthLimit{{Name: "a", Key: direction, BytesPerSecond: 20, Burst: 1, EachRequest: true}}}
	}
	for _, direction := range []string{"Request", "Response"} {
		p := start(t, dataplane.Options{})
		w := &world{}
		w.port(tcpPort(limited(target("", "a"), never(direction)))).cluster("a", echo(t, "a", nil)).apply(t, p)
		gone := dial(t, address(t, p))
		if _, err := gone.Write([]byte(strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(gone, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = gone.(*net.TCPConn).SetLinger(0)
		gone.Close()
		awaitQuiet(t, p)
	}
}

// TestStreamConcurrency has as many connections at a time as there may be, and flows of datagrams.
func TestStreamConcurrency(t *testing.T) {
	at := func(n int) policy.Config {
		return &ratelimit.Concurrency{Limits: []ratelimit.ConcurrencyLimit{{Name: "a", Key: "a", Requests: n, By: []ratelimit.Part{{Type: "ClientIP"}}}}}
	}
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	w := &world{}
	w.port(tcpPort(limited(target("", "a"), at(2)))).cluster("a", echo(t, "a", nil)).apply(t, p)
	connect := func() (net.Conn, error) {
		c, err := net.DialTimeout("tcp", address(t, p), 20*time.Second)
		if err != nil {
			return nil, err
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	var open []net.Conn
	for range 2 {
		c, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	if c, err := connect(); err == nil {
		c.Close()
		t.Error("a third at a time")
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third was not refused: %v", err)
	}
	// Counts are kept when the tables change, and given back when a connection is over.
	w.port(tcpPort(limited(target("", "a", "a"), at(2)))).apply(t, p)
	if c, err := connect(); err == nil {
		c.Close()
		t.Error("a third at a time after a change")
	}
	open[0].Close()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := connect()
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatalf("there is no room after one is over: %v", err)
		}
	}
}

func TestFlowConcurrency(t *testing.T) {
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	w := &world{}
	w.port(&snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 53, Protocol: "UDP", Targets: []*snapshot.Target{limited(target("", "a"),
			&ratelimit.Concurrency{Limits: []ratelimit.ConcurrencyLimit{{Name: "a", Key: "a", Requests: 1}}})}},
	}}).cluster("a", udpEcho(t, "a")).apply(t, p)
	send := func() net.Conn {
		c, err := net.Dial("udp", address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if _, err := send().Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	second := send()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		for name, n := range l4Series(t, m) {
			if strings.Contains(name, "concurrency_limited") && n >= 1 {
				return
			}
		}
		_, _ = second.Write([]byte("x")) // the one before may be lost
		if time.Now().After(until) {
			t.Fatalf("the second flow was not refused: %v", l4Series(t, m))
		}
	}
}

// TestBrokenStreamFilter refuses connections of a target whose filters cannot be built.
func TestBrokenStreamFilter(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(tcpPort(limited(target("", "a"), &ratelimit.Concurrency{Limits: []ratelimit.ConcurrencyLimit{{Name: "a"}}}))).cluster("a", echo(t, "a", nil))
	if err := p.Apply(&w.snap, nil); err == nil {
		t.Error("it was applied without a word")
	}
	c, err := net.Dial("tcp", address(t, p))
	if err != nil {
		return // reset before the dialer looked
	}
	if got, err := talk(t, c, "x"); got != "" || err == nil {
		t.Errorf("got %q, %v; want a reset", got, err)
	}
}
