package dataplane_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestColdStart has a proxy without a connection get so many requests at once, each
// on a connection of its own, that they are all in flight together: none fails, none is
// refused, and each endpoint has its share.
func TestColdStart(t *testing.T) {
	const endpoints, requests = 4, 400
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			var arrived atomic.Int64
			together := make(chan struct{})
			p, all, _ := mortals(t, endpoints, protocol, nil, func(w http.ResponseWriter, r *http.Request) {
				if arrived.Add(1) == requests {
					close(together)
				}
				select {
				case <-together:
				case <-r.Context().Done():
				}
			})
			url, c := "http://"+address(t, p), client(t)
			c.Timeout = time.Minute
			var group sync.WaitGroup
			for range requests {
				group.Go(func() {
					if what := ask(c, "GET", url, ""); what != "" {
						t.Error(what)
					}
				})
			}
			group.Wait()
			for _, m := range all {
				if n := requestsTo(p, m.addr); n != requests/endpoints {
					t.Errorf("an endpoint has had %d requests, want %d", n, requests/endpoints)
				}
			}
		})
	}
}

// requestsTo is how many requests an endpoint has had.
func requestsTo(p *dataplane.Proxy, addr string) (n uint64) {
	for _, c := range p.Clusters() {
		for _, e := range c.Endpoints {
			if e.Address == addr {
				n += e.Requests
			}
		}
	}
	return n
}

// TestThunderingHerd kills all endpoints, while clients try again and again, and
// starts them. From then on no request fails, and none of the endpoints has much more
// than its share, though all but one were ejected.
func TestThunderingHerd(t *testing.T) {
	const endpoints, clients, outages = 6, 32, 2
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			p, all, _ := mortals(t, endpoints, protocol, nil, func(http.ResponseWriter, *http.Request) {})
			url, c := "http://"+address(t, p), client(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var asked, failed atomic.Int64
			var turn atomic.Int64 // odd while all endpoints are up
			var group sync.WaitGroup
			for range clients {
				group.Go(func() {
					for ctx.Err() == nil {
						began := turn.Load()
						if what := ask(c, "GET", url, ""); what != "" {
							failed.Add(1)
							if began%2 == 1 && began == turn.Load() {
								t.Error("with all endpoints up: ", what)
								return
							}
							time.Sleep(time.Millisecond) // so that the test's clients do not take all there is of the machine
						}
						asked.Add(1)
					}
				})
			}
			for range outages {
				turn.Add(1)
				awaitMore(t, &asked, 10*clients)
				turn.Add(1)
				for _, m := range all {
					m.kill(t)
				}
				awaitMore(t, &failed, 10*clients)
				for _, m := range all {
					m.start(t)
				}
				awaitMore(t, &asked, 2*clients) // those that are under way have seen an endpoint that is down
				before := make([]uint64, endpoints)
				for i, m := range all {
					before[i] = requestsTo(p, m.addr)
				}
				awaitMore(t, &asked, 10*clients)
				had := make([]uint64, endpoints)
				var sum uint64
				for i, m := range all {
					had[i] = requestsTo(p, m.addr) - before[i]
					sum += had[i]
				}
				if most := slices.Max(had); most > sum/2 {
					t.Errorf("one endpoint of %d has had %d requests of %d", endpoints, most, sum)
				}
			}
			cancel()
			group.Wait()
		})
	}
}

// TestSlowAmongFast has one endpoint of six that does not answer while the test
// lasts. Algorithms that look at what is in flight leave it alone with a request or two; round
// robin has everybody wait.
func TestSlowAmongFast(t *testing.T) {
	const endpoints, clients, requests = 6, 8, 2000
	for algorithm, most := range map[string]int64{"LeastRequest": clients / 2, "PeakEWMA": clients / 2, "RoundRobin": clients} {
		t.Run(algorithm, func(t *testing.T) {
			release := make(chan struct{})
			var stuck atomic.Int64
			slow := h1Backend(t, func(http.ResponseWriter, *http.Request) {
				stuck.Add(1)
				<-release
			})
			addrs := []string{slow}
			for range endpoints - 1 {
				addrs = append(addrs, h1Backend(t, func(http.ResponseWriter, *http.Request) {}))
			}
			p := start(t, dataplane.Options{})
			w := (&world{}).port(plain()).cluster("a", addrs...).host(gateway, "*", to("/", "a"))
			w.snap.Clusters = w.snap.Clusters.With("a", &snapshot.Cluster{Key: "a", Protocol: "http1", Balance: snapshot.Balance{Algorithm: algorithm}})
			w.apply(t, p)
			url, c := "http://"+address(t, p), client(t)
			c.Timeout = time.Minute
			var asked atomic.Int64
			var group sync.WaitGroup
			var over atomic.Bool
			for range clients {
				group.Go(func() {
					for !over.Load() {
						if what := ask(c, "GET", url, ""); what != "" {
							t.Error(what)
							return
						}
						asked.Add(1)
					}
				})
			}
			for until := time.Now().Add(30 * time.Second); asked.Load() < requests && stuck.Load() < clients; time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					break
				}
			}
			n, served := stuck.Load(), asked.Load()
			over.Store(true)
			close(release)
			group.Wait()
			if n > most || most < clients && served < requests {
				t.Errorf("%d of %d clients wait for the slow one, after %d answers", n, clients, served)
			}
			if algorithm == "RoundRobin" && n < clients {
				t.Errorf("only %d of %d clients wait: the test shows nothing", n, clients)
			}
		})
	}
}

// fullQueue is the address of a server that accepts nothing any more, with its
// kernel's queue full, so that attempts to connect to it are dropped.
func fullQueue(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}
	for {
		c, err := net.DialTimeout("tcp", addr.String(), 500*time.Millisecond)
		if err != nil {
			return addr.String() // that it took so long is what was wanted
		}
		t.Cleanup(func() { c.Close() })
	}
}

// TestFullListenQueue has an endpoint that accepts no connections: the requests go
// to the others, and it is ejected.
func TestFullListenQueue(t *testing.T) {
	var served atomic.Int64
	serve := func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(w, "served")
	}
	full := fullQueue(t)
	p := start(t, dataplane.Options{})
	w := (&world{}).port(plain()).cluster("a", full, h1Backend(t, serve), h1Backend(t, serve)).host(gateway, "*", to("/", "a"))
	cluster, _ := w.snap.Clusters.Get("a")
	cluster.ConnectTimeout = 10 * moment // which the others do not need
	w.apply(t, p)
	url, c := "http://"+address(t, p), client(t)
	const requests = 100
	for range requests {
		if what := ask(c, "POST", url, ""); what != "" {
			t.Error(what)
		}
	}
	if n := served.Load(); n != requests {
		t.Errorf("%d requests were served, want %d", n, requests)
	}
	for _, e := range p.Clusters()[0].Endpoints {
		if e.Address == full && (e.Ejections["connect"] == 0 || e.Requests > 0) {
			t.Errorf("%+v", e)
		}
	}
}
