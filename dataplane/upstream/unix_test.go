package upstream

import (
	"context"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// newSocket starts a backend at a Unix socket, and returns its address.
func newSocket(t testing.TB) (*backend, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, ok), exchange.UnixPrefix + path
}

func sockets(addresses ...string) *snapshot.Endpoints {
	eps := &snapshot.Endpoints{}
	for _, a := range addresses {
		eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: a})
	}
	return eps
}

func TestUnixSocket(t *testing.T) {
	b, address := newSocket(t)
	m := newManagerFor(t, Options{})
	c := m.NewCluster(cfg(), sockets(address))
	for range 3 {
		ex := send(t, c, "GET", "")
		if ex.Upstream.Endpoint != address {
			t.Errorf("sent to %s", ex.Upstream.Endpoint)
		}
	}
	got := c.State()
	if len(got) != 1 || got[0].Address != address || got[0].Requests != 3 || b.conns.Load() != 1 {
		t.Errorf("%+v over %d connections", got, b.conns.Load())
	}
	// It stays what it is among others.
	tcp := newBackend(t, ok)
	eps := sockets(address)
	eps.Endpoints = append(eps.Endpoints, endpoints(tcp.addr).Endpoints...)
	c.SetEndpoints(eps)
	for range 4 {
		send(t, c, "GET", "")
	}
	if b.requests.Load() != 5 || b.conns.Load() != 1 || tcp.requests.Load() != 2 {
		t.Errorf("%d requests over %d connections, and %d", b.requests.Load(), b.conns.Load(), tcp.requests.Load())
	}
	// Its sessions lead there.
	id, known := exchange.EndpointID(address)
	if !known {
		t.Fatal("it has no ID")
	}
	for range 4 {
		ex := newExchange("GET", "")
		ex.Session.Endpoint = id
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		if finish(t, ex, lease); ex.Upstream.Endpoint != address {
			t.Errorf("the session was sent to %s", ex.Upstream.Endpoint)
		}
	}
}

func TestUnixSocketThatIsNotThere(t *testing.T) {
	_, address := newSocket(t)
	m := newManagerFor(t, Options{})
	c := m.NewCluster(cfg(), sockets(exchange.UnixPrefix+filepath.Join(t.TempDir(), "none"), address))
	for range 4 {
		send(t, c, "GET", "")
	}
	for _, e := range c.State() {
		if (e.Address == address) != (e.State == "ready") {
			t.Errorf("%+v", e)
		}
	}
}

func TestUnixSocketChecksAndStreams(t *testing.T) {
	_, address := newSocket(t)
	m := newManagerFor(t, Options{})
	x := cfg()
	x.HealthCheck = &snapshot.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 10 * time.Second, Port: 1, HTTP: &snapshot.HTTPHealthCheck{}}
	c := m.NewCluster(x, sockets(address))
	eventually(t, "it is checked", func() bool { return c.State()[0].ChecksPassed > 1 })
	if got := c.State()[0]; got.ChecksFailed > 0 || got.State != "ready" {
		t.Errorf("%+v", got)
	}
	nc, release, err := c.Connect(&exchange.Conn{})
	if err != nil {
		t.Fatal(err)
	}
	if nc.RemoteAddr().Network() != "unix" {
		t.Errorf("connected to %v", nc.RemoteAddr())
	}
	nc.Close()
	release()
}

// TestOtherFamily: where a family has no way to its addresses, one of the other
// is next, however many the first has.
func TestOtherFamily(t *testing.T) {
	for reason, how := range map[string]error{"unreachable": syscall.ENETUNREACH, "silent": context.DeadlineExceeded} {
		t.Run(reason, func(t *testing.T) {
			b := newBackend(t, ok)
			dialed := make(chan string, 100)
			m := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				dialed <- address
				if address[0] != '[' {
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				return nil, how
			}})
			eps := endpoints(b.addr)
			for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"} {
				eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: a, Port: 80})
			}
			// Those of the family that does not work have nearly all of the weight.
			for i := 1; i < len(eps.Endpoints); i++ {
				eps.Endpoints[i].Weight = 1000
			}
			c := m.NewCluster(cfg(), eps)
			for range 4 { // until all of them are ejected
				send(t, c, "GET", "")
			}
			if n := len(dialed); n > 4+1 {
				t.Errorf("%d attempts to connect for 4 requests", n)
			}
		})
	}
}
