package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestHedge has an endpoint that never answers beside one that does: every request
// is answered by the latter, and what the former has had is given up.
func TestHedge(t *testing.T) {
	for _, upstream := range []string{"http1", "h2c"} {
		for version, newClient := range map[string]func(testing.TB) *http.Client{"HTTP/1.1": client, "HTTP/2": client2} {
			t.Run(version+" to "+upstream, func(t *testing.T) {
				var had, left atomic.Int64
				silent := newMortal(t, func(w http.ResponseWriter, r *http.Request) {
					had.Add(1)
					<-r.Context().Done()
					left.Add(1)
				})
				good := newMortal(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "X-Sum")
					w.Header().Set("Name", "good")
					fmt.Fprintf(w, "%s ", r.Method)
					w.(http.Flusher).Flush()
					_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
					w.Header().Set("X-Sum", "0")
				})
				p := start(t, dataplane.Options{})
				route := to("/", "a")
				route.Rule.Backends[0].Hedge = &snapshot.Hedge{After: 5 * time.Millisecond, MaxHedges: 1}
				w := (&world{}).port(plain()).cluster("a", silent.addr, good.addr).host(gateway, "*", route)
				// As many hedges as it takes.
				w.snap.Clusters = w.snap.Clusters.With("a", &snapshot.Cluster{Key: "a", Protocol: upstream, RetryBudget: &snapshot.RetryBudget{
					Percent: 100, Interval: time.Second, MinRetryRate: snapshot.RequestRate{Count: 1000, Interval: time.Second},
				}})
				w.apply(t, p)
				c, url := newClient(t), "http://"+address(t, p)+"/"
				var group sync.WaitGroup
				for i := range 4 {
					group.Go(func() {
						for k := range 10 {
							method, body := "GET", ""
							if (i+k)%2 == 0 {
								method, body = "PUT", strings.Repeat("y", 30_000)
							}
							req, err := http.NewRequest(method, url, strings.NewReader(body))
							if err != nil {
								t.Error(err)
								return
							}
							resp, err := c.Do(req)
							if err != nil {
								t.Error(err)
								return
							}
							text, err := io.ReadAll(resp.Body)
							resp.Body.Close()
							if err != nil || resp.StatusCode != 200 || resp.Header.Get("Name") != "good" || len(text) != len(method)+1+100_000 || resp.Trailer.Get("X-Sum") != "0" {
								t.Errorf("%s: %d %v, %d bytes, trailers %v, %v", method, resp.StatusCode, resp.Header, len(text), resp.Trailer, err)
							}
						}
					})
				}
				group.Wait()
				if had.Load() == 0 {
					t.Error("nothing was hedged")
				}
				for until := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
					inFlight, used := int64(0), 0
					for _, e := range p.Clusters()[0].Endpoints {
						inFlight += e.InFlight
						used += e.Connections - e.Idle
					}
					if inFlight == 0 && used == 0 && had.Load() == left.Load() && silent.inFlight.Load() == 0 {
						break
					}
					if time.Now().After(until) {
						t.Fatalf("%d requests, %d connections are still in use; the silent endpoint had %d requests, of which %d ended",
							inFlight, used, had.Load(), left.Load())
					}
				}
			})
		}
	}
}

// resilient is a proxy whose backend has retries, hedges and a fallback, of which no
// request has need.
func resilient(t testing.TB) *dataplane.Proxy {
	p := start(t, dataplane.Options{})
	route := to("/", "a")
	b := &route.Rule.Backends[0]
	b.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 1}
	b.Hedge = &snapshot.Hedge{After: time.Minute, AfterPercentile: 95, MaxHedges: 1}
	b.Fallback = unsent("b")
	b.Fallback.Codes = []int{503}
	(&world{}).port(plain()).cluster("a", rawBackend(t)).cluster("b", rawBackend(t)).host(gateway, "*", route).apply(t, p)
	return p
}

// TestResilientRequestAllocatesNothing as long as nothing goes wrong.
func TestResilientRequestAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	do := rawClient(t, address(t, resilient(t)))
	for range 200 {
		do()
	}
	if allocs := testing.AllocsPerRun(2000, do); allocs != 0 {
		t.Errorf("%v allocations for a request", allocs)
	}
}

func BenchmarkResilientRequest(b *testing.B) {
	do := rawClient(b, address(b, resilient(b)))
	for range 200 {
		do()
	}
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}
