package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/miekg/dns"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// nameserver answers from a table, by "name type", over UDP and TCP.
type nameserver struct {
	addr string

	mu      sync.Mutex
	records map[string][]string // zone file lines without the name
	rcodes  map[string]int      // by name
	asked   map[string]int      // by "name type", and "tcp"
	silent  bool
}

func newNameserver(t testing.TB) *nameserver {
	t.Helper()
	s := &nameserver{records: map[string][]string{}, rcodes: map[string]int{}, asked: map[string]int{}}
	var pc net.PacketConn
	var l net.Listener
	for range 20 { // until a port is free for both
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	s.addr = pc.LocalAddr().String()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // runs last
	for _, server := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(s.serve)},
		{Listener: l, Handler: dns.HandlerFunc(s.serve)},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return s
}

func (s *nameserver) serve(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(q.Question[0].Name)
	key := name + " " + dns.TypeToString[q.Question[0].Qtype]
	s.asked[key]++
	if s.silent {
		return
	}
	r := new(dns.Msg)
	r.SetReply(q)
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if !udp {
		s.asked["tcp"]++
	}
	for _, line := range s.records[key] {
		owner := name
		if before, after, found := strings.Cut(line, "|"); found {
			owner, line = before, after
		}
		record, err := dns.NewRR(owner + " " + line)
		if err != nil {
			panic(err)
		}
		r.Answer = append(r.Answer, record)
	}
	r.Rcode = s.rcodes[name]
	if udp && r.Len() > 1232 {
		r.Answer, r.Truncated = nil, true
	}
	w.WriteMsg(r)
}

func (s *nameserver) set(key string, lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[key] = lines
}

func (s *nameserver) rcode(name string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[name] = code
}

func (s *nameserver) silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

func (s *nameserver) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key]
}

func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLookup(t *testing.T) {
	s := newNameserver(t)
	s.set("db.example. A", "30 IN A 127.0.0.9", "60 IN A 127.0.0.8", "60 IN A 127.0.0.8")
	s.set("alias.example. A", "10 IN CNAME db.example.", "db.example.|90 IN A 127.0.0.7")
	s.set("svc.shop.svc.cluster.local. A", "5 IN A 127.0.0.6")
	s.set("bad6.example. A", "20 IN A 127.0.0.5")
	s.set("long.example. A", "86400 IN A 127.0.0.4")
	s.set("zero.example. A", "0 IN A 127.0.0.4")
	s.set("odd.example. A", "60 IN A 0.0.0.0", "60 IN A 224.0.0.1", "60 IN A 127.0.0.3")
	s.set("none.example. A")
	s.set("hosts.example. A", "60 IN A 127.0.0.99")
	for _, gone := range []string{"nx.example.", "nx.example.shop.svc.cluster.local.", "nx.example.cluster.local."} {
		s.rcode(gone, dns.RcodeNameError)
	}
	s.rcode("ill.example.", dns.RcodeServerFailure)
	s.rcode("ill.shop.svc.cluster.local.", dns.RcodeServerFailure)
	s.set("ill.cluster.local. A", "60 IN A 127.0.0.2")
	var many []string
	for i := range 120 {
		many = append(many, fmt.Sprintf("60 IN A 127.1.0.%d", i+1))
	}
	s.set("many.example. A", many...)

	l := newLookup(DNS{
		Nameservers: []string{s.addr}, Timeout: 2 * time.Second,
		ResolvConf: file(t, "resolv.conf", "search shop.svc.cluster.local cluster.local\noptions ndots:2 attempts:1\n"),
		Hosts:      file(t, "hosts", "# comment\n127.0.0.50 other\n127.0.0.51\tHosts.example hosts # hosts.wrong\n::1 hosts\nnonsense hosts\n"),
	})
	for _, tc := range []struct {
		name  string
		addrs string
		ttl   time.Duration
	}{
		{"db.example.", "127.0.0.8 127.0.0.9", 30 * time.Second},
		{"db.example", "127.0.0.8 127.0.0.9", 30 * time.Second},
		{"DB.example", "127.0.0.8 127.0.0.9", 30 * time.Second},
		{"alias.example", "127.0.0.7", 10 * time.Second},
		{"svc", "127.0.0.6", 5 * time.Second},
		{"svc.shop.svc", "127.0.0.6", 5 * time.Second},
		{"long.example", "127.0.0.4", 5 * time.Minute},
		{"zero.example", "127.0.0.4", time.Second},
		{"odd.example", "127.0.0.3", time.Minute},
		{"hosts.example", "127.0.0.51", hostsTTL},
		{"ill", "127.0.0.2", time.Minute},
	} {
		f, err := l.resolve(context.Background(), question{name: tc.name})
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		var got []string
		for _, a := range f.addrs {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != tc.addrs || f.ttl != tc.ttl {
			t.Errorf("%s: got %v for %v, want %s for %v", tc.name, got, f.ttl, tc.addrs, tc.ttl)
		}
	}
	if f, err := l.resolve(context.Background(), question{name: "many.example"}); err != nil || len(f.addrs) != 120 || s.count("tcp") == 0 {
		t.Errorf("truncated: %d addresses, %v, %d questions over TCP", len(f.addrs), err, s.count("tcp"))
	}
	if f, err := l.resolve(context.Background(), question{name: "localhost"}); err != nil || !slices.Contains(f.addrs, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("localhost: %v, %v", f, err)
	}
	if f, err := l.resolve(context.Background(), question{name: "x.localhost."}); err != nil || len(f.addrs) == 0 {
		t.Errorf("x.localhost: %v, %v", f, err)
	}
	for _, name := range []string{"nx.example", "none.example."} {
		if _, err := l.resolve(context.Background(), question{name: name}); !isGone(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.resolve(context.Background(), question{name: "ill.example."}); !errors.Is(err, errServer) || isGone(err) {
		t.Errorf("ill.example.: %v", err)
	}
	// With two dots a name is tried as it is first; with fewer, last.
	if s.count("svc.shop.svc. A") == 0 || s.count("svc. A") != 0 {
		t.Errorf("the search list was not followed: %v", s.asked)
	}
}

func TestLookupServers(t *testing.T) {
	dead, live := newNameserver(t), newNameserver(t)
	dead.silence(true)
	live.set("db.example. A", "30 IN A 127.0.0.9")
	l := newLookup(DNS{Nameservers: []string{dead.addr, live.addr}, Timeout: 50 * time.Millisecond, Hosts: file(t, "hosts", ""), ResolvConf: file(t, "resolv.conf", "")})
	if f, err := l.resolve(context.Background(), question{name: "db.example."}); err != nil || len(f.addrs) != 1 {
		t.Errorf("%v, %v", f, err)
	}
	live.silence(true)
	if _, err := l.resolve(context.Background(), question{name: "db.example."}); err == nil || isGone(err) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.resolve(ctx, question{name: "db.example."}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	none := newLookup(DNS{Hosts: file(t, "hosts", ""), ResolvConf: file(t, "resolv.conf", "search x\n")})
	if _, err := none.resolve(context.Background(), question{name: "db.example."}); err == nil {
		t.Error("resolved without a server")
	}
}

func hosts(port uint16, names ...string) *snapshot.Endpoints {
	eps := &snapshot.Endpoints{}
	for _, n := range names {
		eps.Hosts = append(eps.Hosts, snapshot.Host{Name: n, Port: port, Weight: 3})
	}
	return eps
}

func addresses(c *Cluster) string {
	var list []string
	for _, s := range c.State() {
		list = append(list, s.Address)
	}
	return strings.Join(list, " ")
}

// testDNS resolves quickly, from s alone.
func testDNS(t testing.TB, s *nameserver) DNS {
	return DNS{
		Nameservers: []string{s.addr}, MinTTL: 10 * time.Millisecond, MaxTTL: 50 * time.Millisecond, Timeout: 500 * time.Millisecond,
		Hosts: file(t, "hosts", ""), ResolvConf: file(t, "resolv.conf", "options attempts:1\n"),
	}
}

// TestHosts follows a name through its life.
func TestHosts(t *testing.T) {
	b := newBackend(t, ok)
	s := newNameserver(t)
	s.set("db.example. A", "0 IN A 127.0.0.1")
	m := newManagerFor(t, Options{DNS: testDNS(t, s)})
	c := m.NewCluster(cfg(), hosts(b.addr.Port(), "db.example."))
	send(t, c, "GET", "") // which waits for the first answer
	if got := stateOf(t, c, b.addr); got.Weight != 3 || got.Requests != 1 {
		t.Errorf("%+v", got)
	}

	// It moves, with what had stayed keeping its identity.
	s.set("db.example. A", "0 IN A 127.0.0.1", "0 IN A 127.0.0.2")
	both := fmt.Sprintf("127.0.0.1:%d 127.0.0.2:%[1]d", b.addr.Port())
	eventually(t, "the new address is used", func() bool { return addresses(c) == both })
	if got := stateOf(t, c, b.addr); got.Requests != 1 || got.Idle != 1 {
		t.Errorf("%+v", got)
	}

	// The name server fails in every way, and the addresses stay.
	for _, how := range []func(){
		func() { s.rcode("db.example.", dns.RcodeServerFailure) },
		func() { s.silence(true) },
	} {
		how()
		before := s.count("db.example. A")
		eventually(t, "it is asked again", func() bool { return s.count("db.example. A") > before+1 })
		if got := addresses(c); got != both {
			t.Errorf("got %s", got)
		}
	}
	s.silence(false)
	s.rcode("db.example.", dns.RcodeSuccess)
	s.set("db.example. A", "0 IN A 127.0.0.2")
	eventually(t, "it recovers", func() bool { return addresses(c) == fmt.Sprintf("127.0.0.2:%d", b.addr.Port()) })

	// What is known to be gone goes.
	s.rcode("db.example.", dns.RcodeNameError)
	eventually(t, "it is gone", func() bool { return addresses(c) == "" })
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_endpoint" {
		t.Errorf("%v", up)
	}

	// Nobody asks any more once nobody is interested.
	c.SetEndpoints(endpoints(b.addr))
	m.resolver.mu.Lock()
	left := len(m.resolver.names)
	m.resolver.mu.Unlock()
	if left != 0 {
		t.Errorf("%d names are still looked up", left)
	}
	send(t, c, "GET", "")
}

func TestHostLiteralsAndLocalhost(t *testing.T) {
	b := newBackend(t, ok)
	s := newNameserver(t)
	s.silence(true)
	opts := Options{DNS: testDNS(t, s), Log: logr.Discard()}
	opts.DNS.Hosts = file(t, "hosts", "127.0.0.1 localhost\n")
	m := newManagerFor(t, opts)
	for _, name := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."} {
		c := m.NewCluster(cfg(), hosts(b.addr.Port(), name))
		send(t, c, "GET", "")
		if got := addresses(c); got != b.addr.String() {
			t.Errorf("%s: %s", name, got)
		}
		c.Close()
	}
	if len(s.asked) != 0 {
		t.Errorf("DNS was asked: %v", s.asked)
	}
}

// TestUnresolved: a name that never resolves costs a request no more than its
// time to connect.
func TestUnresolved(t *testing.T) {
	s := newNameserver(t)
	s.silence(true)
	opts := Options{DNS: testDNS(t, s)}
	opts.DNS.Timeout = time.Minute
	m := newManagerFor(t, opts)
	x := cfg()
	x.ConnectTimeout = 20 * time.Millisecond
	c := m.NewCluster(x, hosts(80, "db.example."))
	ex := newExchange("GET", "")
	if up := fail(t, c, ex); up.Reason != "no_endpoint" || ex.Upstream.Wait < 20*time.Millisecond {
		t.Errorf("%v after %v", up, ex.Upstream.Wait)
	}
	// One that does, beside it, serves at once.
	b := newBackend(t, ok)
	eps := hosts(80, "db.example.")
	eps.Endpoints = endpoints(b.addr).Endpoints
	c.SetEndpoints(eps)
	send(t, c, "GET", "")
}

// TestSharedName has two clusters look up one name.
func TestSharedName(t *testing.T) {
	b := newBackend(t, ok)
	s := newNameserver(t)
	s.set("db.example. A", "3600 IN A 127.0.0.1")
	opts := Options{DNS: testDNS(t, s)}
	opts.DNS.MinTTL, opts.DNS.MaxTTL = time.Hour, time.Hour
	m := newManagerFor(t, opts)
	one := m.NewCluster(cfg(), hosts(b.addr.Port(), "db.example."))
	send(t, one, "GET", "")
	two := m.NewCluster(cfg(), hosts(b.addr.Port(), "DB.example."))
	send(t, two, "GET", "")
	one.Close()
	send(t, two, "GET", "")
	if n := s.count("db.example. A"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1 a b\n::1 a # c\n", "a")
	f.Add("fe80::1%lo0 x\r\n\t10.0.0.1\tx.", "X")
	f.Fuzz(func(t *testing.T, text, name string) {
		got := hostsEntries(text, name)
		// Lines with no mention of the name, and comments, add nothing.
		if again := hostsEntries("# 192.0.2.1 "+strings.ReplaceAll(name, "\n", "")+"\n192.0.2.2 \x01\n"+text, name); name != "\x01" && !slices.Equal(got, again) {
			t.Errorf("%v, then %v", got, again)
		}
		for _, a := range got {
			if !a.IsValid() {
				t.Error("an invalid address")
			}
		}
	})
}

// FuzzRead feeds answers as they come from the network.
func FuzzRead(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	record, _ := dns.NewRR("a.example. 5 IN A 192.0.2.1")
	m.Answer = append(m.Answer, record)
	wire, _ := m.Pack()
	f.Add(wire)
	record, _ = dns.NewRR("_http._tcp.a.example. 5 IN SRV 1 2 80 b.example.")
	m.Answer = []dns.RR{record}
	wire, _ = m.Pack()
	f.Add(wire)
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		f := read(m)
		for _, a := range f.addrs {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("%v", a)
			}
		}
		for _, to := range f.targets {
			if to.name == "." || to.port == 0 {
				t.Errorf("%v", to)
			}
		}
	})
}
