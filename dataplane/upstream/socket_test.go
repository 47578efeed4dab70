package upstream

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// callers remembers who has connected.
type callers struct {
	mu   sync.Mutex
	from map[string]int
}

func (o *callers) serve(n int64, r *http.Request, c net.Conn) bool {
	addr := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap().String()
	o.mu.Lock()
	if o.from == nil {
		o.from = map[string]int{}
	}
	o.from[addr]++
	o.mu.Unlock()
	return ok(n, r, c)
}

func (o *callers) count(addr string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.from[addr]
}

func addrs(list ...string) (all []netip.Addr) {
	for _, text := range list {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// elsewhere is on no machine, RFC 5737.
const notHere = "192.0.2.1"

func TestSourceAddresses(t *testing.T) {
	if _, err := new(net.Dialer).Dial("udp", "127.0.0.7:9"); err != nil {
		t.Skip("the loopback interface has one address alone")
	}
	var seen callers
	b := newBackend(t, seen.serve)
	x := cfg()
	x.Pool.MaxRequests = 1 // each has a connection of its own
	x.Socket.SourceAddresses = addrs("127.0.0.7", notHere, "127.0.0.8", "2001:db8::1")
	var log logged
	m := newManagerFor(t, Options{Log: log.logger()})
	c := m.NewCluster(x, endpoints(b.addr))
	for range 12 {
		send(t, c, "GET", "")
	}
	// The one that is not here has its turn, which the next one takes.
	if one, two := seen.count("127.0.0.7"), seen.count("127.0.0.8"); one != 4 || two != 8 {
		t.Errorf("%d from one and %d from the other address, want 4 and 8", one, two)
	}
	if n := log.count(""); n != 0 {
		t.Errorf("%d lines in the log: %v", n, log.lines)
	}

	t.Run("change", func(t *testing.T) {
		x, y := cfg(), cfg()
		x.Socket.SourceAddresses, y.Socket.SourceAddresses = addrs("127.0.0.7"), addrs("127.0.0.9")
		c := m.NewCluster(x, endpoints(b.addr))
		send(t, c, "GET", "")
		same := cfg()
		same.Socket.SourceAddresses = addrs("127.0.0.7")
		c.Update(same)
		if s := stateOf(t, c, b.addr); s.Idle != 1 {
			t.Errorf("%+v: nothing has changed", s)
		}
		c.Update(y)
		if s := stateOf(t, c, b.addr); s.Idle != 0 {
			t.Errorf("%+v: connections from the old address are kept", s)
		}
		send(t, c, "GET", "")
		if seen.count("127.0.0.9") != 1 {
			t.Error("the new address is not used")
		}
	})
	t.Run("family", func(t *testing.T) {
		l, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Skip(err)
		}
		six := serveOn(t, l, seen.serve)
		x := cfg()
		x.Socket.SourceAddresses = addrs("127.0.0.7")
		send(t, m.NewCluster(x, endpoints(six.addr)), "GET", "")
		if seen.count("::1") != 1 {
			t.Error("the system's address is not used")
		}
	})
	t.Run("UDP", func(t *testing.T) {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		x := cfg()
		x.Protocol = "udp"
		x.Socket.SourceAddresses = addrs("127.0.0.7")
		c := m.NewCluster(x, endpoints(netip.MustParseAddrPort(pc.LocalAddr().String())))
		nc, release, err := c.Datagrams(netip.MustParseAddr("198.51.100.7"))
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		defer nc.Close()
		if from := nc.LocalAddr().(*net.UDPAddr).IP.String(); from != "127.0.0.7" {
			t.Errorf("from %s", from)
		}
	})
	t.Run("health check", func(t *testing.T) {
		x := cfg()
		x.Socket.SourceAddresses = addrs("127.0.0.10")
		x.HealthCheck = &snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}}
		m.NewCluster(x, endpoints(b.addr))
		eventually(t, "it is asked from the address", func() bool { return seen.count("127.0.0.10") > 0 })
	})
}

// TestNoSourceAddress has no address to connect from.
func TestNoSourceAddress(t *testing.T) {
	b := newBackend(t, ok)
	var log logged
	x := cfg()
	x.Socket.SourceAddresses = addrs(notHere)
	c := newManagerFor(t, Options{Log: log.logger()}).NewCluster(x, endpoints(b.addr))
	for range 3 {
		up := fail(t, c, newExchange("GET", ""))
		if up.Reason != "no_source_address" || !errors.Is(up.Err, syscall.EADDRNOTAVAIL) || !strings.Contains(up.Err.Error(), notHere) {
			t.Errorf("%s: %v", up.Reason, up.Err)
		}
	}
	if s := stateOf(t, c, b.addr); s.State != "ready" || s.ConnectFailures != 3 || s.Connections != 0 || s.InFlight != 0 {
		t.Errorf("%+v: the endpoint has no part in it", s)
	}
	if n := log.count("cannot be connected to"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
	c.Update(cfg())
	send(t, c, "GET", "")
}

// TestHTTP2Keepalive gives a connection up whose peer does not answer PINGs.
func TestHTTP2Keepalive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // takes everything and says nothing
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	defer func() {
		l.Close()
		<-done
	}()
	x := h2cfg()
	x.HTTP2Keepalive = &snapshot.HTTP2Keepalive{Interval: 10 * time.Millisecond, Timeout: 10 * time.Millisecond}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(netip.MustParseAddrPort(l.Addr().String())))
	fail(t, c, newExchange("GET", "")) // the codec's own patience is minutes
}
