// Package equivalents serves what docs/equivalents.md says in place of nginx's
// and HAProxy's directives, and sees that it does what these do.
package equivalents

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/manifests"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/upstream"
)

const class = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.dev/gateway-controller}
`

// page is docs/equivalents.md: what all blocks build on, how a policy begins, and
// the block of each section.
type page struct {
	common, policy string
	sections       map[string]string
}

func readPage(t *testing.T) page {
	t.Helper()
	text, err := os.ReadFile("../../docs/equivalents.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(text), "\n## ")
	first := blocks(head)
	if len(first) != 2 {
		t.Fatalf("%d blocks before the first section", len(first))
	}
	p := page{common: first[0], policy: first[1], sections: map[string]string{}}
	for _, section := range strings.Split(rest, "\n### ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		found := blocks(body)
		if len(found) != 1 {
			t.Fatalf("%s has %d blocks", name, len(found))
		}
		p.sections[name] = found[0]
	}
	return p
}

func blocks(text string) (all []string) {
	for _, part := range strings.Split(text, "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		all = append(all, block)
	}
	return all
}

// objects are the YAML of one section with all that it builds on.
func (p page) objects(section string) string {
	block, common := p.sections[section], p.common
	if rest, ok := strings.CutPrefix(block, "spec:\n"); ok {
		block = p.policy + rest
	} else if strings.Contains(block, "kind: Backend\n") { // and a route, too
		common = common[:strings.LastIndex(common, "---\n")]
		if strings.Contains(block, "kind: HTTPRoute\n") {
			common = common[:strings.LastIndex(common, "---\n")]
		}
	}
	return class + "---\n" + common + "---\n" + block
}

// server is one of the three.
type server struct {
	*httptest.Server
	name  string
	count atomic.Int64 // requests, but for health checks
	ill   atomic.Bool  // answers 503
	conns atomic.Int64
	from  atomic.Value // the address of the last connection, a string
}

// site is a proxy before three servers.
type site struct {
	t       *testing.T
	proxy   *dataplane.Proxy
	servers []*server // by port
	yaml    string
	url     string
	client  *http.Client
	// held are requests for /hold, which end when they are released.
	held    atomic.Int64
	release chan struct{}
}

func newSite(t *testing.T, yaml string) *site {
	s := &site{t: t, yaml: yaml, release: make(chan struct{})}
	for range 3 {
		one := &server{}
		one.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				one.count.Add(1)
			}
			w.Header().Set("Server-Name", one.name)
			if one.ill.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			if r.URL.Path == "/large" {
				_, _ = w.Write(make([]byte, 48<<10))
			}
			if r.URL.Path == "/hold" {
				s.held.Add(1)
				<-s.release
			}
		}))
		one.Config.ConnState = func(c net.Conn, to http.ConnState) {
			if to == http.StateNew {
				one.from.Store(c.RemoteAddr().(*net.TCPAddr).IP.String())
				one.conns.Add(1)
			}
		}
		one.Start()
		t.Cleanup(one.Close)
		s.servers = append(s.servers, one)
	}
	slices.SortFunc(s.servers, func(a, b *server) int { return a.port() - b.port() }) // as "first" goes
	for i, one := range s.servers {
		one.name = string(rune('a' + i))
	}
	s.proxy = dataplane.New(dataplane.Options{BindAddresses: []string{"127.0.0.1"}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.proxy.Shutdown(ctx)
	})
	s.apply(yaml)
	s.url = "http://" + s.proxy.Ports()[0].Address
	s.client = s.newClient()
	return s
}

func (s *server) port() int { return s.Listener.Addr().(*net.TCPAddr).Port }

func (s *site) newClient() *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// apply serves a folder with this YAML, in which nothing may be wrong.
func (s *site) apply(yaml string) {
	s.t.Helper()
	for i, one := range s.servers {
		yaml = strings.ReplaceAll(yaml, fmt.Sprintf("port: 900%d", i+1), fmt.Sprintf("port: %d", one.port()))
	}
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(yaml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	folder, err := manifests.Open(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	change, _ := folder.Refresh()
	for _, p := range folder.Problems() {
		s.t.Errorf("line %d, %s: %s", p.Line, p.Field, p.Message)
	}
	set := objects.NewSet()
	var changed []objects.Ref
	for ref, obj := range change.Put {
		set.Put(obj)
		changed = append(changed, ref)
	}
	result := compile.Compile(nil, set, changed, compile.Options{})
	for _, f := range result.Findings() {
		s.t.Errorf("%s %s: %s", f.Object, f.Field, f.Message)
	}
	snap := *result.Snapshot
	port := *snap.Ports[0]
	port.Number = 0 // of the kernel's choice
	snap.Ports = []*snapshot.Port{&port}
	if err := s.proxy.Apply(&snap, nil); err != nil || s.t.Failed() {
		s.t.Fatal(err)
	}
}

// ask makes a request and returns who answered it.
func (s *site) ask(c *http.Client, path string, header ...string) (server string, status int) {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Error(err)
		return "", 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Server-Name"), resp.StatusCode
}

// shares makes n requests that must be answered well, and counts who did.
func (s *site) shares(n int) map[string]int {
	s.t.Helper()
	shares := map[string]int{}
	for range n {
		name, status := s.ask(s.client, "/")
		if status != 200 {
			s.t.Errorf("status %d", status)
		}
		shares[name]++
	}
	return shares
}

// hold begins n requests, one by one, and returns who has them until the test ends.
func (s *site) hold(n int) map[string]int {
	s.t.Helper()
	var group sync.WaitGroup
	s.t.Cleanup(func() {
		close(s.release)
		group.Wait()
	})
	at := map[string]int{}
	for i := range n {
		counts := s.counts()
		group.Go(func() { s.ask(s.client, "/hold") })
		s.await("the request is held", func() bool { return s.held.Load() == int64(i+1) })
		for name, count := range s.counts() {
			at[name] += int(count - counts[name])
		}
	}
	return at
}

func (s *site) counts() map[string]int64 {
	counts := map[string]int64{}
	for _, one := range s.servers {
		counts[one.name] = one.count.Load()
	}
	return counts
}

func (s *site) await(what string, ok func() bool) {
	s.t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			s.t.Fatalf("not seen: %s", what)
		}
	}
}

// state is an endpoint's.
func (s *site) state(one *server) (found upstream.EndpointState) {
	for _, c := range s.proxy.Clusters() {
		for _, e := range c.Endpoints {
			if e.Address == one.Listener.Addr().String() {
				found = e
			}
		}
	}
	return found
}

// want compares shares.
func (s *site) want(got map[string]int, want ...int) {
	s.t.Helper()
	for i, one := range s.servers {
		if got[one.name] != want[i] {
			s.t.Errorf("got %v, want %v", got, want)
			return
		}
	}
}

// sticks asks with many keys, several times each: a key has one server, and all
// servers have some. Without one, the keys of the others stay.
func (s *site) sticks(less string, ask func(key string) (server string)) {
	s.t.Helper()
	at, used := map[string]string{}, map[string]bool{}
	for i := range 60 {
		key := fmt.Sprintf("key-%d", i)
		at[key] = ask(key)
		used[at[key]] = true
		if again := ask(key); again != at[key] {
			s.t.Errorf("%s moves from %s to %s", key, at[key], again)
		}
	}
	if len(used) != 3 {
		s.t.Errorf("only %v are used", used)
	}
	s.apply(less)
	moved := 0
	for key, before := range at {
		if after := ask(key); after != before && before != "c" {
			moved++
		}
	}
	if moved > 6 { // Maglev, and a ring of other weights, may move a few
		s.t.Errorf("%d keys of servers that stay have moved", moved)
	}
}

// keepsOut holds as many connections as there may be, and sees that there is no
// room for another.
func (s *site) keepsOut(n int) {
	s.t.Helper()
	s.hold(n)
	if resp, err := s.newClient().Get(s.url); err == nil {
		resp.Body.Close()
		s.t.Errorf("one more than %d connections was answered %d", n, resp.StatusCode)
	}
}

// without is the YAML without the third server.
func (s *site) without() string {
	return strings.ReplaceAll(s.yaml, "  - {ip: 127.0.0.1, port: 9003}\n", "")
}

var tests = map[string]func(s *site){
	"round robin": func(s *site) { s.want(s.shares(30), 10, 10, 10) },
	"weight":      func(s *site) { s.want(s.shares(40), 30, 10, 0) },
	"least connections": func(s *site) {
		s.want(s.hold(6), 2, 2, 2)
	},
	"random": func(s *site) {
		for name, n := range s.shares(300) {
			if n < 50 || n > 150 {
				s.t.Errorf("%s has %d of 300", name, n)
			}
		}
	},
	"the better of two": func(s *site) {
		busy := s.hold(1)
		for name, n := range s.shares(150) { // never the busy one, if another was drawn beside it
			if busy[name] == 1 && n > 40 || busy[name] == 0 && n < 30 {
				s.t.Errorf("%s has %d of 150; busy: %v", name, n, busy)
			}
		}
	},
	"by client address": func(s *site) {
		at, _ := s.ask(s.client, "/")
		for range 20 {
			if again, _ := s.ask(s.newClient(), "/"); again != at {
				s.t.Errorf("%s and then %s", at, again)
			}
		}
		used := map[string]bool{}
		for i := range 30 {
			c := s.newClient()
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
			c.Transport.(*http.Transport).DialContext = dialer.DialContext
			probe, err := dialer.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				s.t.Skip("this machine has but one address: ", err)
			}
			probe.Close()
			name, _ := s.ask(c, "/")
			used[name] = true
		}
		if len(used) != 3 {
			s.t.Errorf("only %v are used", used)
		}
	},
	"by path": func(s *site) {
		s.sticks(s.without(), func(key string) string { name, _ := s.ask(s.client, "/"+key); return name })
	},
	"by query parameter": func(s *site) {
		s.sticks(s.without(), func(key string) string { name, _ := s.ask(s.client, "/?user="+key); return name })
	},
	"by header": func(s *site) {
		s.sticks(s.without(), func(key string) string { name, _ := s.ask(s.client, "/", "X-Tenant", key); return name })
	},
	"by several things": func(s *site) {
		s.sticks(s.without(), func(key string) string { name, _ := s.ask(s.client, "/"+key, "X-Tenant", "blue"); return name })
		s.apply(s.yaml)
		s.sticks(s.without(), func(key string) string { name, _ := s.ask(s.client, "/", "X-Tenant", key); return name })
	},
	"use-server": func(s *site) {
		for _, server := range []string{"a", "b", "c"} {
			for range 5 {
				if at, _ := s.ask(s.client, "/", "X-Server", server); at != server {
					s.t.Errorf("who asks for %s gets %s", server, at)
				}
			}
		}
		for range 5 {
			if at, status := s.ask(s.client, "/", "X-Server", "none"); status != 200 {
				s.t.Errorf("who asks for another one gets %d of %s", status, at)
			}
		}
	},
	"split_clients": func(s *site) {
		next := 0
		for i := range 400 {
			user := fmt.Sprint("user-", i)
			at, _ := s.ask(s.client, "/", "X-User", user)
			for range 2 {
				if again, _ := s.ask(s.client, "/", "X-User", user); (again == "c") != (at == "c") {
					s.t.Errorf("%s was with %s and then with %s", user, at, again)
				}
			}
			if at == "c" {
				next++
			}
		}
		if next < 60 || next > 140 { // 100 by the weights, give or take 4.6 standard deviations
			s.t.Errorf("%d of 400 users are with the next version", next)
		}
	},
	"first": func(s *site) {
		s.want(s.shares(10), 10, 0, 0)
		s.want(s.hold(5), 2, 2, 1)
	},
	"backup": func(s *site) {
		s.want(s.shares(20), 10, 10, 0)
		s.servers[0].Close()
		s.servers[1].Close()
		if got := s.shares(20); got["c"] != 20 {
			s.t.Errorf("%v", got)
		}
	},
	"down": func(s *site) { s.want(s.shares(20), 10, 10, 0) },
	"slow start": func(s *site) {
		s.apply(s.without())
		s.want(s.shares(20), 10, 10, 0)
		s.apply(s.yaml)
		if got := s.shares(210); got["c"] == 0 || got["c"] > 30 { // 10 of 210 is a tenth of its share
			s.t.Errorf("%v", got)
		}
	},
	"sticky": func(s *site) {
		used := map[string]bool{}
		for range 6 {
			c := s.newClient()
			c.Jar, _ = cookiejar.New(nil)
			at, _ := s.ask(c, "/")
			used[at] = true
			for range 5 {
				if again, _ := s.ask(c, "/"); again != at {
					s.t.Errorf("%s and then %s", at, again)
				}
			}
		}
		if len(used) != 3 {
			s.t.Errorf("only %v are used", used)
		}
	},
	"check": func(s *site) {
		one := s.servers[0]
		one.ill.Store(true)
		s.await("it is unhealthy", func() bool { return s.state(one).State == "unhealthy" })
		s.want(s.shares(20), 0, 10, 10)
		one.ill.Store(false)
		s.await("it is ready", func() bool { return s.state(one).State == "ready" })
		s.want(s.shares(30), 10, 10, 10)
	},
	"max_fails": func(s *site) {
		one := s.servers[0]
		one.ill.Store(true)
		for range 30 {
			s.ask(s.client, "/")
		}
		if n := one.count.Load(); n != 3 {
			s.t.Errorf("it has had %d requests", n)
		}
		if state := s.state(one).State; state != "ejected" {
			s.t.Errorf("it is %s", state)
		}
	},
	"retries": func(s *site) {
		s.servers[0].ill.Store(true)
		s.servers[1].ill.Store(true)
		if got := s.shares(20); got["c"] != 20 {
			s.t.Errorf("%v", got)
		}
		s.servers[2].ill.Store(true)
		before := s.servers[0].count.Load() + s.servers[1].count.Load() + s.servers[2].count.Load()
		if _, status := s.ask(s.client, "/"); status != 503 {
			s.t.Errorf("%d", status)
		}
		after := s.servers[0].count.Load() + s.servers[1].count.Load() + s.servers[2].count.Load()
		if after-before != 3 {
			s.t.Errorf("%d tries", after-before)
		}
	},
	"redispatch": func(s *site) {
		s.servers[0].Close()
		s.servers[1].Close()
		if got := s.shares(20); got["c"] != 20 {
			s.t.Errorf("%v", got)
		}
	},
	"another backend": func(s *site) {
		s.want(s.shares(20), 10, 10, 0)
		s.servers[0].Close()
		s.servers[1].Close()
		s.want(s.shares(20), 0, 0, 20)
	},
	"error page": func(s *site) {
		page := func(status int) {
			s.t.Helper()
			resp, err := s.client.Get(s.url)
			if err != nil {
				s.t.Fatal(err)
			}
			defer resp.Body.Close()
			if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != status || string(text) != "<h1>Sorry</h1>" {
				s.t.Errorf("%d %q, %v; want %d and the page", resp.StatusCode, text, err, status)
			}
		}
		for _, one := range s.servers {
			one.ill.Store(true)
		}
		page(503)
		for _, one := range s.servers {
			one.Close()
		}
		page(502)
	},
	"maxconn": func(s *site) {
		var group sync.WaitGroup
		s.t.Cleanup(group.Wait) // behind what hold does
		s.want(s.hold(6), 2, 2, 2)
		group.Go(func() {
			if _, status := s.ask(s.client, "/"); status != 200 {
				s.t.Errorf("what has waited is answered %d", status)
			}
		})
		s.await("one waits", func() bool { return s.proxy.Clusters()[0].CircuitBreaker.Queued == 1 })
		if _, status := s.ask(s.client, "/"); status != 503 {
			s.t.Errorf("what finds the queue full is answered %d", status)
		}
	},
	"keepalive_requests": func(s *site) {
		s.shares(36)
		for _, one := range s.servers {
			if n := one.conns.Load(); n != 3 { // of 5, 5 and 2 requests
				s.t.Errorf("%d connections for 12 requests", n)
			}
		}
	},
	"source": func(s *site) {
		s.shares(3)
		for _, one := range s.servers {
			if from := one.from.Load(); from != "127.0.0.7" {
				s.t.Errorf("connected from %v", from)
			}
		}
	},
	"requests of a client": func(s *site) {
		s.hold(2)
		if _, status := s.ask(s.client, "/"); status != 429 {
			s.t.Errorf("a third at a time is answered %d", status)
		}
	},
	"connections of a client": func(s *site) { s.keepsOut(2) },
	"connections of all":      func(s *site) { s.keepsOut(3) },
	"requests of a connection": func(s *site) {
		connections := map[string]bool{}
		for range 6 {
			req, err := http.NewRequest("GET", s.url, nil)
			if err != nil {
				s.t.Fatal(err)
			}
			trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { connections[c.Conn.LocalAddr().String()] = true }}
			resp, err := s.client.Do(req.WithContext(httptrace.WithClientTrace(context.Background(), trace)))
			if err != nil {
				s.t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if len(connections) != 3 {
			s.t.Errorf("%d connections for 6 requests, want 3", len(connections))
		}
	},
	"bandwidth": func(s *site) {
		began := time.Now()
		s.ask(s.client, "/large")
		// 16 KiB at once, and the burst of as much as passes in a second.
		if took := time.Since(began); took < time.Second {
			s.t.Errorf("48 KiB passed in %s", took)
		}
	},
	"keepalive": func(s *site) {
		s.shares(30)
		for _, one := range s.servers {
			if n := one.conns.Load(); n != 1 {
				s.t.Errorf("%d connections for requests one after the other", n)
			}
		}
		var group sync.WaitGroup
		for range 15 {
			group.Go(func() { s.ask(s.client, "/hold") })
		}
		s.await("all are held", func() bool { return s.held.Load() == 15 })
		close(s.release)
		group.Wait()
		for _, one := range s.servers {
			s.await("two are kept of five", func() bool { e := s.state(one); return e.Connections == 2 && e.Idle == 2 })
		}
	},
}

func TestEquivalents(t *testing.T) {
	p := readPage(t)
	for name := range tests {
		if p.sections[name] == "" {
			t.Errorf("docs/equivalents.md has no section %q", name)
		}
	}
	for name := range p.sections {
		t.Run(name, func(t *testing.T) {
			test := tests[name]
			if test == nil {
				t.Fatal("nothing holds it")
			}
			test(newSite(t, p.objects(name)))
		})
	}
}
