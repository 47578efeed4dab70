package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestAbandoned has the client give up at each wait that a round trip may have.
func TestAbandoned(t *testing.T) {
	begun := make(chan struct{}, 1)
	hang := func(n int64, r *http.Request, c net.Conn) bool {
		begun <- struct{}{}
		_, _ = c.Read(make([]byte, 1))
		return false
	}
	slow := newBackend(t, hang)
	for name, tc := range map[string]struct {
		opts Options
		cfg  *snapshot.Cluster
	}{
		"for a connection": {
			opts: Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				begun <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}},
			cfg: cfg(),
		},
		"for the response": {cfg: cfg()},
		"for a handshake": {
			cfg: &snapshot.Cluster{Key: "tls", Protocol: "http1", TLS: &snapshot.UpstreamTLS{ServerName: "a.test"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := slow.addr
			if tc.cfg.TLS != nil {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go func() {
					if c, err := l.Accept(); err == nil {
						begun <- struct{}{}
						_, _ = io.Copy(io.Discard, c)
						c.Close()
					}
				}()
				addr = netip.MustParseAddrPort(l.Addr().String())
			}
			c := newManagerFor(t, tc.opts).NewCluster(tc.cfg, endpoints(addr))
			ex := newExchange("GET", "")
			go func(turn uint64) {
				<-begun
				ex.Abandon(turn)
			}(ex.Turn())
			if _, err := c.RoundTrip(ex); err != exchange.ErrAbandoned {
				t.Errorf("%v", err)
			}
			if _, err := c.RoundTrip(ex); err != exchange.ErrAbandoned {
				t.Errorf("abandoned before: %v", err)
			}
			if s := stateOf(t, c, addr); s.State != "ready" || s.InFlight != 0 || s.Connections != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestAbandonedStream has the client give up while all streams are taken.
func TestAbandonedStream(t *testing.T) {
	b := newH2Backend(t, 1, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	m := newManagerFor(t, Options{})
	m.maxMuxes = 1
	c := m.NewCluster(h2cfg(), endpoints(b.addr))
	first := newExchange("GET", "")
	lease, err := c.RoundTrip(first)
	if err != nil {
		t.Fatal(err)
	}
	ex := newExchange("GET", "")
	done := make(chan error)
	go func() {
		_, err := c.RoundTrip(ex)
		done <- err
	}()
	eventually(t, "it waits", func() bool { return stateOf(t, c, b.addr).InFlight == 2 })
	ex.Abandon(ex.Turn())
	if err := <-done; err != exchange.ErrAbandoned {
		t.Errorf("%v", err)
	}
	lease.Release()
	if s := stateOf(t, c, b.addr); s.State != "ready" || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
}
