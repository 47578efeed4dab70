package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/miekg/dns"

	"github.com/headgate/headgate/dataplane/resolver"
	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func hosts(port uint16, names ...string) *snapshot.Endpoints {
	eps := &snapshot.Endpoints{}
	for _, n := range names {
		eps.Hosts = append(eps.Hosts, snapshot.Host{Name: n, Port: port, Weight: 3})
	}
	return eps
}

// subscriptions is how many names the cluster has looked up.
func subscriptions(c *Cluster) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.hosts)
}

func addresses(c *Cluster) string {
	var list []string
	for _, s := range c.State() {
		list = append(list, s.Address)
	}
	return strings.Join(list, " ")
}

// testDNS resolves quickly, from s alone.
func testDNS(t testing.TB, s *resolvertest.Server) resolver.Config {
	return resolver.Config{
		Nameservers: []string{s.Addr}, MinTTL: 10 * time.Millisecond, MaxTTL: 50 * time.Millisecond, Timeout: 500 * time.Millisecond,
		Hosts: resolvertest.File(t, "hosts", ""), ResolvConf: resolvertest.File(t, "resolv.conf", "options attempts:1\n"),
	}
}

// TestHosts follows a name through its life.
func TestHosts(t *testing.T) {
	b := newBackend(t, ok)
	s := resolvertest.NewServer(t)
	s.Set("db.example. A", "0 IN A 127.0.0.1")
	m := newManagerFor(t, Options{DNS: testDNS(t, s)})
	c := m.NewCluster(cfg(), hosts(b.addr.Port(), "db.example."))
	send(t, c, "GET", "") // which waits for the first answer
	if got := stateOf(t, c, b.addr); got.Weight != 3 || got.Requests != 1 {
		t.Errorf("%+v", got)
	}

	// It moves, with what had stayed keeping its identity.
	s.Set("db.example. A", "0 IN A 127.0.0.1", "0 IN A 127.0.0.2")
	both := fmt.Sprintf("127.0.0.1:%d 127.0.0.2:%[1]d", b.addr.Port())
	eventually(t, "the new address is used", func() bool { return addresses(c) == both })
	if got := stateOf(t, c, b.addr); got.Requests != 1 || got.Idle != 1 {
		t.Errorf("%+v", got)
	}

	// The name server fails in every way, and the addresses stay.
	for _, how := range []func(){
		func() { s.Rcode("db.example.", dns.RcodeServerFailure) },
		func() { s.Silence(true) },
	} {
		how()
		before := s.Count("db.example. A")
		eventually(t, "it is asked again", func() bool { return s.Count("db.example. A") > before+1 })
		if got := addresses(c); got != both {
			t.Errorf("got %s", got)
		}
	}
	s.Silence(false)
	s.Rcode("db.example.", dns.RcodeSuccess)
	s.Set("db.example. A", "0 IN A 127.0.0.2")
	eventually(t, "it recovers", func() bool { return addresses(c) == fmt.Sprintf("127.0.0.2:%d", b.addr.Port()) })

	// What is known to be gone goes.
	s.Rcode("db.example.", dns.RcodeNameError)
	eventually(t, "it is gone", func() bool { return addresses(c) == "" })
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_endpoint" {
		t.Errorf("%v", up)
	}

	// Nobody asks any more once nobody is interested.
	c.SetEndpoints(endpoints(b.addr))
	if n := subscriptions(c); n != 0 {
		t.Errorf("%d names are still looked up", n)
	}
	send(t, c, "GET", "")
}

func TestHostLiteralsAndLocalhost(t *testing.T) {
	b := newBackend(t, ok)
	s := resolvertest.NewServer(t)
	s.Silence(true)
	opts := Options{DNS: testDNS(t, s), Log: logr.Discard()}
	opts.DNS.Hosts = resolvertest.File(t, "hosts", "127.0.0.1 localhost\n")
	m := newManagerFor(t, opts)
	for _, name := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."} {
		c := m.NewCluster(cfg(), hosts(b.addr.Port(), name))
		send(t, c, "GET", "")
		if got := addresses(c); got != b.addr.String() {
			t.Errorf("%s: %s", name, got)
		}
		c.Close()
	}
	if asked := s.Asked(); len(asked) != 0 {
		t.Errorf("DNS was asked: %v", asked)
	}
}

// TestOneFamilyFails: what is known of a name's addresses of one IP family stays
// while only those of the other can be looked up.
func TestOneFamilyFails(t *testing.T) {
	needIPv6(t)
	s := resolvertest.NewServer(t)
	s.Set("db.example. A", "0 IN A 127.0.0.1")
	s.Set("db.example. AAAA", "0 IN AAAA ::1")
	c := newManagerFor(t, Options{DNS: testDNS(t, s)}).NewCluster(cfg(), hosts(80, "db.example."))
	are := func(want string) {
		t.Helper()
		eventually(t, "they are "+want, func() bool { return addresses(c) == want })
	}
	are("127.0.0.1:80 [::1]:80")
	s.Rcode("db.example. AAAA", dns.RcodeServerFailure)
	s.Set("db.example. A", "0 IN A 127.0.0.2")
	are("127.0.0.2:80 [::1]:80")
	s.Rcode("db.example. AAAA", dns.RcodeSuccess)
	s.Set("db.example. AAAA")
	are("127.0.0.2:80")

	s.Set("db.example. AAAA", "0 IN AAAA ::1")
	are("127.0.0.2:80 [::1]:80")
	s.Rcode("db.example. A", dns.RcodeServerFailure)
	before := s.Count("db.example. A")
	eventually(t, "it is asked again", func() bool { return s.Count("db.example. A") > before+1 })
	are("127.0.0.2:80 [::1]:80")
	s.Rcode("db.example. A", dns.RcodeSuccess)
	s.Set("db.example. A")
	are("[::1]:80")
}

// TestUnresolved: a name that never resolves costs a request no more than its
// time to connect.
func TestUnresolved(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Silence(true)
	opts := Options{DNS: testDNS(t, s)}
	opts.DNS.Timeout = time.Minute
	m := newManagerFor(t, opts)
	x := cfg()
	x.ConnectTimeout = 200 * time.Millisecond
	c := m.NewCluster(x, hosts(80, "db.example."))
	ex := newExchange("GET", "")
	if up := fail(t, c, ex); up.Reason != "no_endpoint" || ex.Upstream.Wait < x.ConnectTimeout/2 {
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
	s := resolvertest.NewServer(t)
	s.Set("db.example. A", "3600 IN A 127.0.0.1")
	opts := Options{DNS: testDNS(t, s)}
	opts.DNS.MinTTL, opts.DNS.MaxTTL = time.Hour, time.Hour
	m := newManagerFor(t, opts)
	one := m.NewCluster(cfg(), hosts(b.addr.Port(), "db.example."))
	send(t, one, "GET", "")
	two := m.NewCluster(cfg(), hosts(b.addr.Port(), "DB.example."))
	send(t, two, "GET", "")
	one.Close()
	send(t, two, "GET", "")
	if n := s.Count("db.example. A"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}
