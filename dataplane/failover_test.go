package dataplane_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// mortal is an endpoint that can be killed, and started again at its address.
type mortal struct {
	addr   string
	handle http.HandlerFunc
	server *http.Server
	conns  sync.Map // net.Conn: all that were ever accepted
	// inFlight are the requests whose handlers run.
	inFlight atomic.Int64
}

// ownLoopback is a loopback address that no other process listens at: the port
// of who is dead would be free for anybody's.
func ownLoopback() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>16%254, pid>>8&0xff, 1+pid%254)
}

func newMortal(t testing.TB, handle http.HandlerFunc) *mortal {
	m := &mortal{addr: ownLoopback() + ":0"}
	m.handle = func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		m.inFlight.Add(1)
		defer m.inFlight.Add(-1)
		handle(w, r)
	}
	m.start(t)
	t.Cleanup(func() { m.server.Close() })
	return m
}

// start serves HTTP/1.1 and HTTP/2.
func (m *mortal) start(t testing.TB) {
	t.Helper()
	// Somebody's connection may have the port for a moment.
	ln, err := net.Listen("tcp", m.addr)
	for until := time.Now().Add(20 * time.Second); err != nil; ln, err = net.Listen("tcp", m.addr) {
		if time.Now().After(until) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	m.addr = ln.Addr().String()
	m.server = &http.Server{Handler: m.handle, Protocols: new(http.Protocols)}
	m.server.Protocols.SetHTTP1(true)
	m.server.Protocols.SetUnencryptedHTTP2(true)
	m.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		m.conns.Store(c, nil)
		return ctx
	}
	go m.server.Serve(ln)
}

// kill closes the listener and resets all connections. When it returns, their
// peers know.
func (m *mortal) kill(t testing.TB) {
	t.Helper()
	for c := range m.conns.Range {
		_ = c.(*net.TCPConn).SetLinger(0)
	}
	m.conns.Clear()
	_ = m.server.Close()
	for until := time.Now().Add(20 * time.Second); established(t, m.addr); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("connections to %s outlive it", m.addr)
		}
	}
}

// established reports whether the kernel still has connections to an address of
// IPv4: a reset may take its time.
func established(t testing.TB, addr string) bool {
	t.Helper()
	f, err := os.Open("/proc/net/tcp") // proc(5)
	if os.IsNotExist(err) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	port := netip.MustParseAddrPort(addr).Port()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// The number, the local address, the remote one, and the state.
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", port)) && fields[3] == "01" {
			return true
		}
	}
	return false
}

// mortals are the endpoints of cluster "a" of a proxy, which all requests go to
// and are logged by.
func mortals(t testing.TB, n int, protocol string, retry *snapshot.Retry, handle http.HandlerFunc) (*dataplane.Proxy, []*mortal, *logged) {
	t.Helper()
	all, addrs := make([]*mortal, n), make([]string, n)
	for i := range all {
		all[i] = newMortal(t, handle)
		addrs[i] = all[i].addr
	}
	// On a clock that runs faster, who is back is tried sooner.
	began, opts := time.Now(), dataplane.Options{}
	opts.Upstream.Now = func() time.Time { return began.Add(20 * time.Since(began)) }
	p, log, _ := watched(t, opts)
	r := to("/", "a")
	r.Rule.Retry = retry
	w := (&world{}).port(plain()).host(gateway, "*", r)
	if protocol == "h2c" {
		w.h2cCluster("a", addrs...)
	} else {
		w.cluster("a", addrs...)
	}
	w.apply(t, p)
	return p, all, log
}

// again is a retry that sends everything again.
func again() *snapshot.Retry { return &snapshot.Retry{Attempts: 5, NonIdempotent: true} }

// ask makes a request, by an identifier, and says what has become of it, "" if all is well.
func ask(c *http.Client, method, url, id string) (failure string) {
	var content io.Reader
	if method == "POST" {
		content = strings.NewReader("content")
	}
	req, err := http.NewRequest(method, url, content)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("X-Request-ID", id)
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return fmt.Sprintf("%s %q %v", resp.Status, text, err)
	}
	return ""
}

// TestFailover holds requests at their endpoints, as many as there are, and kills
// some of these. Of requests that may be sent once only, those fail that were at
// the dead, and not one more; with a retry, none.
func TestFailover(t *testing.T) {
	const endpoints, requests, rounds = 6, 24, 6
	for _, protocol := range []string{"http1", "h2c"} {
		for name, retry := range map[string]*snapshot.Retry{"no retry": nil, "retry": again()} {
			t.Run(protocol+", "+name, func(t *testing.T) {
				var release atomic.Pointer[chan struct{}]
				p, all, _ := mortals(t, endpoints, protocol, retry, func(w http.ResponseWriter, r *http.Request) {
					select {
					case <-*release.Load():
					case <-r.Context().Done():
					}
				})
				url, c := "http://"+address(t, p), client(t)
				total := int64(0)
				for range rounds {
					held := make(chan struct{})
					release.Store(&held)
					var failed atomic.Int64
					var group sync.WaitGroup
					for range requests {
						group.Go(func() {
							if ask(c, "POST", url, "") != "" {
								failed.Add(1)
							}
						})
					}
					inFlight := func() (n int64) {
						for _, m := range all {
							n += m.inFlight.Load()
						}
						return n
					}
					for until := time.Now().Add(20 * time.Second); inFlight() < requests; time.Sleep(time.Millisecond) {
						if time.Now().After(until) {
							t.Fatalf("%d requests of %d have arrived", inFlight(), requests)
						}
					}
					victims := rand.Perm(endpoints)[:1+rand.IntN(2)]
					lost := int64(0)
					for _, i := range victims {
						lost += all[i].inFlight.Load()
					}
					for _, i := range victims {
						all[i].kill(t)
					}
					close(held)
					group.Wait()
					total += lost
					if retry != nil {
						lost = 0
					}
					if failed.Load() != lost {
						t.Errorf("%d requests failed, want %d", failed.Load(), lost)
					}
					for _, i := range victims {
						all[i].start(t)
					}
				}
				if total == 0 {
					t.Error("none was ever at an endpoint that was killed")
				}
				t.Logf("%d of %d requests were at an endpoint that was killed", total, requests*rounds)
			})
		}
	}
}

// span is a time, from before something to behind it.
type span struct{ from, to time.Time }

func (s span) meets(o span) bool { return !s.to.Before(o.from) && !o.to.Before(s.from) }

// TestFailoverUnderLoad kills endpoints at any time while clients ask, and starts
// them again. A request fails only at an endpoint that was killed just then; with
// a retry, none does.
func TestFailoverUnderLoad(t *testing.T) {
	const endpoints, clients, kills, between = 8, 16, 15, 60
	for _, protocol := range []string{"http1", "h2c"} {
		for name, retry := range map[string]*snapshot.Retry{"no retry": nil, "retry": again()} {
			t.Run(protocol+", "+name, func(t *testing.T) {
				p, all, log := mortals(t, endpoints, protocol, retry, func(w http.ResponseWriter, r *http.Request) {})
				url := "http://" + address(t, p)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				type failure struct {
					span
					id, what string
				}
				var asked atomic.Int64
				var mu sync.Mutex
				var failures []failure
				var group sync.WaitGroup
				for i := range clients {
					method := []string{"GET", "POST"}[i%2]
					c := client(t)
					group.Go(func() {
						for ctx.Err() == nil {
							id, from := fmt.Sprint("n", asked.Add(1)), time.Now()
							if what := ask(c, method, url, id); what != "" {
								mu.Lock()
								failures = append(failures, failure{span{from, time.Now()}, id, method + ": " + what})
								mu.Unlock()
							}
						}
					})
				}
				killed := map[string][]span{} // by address
				var dead []*mortal            // up to two: an endpoint that refuses is followed by two others
				for range kills {
					awaitMore(t, &asked, between)
					m := all[rand.IntN(endpoints)]
					if slices.Contains(dead, m) {
						continue
					}
					if len(dead) == 2 {
						dead[0].start(t)
						dead = dead[1:]
					}
					from := time.Now()
					m.kill(t)
					killed[m.addr] = append(killed[m.addr], span{from, time.Now()})
					dead = append(dead, m)
				}
				cancel()
				group.Wait()
				at := log.endpoints(t, int(asked.Load()))
				for _, f := range failures {
					if retry != nil || !slices.ContainsFunc(killed[at[f.id]], f.meets) {
						t.Errorf("failed at %q: %s", at[f.id], f.what)
					}
				}
				t.Logf("%d requests, of which %d failed", asked.Load(), len(failures))
			})
		}
	}
}

// awaitMore waits until a count has grown by n.
func awaitMore(t testing.TB, count *atomic.Int64, n int64) {
	t.Helper()
	n += count.Load()
	for until := time.Now().Add(20 * time.Second); count.Load() < n; time.Sleep(50 * time.Microsecond) {
		if t.Failed() || time.Now().After(until) {
			t.Fatal("nobody is answered any more")
		}
	}
}

// endpoints waits for n lines and returns the endpoint of each request.
func (l *logged) endpoints(t testing.TB, n int) map[string]string {
	t.Helper()
	l.await(t, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := map[string]string{}
	for text := range bytes.Lines(l.all.Bytes()) {
		var line struct {
			ID       string `json:"request_id"`
			Endpoint string
		}
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		at[line.ID] = line.Endpoint
	}
	return at
}

// TestRollingUpdate replaces ten endpoints one by one under load, as a Deployment
// does: a new one is ready, an old one drains, ends when it has nothing more to
// do, and is gone. No request fails.
func TestRollingUpdate(t *testing.T) {
	const endpoints, clients, between = 10, 16, 100
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			p, all, _ := mortals(t, endpoints, protocol, nil, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "served")
			})
			url := "http://" + address(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var asked atomic.Int64
			var group sync.WaitGroup
			for i := range clients {
				c, method := client(t), []string{"GET", "POST"}[i%2]
				group.Go(func() {
					for ctx.Err() == nil {
						if what := ask(c, method, url, ""); what != "" {
							t.Errorf("%s: %s", method, what)
							return
						}
						asked.Add(1)
					}
				})
			}
			snap := &world{}
			snap.port(plain()).host(gateway, "*", to("/", "a"))
			set := func(ready []*mortal, draining *mortal) {
				t.Helper()
				addrs := []string{}
				for _, m := range ready {
					addrs = append(addrs, m.addr)
				}
				if draining != nil {
					addrs = append(addrs, draining.addr)
				}
				if protocol == "h2c" {
					snap.h2cCluster("a", addrs...)
				} else {
					snap.cluster("a", addrs...)
				}
				eps, _ := snap.snap.Endpoints.Get("a")
				if draining != nil {
					eps.Endpoints[len(addrs)-1].Draining = true
				}
				snap.apply(t, p)
			}
			began := time.Now()
			for range endpoints {
				old := all[0]
				fresh := newMortal(t, old.handle)
				all = append(all, fresh)
				set(all, nil)
				all = all[1:]
				set(all, old)
				// What was chosen for it before arrives, as in the pause of a preStop hook.
				for until := time.Now().Add(20 * time.Second); busy(p, old.addr); time.Sleep(time.Millisecond) {
					if time.Now().After(until) {
						t.Fatal("it still gets requests")
					}
				}
				if err := old.server.Shutdown(ctx); err != nil {
					t.Fatal(err)
				}
				set(all, nil)
				awaitMore(t, &asked, between)
			}
			took := time.Since(began)
			cancel()
			group.Wait()
			t.Logf("%d requests in %v", asked.Load(), took)
		})
	}
}

// busy reports whether an endpoint has requests in flight.
func busy(p *dataplane.Proxy, addr string) bool {
	for _, c := range p.Clusters() {
		for _, e := range c.Endpoints {
			if e.Address == addr && e.InFlight > 0 {
				return true
			}
		}
	}
	return false
}
