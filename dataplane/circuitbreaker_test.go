package dataplane_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestCircuitBreaker has an endpoint that takes one request at a time, and one
// that waits for it: another is refused, and one whose client leaves makes room.
func TestCircuitBreaker(t *testing.T) {
	for version, newClient := range map[string]func(testing.TB) *http.Client{"HTTP/1.1": client, "HTTP/2": client2} {
		t.Run(version, func(t *testing.T) {
			proceed := make(chan struct{})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-proceed:
				case <-r.Context().Done():
				}
			}))
			t.Cleanup(s.Close)
			p := start(t, dataplane.Options{})
			w := (&world{}).port(plain()).cluster("a", s.Listener.Addr().String()).host(gateway, "*", to("/", "a"))
			w.snap.Clusters = w.snap.Clusters.With("a", &snapshot.Cluster{Key: "a", Protocol: "http1", CircuitBreaker: &snapshot.CircuitBreaker{
				PerEndpoint: snapshot.PerEndpointBounds{MaxConnections: 1},
				Queue:       snapshot.RequestQueue{MaxRequests: 1, Timeout: time.Minute},
			}})
			w.apply(t, p)
			url, c := "http://"+address(t, p)+"/", newClient(t)
			c.Timeout = 0
			c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					_ = nc.(*net.TCPConn).SetLinger(0) // who leaves resets: one that only ends its own direction may want the answer
				}
				return nc, err
			}

			send := func(ctx context.Context) <-chan int {
				status := make(chan int, 1)
				go func() {
					defer close(status)
					req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if resp, err := c.Do(req); err == nil {
						resp.Body.Close()
						status <- resp.StatusCode
					}
				}()
				return status
			}
			want := func(inFlight int64, queued int) {
				t.Helper()
				deadline := time.Now().Add(time.Minute)
				for {
					by := p.Clusters()[0].CircuitBreaker
					if by.InFlight == inFlight && by.Queued == queued {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%+v, want %d in flight and %d in the queue", by, inFlight, queued)
					}
					time.Sleep(time.Millisecond)
				}
			}
			served := send(t.Context())
			want(1, 0)
			ctx, leave := context.WithCancel(t.Context())
			left := send(ctx)
			want(1, 1)
			if resp, body := get(t, c, url); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
				t.Errorf("beyond the queue: %d %v %q", resp.StatusCode, resp.Header, body)
			}
			leave()
			want(1, 0)
			waited := send(t.Context())
			want(1, 1)
			close(proceed)
			if status := <-served; status != 200 {
				t.Errorf("the first one: %d", status)
			}
			if status := <-waited; status != 200 {
				t.Errorf("the one that waited: %d", status)
			}
			<-left
			want(0, 0)
			by := p.Clusters()[0].CircuitBreaker
			if by.Waits != 2 || by.Refused["queue_full"] != 1 {
				t.Errorf("%+v", by)
			}
		})
	}
}
