package upstream

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestServiceRecords follows SRV records through their life.
func TestServiceRecords(t *testing.T) {
	b := newBackend(t, ok)
	port := b.addr.Port()
	s := resolvertest.NewServer(t)
	const name = "_http._tcp.shop.example. SRV"
	record := func(priority, weight int, host string) string {
		return fmt.Sprintf("0 IN SRV %d %d %d %s", priority, weight, port, host)
	}
	s.Set(name, record(10, 3, "a.shop.example."))
	s.Set("a.shop.example. A", "0 IN A 127.0.0.1")
	s.Set("b.shop.example. A", "0 IN A 127.0.0.2", "0 IN A 127.0.0.3")
	m := newManagerFor(t, Options{DNS: testDNS(t, s)})
	c := m.NewCluster(cfg(), &snapshot.Endpoints{Hosts: []snapshot.Host{{Name: "_HTTP._tcp.shop.example.", SRV: true, Zone: "z"}}})
	send(t, c, "GET", "") // which waits for the records and for the addresses
	if got := stateOf(t, c, b.addr); got.Weight != 3 || got.Requests != 1 || got.Zone != "z" || got.Tier != 0 {
		t.Errorf("%+v", got)
	}

	// Another host comes, and is preferred; what stays keeps its connections.
	places := func() string {
		text := ""
		for _, e := range c.State() {
			text += fmt.Sprintf(" %s×%d/%d", strings.TrimSuffix(e.Address, fmt.Sprintf(":%d", port)), e.Weight, e.Tier)
		}
		return text
	}
	s.Set(name, record(10, 3, "a.shop.example."), record(2, 0, "b.shop.example."))
	both := " 127.0.0.1×3/1 127.0.0.2×1/0 127.0.0.3×1/0"
	eventually(t, "the new host is used", func() bool { return places() == both })
	if got := stateOf(t, c, b.addr); got.Requests != 1 || got.Idle != 1 {
		t.Errorf("%+v", got)
	}

	// The records cannot be had for a while: the hosts stay, and are followed.
	s.Rcode("_http._tcp.shop.example.", dns.RcodeServerFailure)
	before := s.Count(name)
	eventually(t, "it is asked again", func() bool { return s.Count(name) > before+1 })
	s.Set("b.shop.example. A", "0 IN A 127.0.0.2")
	eventually(t, "an address goes", func() bool { return places() == " 127.0.0.1×3/1 127.0.0.2×1/0" })

	// A host goes, and is not looked up any more.
	s.Rcode("_http._tcp.shop.example.", dns.RcodeSuccess)
	s.Set(name, record(10, 3, "a.shop.example."))
	eventually(t, "the host is gone", func() bool { return places() == " 127.0.0.1×3/0" })
	if n := subscriptions(c); n != 2 {
		t.Errorf("%d names are looked up", n)
	}

	// "." says that there is no such service.
	s.Set(name, "0 IN SRV 0 0 0 .")
	eventually(t, "the service is gone", func() bool { return addresses(c) == "" })
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_endpoint" {
		t.Errorf("%v", up)
	}
	c.SetEndpoints(endpoints(b.addr))
	if n := subscriptions(c); n != 0 {
		t.Errorf("%d names are looked up", n)
	}
}

// TestRemoteHost: a name does not lead to this machine where it must not.
func TestRemoteHost(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Set("a.example. A", "60 IN A 127.0.0.1", "60 IN A 192.0.2.1", "60 IN A 169.254.169.254")
	s.Set("_a._tcp.example. SRV", "60 IN SRV 1 1 80 a.example.")
	m := newManagerFor(t, Options{DNS: testDNS(t, s)})
	for _, h := range []snapshot.Host{{Name: "a.example.", Port: 80, Remote: true}, {Name: "_a._tcp.example.", SRV: true, Remote: true}} {
		c := m.NewCluster(cfg(), &snapshot.Endpoints{Hosts: []snapshot.Host{h}})
		eventually(t, "it is resolved", func() bool { return c.state.Load().resolving == nil })
		for _, e := range c.State() {
			if e.Address != "192.0.2.1:80" {
				t.Errorf("%s leads to %s", h.Name, e.Address)
			}
		}
		c.Close()
	}
}

// TestServicePriorities: records order what is within a priority of the configuration.
func TestServicePriorities(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Set("_a._tcp.example. SRV", "60 IN SRV 65535 1 80 a.example.")
	s.Set("_b._tcp.example. SRV", "60 IN SRV 0 1 80 b.example.")
	s.Set("a.example. A", "60 IN A 127.0.0.1")
	s.Set("b.example. A", "60 IN A 127.0.0.2")
	m := newManagerFor(t, Options{DNS: testDNS(t, s)})
	c := m.NewCluster(cfg(), &snapshot.Endpoints{
		Endpoints: []snapshot.Endpoint{{Address: "127.0.0.3", Port: 80, Priority: 2}},
		Hosts:     []snapshot.Host{{Name: "_b._tcp.example.", SRV: true, Priority: 1}, {Name: "_a._tcp.example.", SRV: true}},
	})
	eventually(t, "all are known", func() bool { return len(c.State()) == 3 })
	for i, e := range c.State() {
		if e.Tier != i {
			t.Errorf("%s is in tier %d", e.Address, e.Tier)
		}
	}
}
