package listener

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// limited is a port with limits.
func limited(limits *snapshot.ConnectionLimits) *snapshot.Port {
	p := portOf("tcp/1")
	p.Connections = limits
	return p
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// isServed reports whether a new connection is, which may be refused before the
// client knows that it has been made.
func isServed(t *testing.T, s *Set, line string) bool {
	t.Helper()
	c, err := net.Dial("tcp", addressOf(t, s, "tcp/1"))
	if err != nil {
		return false
	}
	_, err = caller{}.on(t, c).say(line)
	return err == nil
}

func rejected(t *testing.T, m *observe.Metrics, reason string) float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "headgate_connections_rejected_total" {
			continue
		}
		for _, one := range f.GetMetric() {
			for _, l := range one.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					return one.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

func TestConnectionsOfAPortAreBounded(t *testing.T) {
	for reason, limits := range map[string]*snapshot.ConnectionLimits{
		reasonMax:          {Max: 2},
		reasonMaxPerClient: {MaxPerClient: 2},
	} {
		t.Run(reason, func(t *testing.T) {
			m := observe.NewMetrics("")
			s := newSet(t, func(o *Options) { o.Metrics = m })
			if err := s.Apply([]*snapshot.Port{limited(limits)}); err != nil {
				t.Fatal(err)
			}
			served := []*caller{dial(t, addressOf(t, s, "tcp/1")), dial(t, addressOf(t, s, "tcp/1"))}
			for _, c := range served {
				if _, err := c.say("hello"); err != nil {
					t.Fatal(err)
				}
			}
			if isServed(t, s, "one too many") {
				t.Error("one too many was served")
			}
			if n := rejected(t, m, reason); n != 1 {
				t.Errorf("%v counted as refused", n)
			}
			served[0].Close()
			await(t, "room for another", func() bool { return isServed(t, s, "hello") })
			// A bound that is lifted is lifted at once, whoever was counted.
			if err := s.Apply([]*snapshot.Port{limited(nil)}); err != nil {
				t.Fatal(err)
			}
			if !isServed(t, s, "hello") {
				t.Error("it is refused without a bound")
			}
			p := s.ports["tcp/1"]
			served[1].Close()
			if err := s.Apply(nil); err != nil {
				t.Fatal(err)
			}
			s.gone.Wait()
			if n := p.admission.open.Load(); n != 0 {
				t.Errorf("%d open when all are closed", n)
			}
			if n := p.admission.clients.Count(p.admission.clients.Client(0x9E3779B97F4A7C15, netip.MustParseAddr("127.0.0.1"))); n != 0 {
				t.Errorf("the client has %d when all are closed", n)
			}
		})
	}
}

// newAdmission is that of a port, whose log is kept.
func newAdmission(t *testing.T, limits *snapshot.ConnectionLimits) (a *admission, said func() string) {
	var mu sync.Mutex
	var lines []string
	s := newSet(t, func(o *Options) {
		o.Log = funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, args)
		}, funcr.Options{})
	})
	if err := s.Apply([]*snapshot.Port{limited(limits)}); err != nil {
		t.Fatal(err)
	}
	return &s.ports["tcp/1"].admission, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, "\n")
	}
}

func TestRatePerClient(t *testing.T) {
	a, _ := newAdmission(t, &snapshot.ConnectionLimits{RatePerClient: &snapshot.ConnectionRate{Connections: 10, Per: time.Second, Burst: 2}})
	now := time.Now().Add(time.Hour)
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, want := range []string{"", "", reasonRate, reasonRate} {
		if _, got := a.enterClient(one, now); got != want {
			t.Errorf("connection %d: %q, want %q", i, got, want)
		}
	}
	if _, got := a.enterClient(other, now); got != "" {
		t.Errorf("another client: %q", got)
	}
	if _, got := a.enterClient(one, now.Add(100*time.Millisecond)); got != "" {
		t.Errorf("a tenth of a second later: %q", got)
	}
	if _, got := a.enterClient(one, now.Add(100*time.Millisecond)); got != reasonRate {
		t.Errorf("two in a tenth of a second: %q", got)
	}
}

func TestRefusedByRateIsNotCountedAsOpen(t *testing.T) {
	a, _ := newAdmission(t, &snapshot.ConnectionLimits{
		MaxPerClient: 3, RatePerClient: &snapshot.ConnectionRate{Connections: 1, Per: time.Second, Burst: 1},
	})
	client, now := netip.MustParseAddr("192.0.2.1"), time.Now()
	for range 10 {
		a.enterClient(client, now)
	}
	if counted, reason := a.enterClient(client, now.Add(2*time.Second)); !counted || reason != "" {
		t.Errorf("%v, %q", counted, reason)
	}
}

func TestProxiesAreExempt(t *testing.T) {
	a, _ := newAdmission(t, &snapshot.ConnectionLimits{MaxPerClient: 1, Exempt: []string{"10.0.0.0/8"}})
	for range 3 {
		if counted, reason := a.enterClient(netip.MustParseAddr("10.1.2.3"), time.Now()); counted || reason != "" {
			t.Errorf("%v, %q", counted, reason)
		}
	}
	if err := a.update(&snapshot.ConnectionLimits{MaxPerClient: 1, Exempt: []string{"everybody"}}); err == nil {
		t.Error("no error for a network that cannot be read")
	}
}

func TestClientsBehindTheProxyProtocolAreBounded(t *testing.T) {
	s := newSet(t)
	port := limited(&snapshot.ConnectionLimits{MaxPerClient: 1})
	port.ProxyProtocol = &snapshot.ProxyProtocol{TrustedSources: []string{"127.0.0.0/8"}}
	if err := s.Apply([]*snapshot.Port{port}); err != nil {
		t.Fatal(err)
	}
	// Each keeps its connection.
	for client, want := range map[string]bool{"192.0.2.1": true, "192.0.2.2": true} {
		_, err := dial(t, addressOf(t, s, "tcp/1")).say("PROXY TCP4 " + client + " 198.51.100.1 4000 443\r\nhello")
		if served := err == nil; served != want {
			t.Errorf("%s: %v", client, err)
		}
	}
	if isServed(t, s, "PROXY TCP4 192.0.2.1 198.51.100.1 4001 443\r\nhello") {
		t.Error("a client's second connection was served")
	}
}

func TestFlowsAreGivenBack(t *testing.T) {
	a, _ := newAdmission(t, &snapshot.ConnectionLimits{Max: 2, MaxPerClient: 1})
	client := netip.MustParseAddr("192.0.2.1")
	leave, reason := a.flow(client)
	if reason != "" {
		t.Fatal(reason)
	}
	if _, reason := a.flow(client); reason != reasonMaxPerClient {
		t.Errorf("a second flow: %q", reason)
	}
	leaveOther, _ := a.flow(netip.MustParseAddr("192.0.2.2"))
	if _, reason := a.flow(netip.MustParseAddr("192.0.2.3")); reason != reasonMax {
		t.Errorf("a third client: %q", reason)
	}
	leave()
	leaveOther()
	if n := a.open.Load(); n != 0 {
		t.Errorf("%d are open", n)
	}
	if leave, reason = a.flow(client); reason != "" {
		t.Errorf("afterwards: %q", reason)
	} else {
		leave()
	}
}

func TestRefusalsAreSaidNowAndThen(t *testing.T) {
	a, said := newAdmission(t, &snapshot.ConnectionLimits{MaxPerClient: 1})
	client := netip.MustParseAddr("192.0.2.1")
	for range 1000 {
		a.enterClient(client, time.Now())
	}
	if n := strings.Count(said(), "connections are refused"); n != 1 {
		t.Errorf("%d lines:\n%s", n, said())
	}
	a.saidAt.Store(0)
	a.enterClient(client, time.Now())
	if !strings.Contains(said(), `"refused"=999`) {
		t.Errorf("the second line does not say how many there were:\n%s", said())
	}
}

func TestRefusedConnectionsAreNotLeftWaiting(t *testing.T) {
	// What is closed before it was served is reset: the client learns it at once.
	s := newSet(t)
	if err := s.Apply([]*snapshot.Port{limited(&snapshot.ConnectionLimits{Max: 1})}); err != nil {
		t.Fatal(err)
	}
	keep := dial(t, addressOf(t, s, "tcp/1"))
	if _, err := keep.say("hello"); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addressOf(t, s, "tcp/1"))
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(9 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Error("it was left waiting")
	}
}
