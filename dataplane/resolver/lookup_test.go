package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
)

func TestLookup(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Set("db.example. A", "30 IN A 127.0.0.9", "60 IN A 127.0.0.8", "60 IN A 127.0.0.8")
	s.Set("alias.example. A", "10 IN CNAME db.example.", "db.example.|90 IN A 127.0.0.7")
	s.Set("svc.shop.svc.cluster.local. A", "5 IN A 127.0.0.6")
	s.Set("bad6.example. A", "20 IN A 127.0.0.5")
	s.Set("long.example. A", "86400 IN A 127.0.0.4")
	s.Set("zero.example. A", "0 IN A 127.0.0.4")
	s.Set("odd.example. A", "60 IN A 0.0.0.0", "60 IN A 224.0.0.1", "60 IN A 127.0.0.3")
	s.Set("none.example. A")
	s.Set("hosts.example. A", "60 IN A 127.0.0.99")
	for _, gone := range []string{"nx.example.", "nx.example.shop.svc.cluster.local.", "nx.example.cluster.local."} {
		s.Rcode(gone, dns.RcodeNameError)
	}
	s.Rcode("ill.example.", dns.RcodeServerFailure)
	s.Rcode("ill.shop.svc.cluster.local.", dns.RcodeServerFailure)
	s.Set("ill.cluster.local. A", "60 IN A 127.0.0.2")
	var many []string
	for i := range 120 {
		many = append(many, fmt.Sprintf("60 IN A 127.1.0.%d", i+1))
	}
	s.Set("many.example. A", many...)

	l := newLookup(Config{
		Nameservers: []string{s.Addr}, Timeout: 2 * time.Second,
		ResolvConf: resolvertest.File(t, "resolv.conf", "search shop.svc.cluster.local cluster.local\noptions ndots:2 attempts:1\n"),
		Hosts:      resolvertest.File(t, "hosts", "# comment\n127.0.0.50 other\n127.0.0.51\tHosts.example hosts # hosts.wrong\n::1 hosts\nnonsense hosts\n"),
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
		f, err := l.resolve(context.Background(), Question{Name: tc.name})
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		var got []string
		for _, a := range f.Addrs {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != tc.addrs || f.ttl != tc.ttl {
			t.Errorf("%s: got %v for %v, want %s for %v", tc.name, got, f.ttl, tc.addrs, tc.ttl)
		}
	}
	if f, err := l.resolve(context.Background(), Question{Name: "many.example"}); err != nil || len(f.Addrs) != 120 || s.Count("tcp") == 0 {
		t.Errorf("truncated: %d addresses, %v, %d questions over TCP", len(f.Addrs), err, s.Count("tcp"))
	}
	if f, err := l.resolve(context.Background(), Question{Name: "localhost"}); err != nil || !slices.Contains(f.Addrs, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("localhost: %v, %v", f, err)
	}
	if f, err := l.resolve(context.Background(), Question{Name: "x.localhost."}); err != nil || len(f.Addrs) == 0 {
		t.Errorf("x.localhost: %v, %v", f, err)
	}
	for _, name := range []string{"nx.example", "none.example."} {
		if _, err := l.resolve(context.Background(), Question{Name: name}); !isGone(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.resolve(context.Background(), Question{Name: "ill.example."}); !errors.Is(err, errServer) || isGone(err) {
		t.Errorf("ill.example.: %v", err)
	}
	// With two dots a name is tried as it is first; with fewer, last.
	if s.Count("svc.shop.svc. A") == 0 || s.Count("svc. A") != 0 {
		t.Errorf("the search list was not followed: %v", s.Asked())
	}
}

func TestLookupServers(t *testing.T) {
	dead, live := resolvertest.NewServer(t), resolvertest.NewServer(t)
	dead.Silence(true)
	live.Set("db.example. A", "30 IN A 127.0.0.9")
	l := newLookup(Config{Nameservers: []string{dead.Addr, live.Addr}, Timeout: 500 * time.Millisecond, Hosts: resolvertest.File(t, "hosts", ""), ResolvConf: resolvertest.File(t, "resolv.conf", "")})
	if f, err := l.resolve(context.Background(), Question{Name: "db.example."}); err != nil || len(f.Addrs) != 1 {
		t.Errorf("%v, %v", f, err)
	}
	live.Silence(true)
	if _, err := l.resolve(context.Background(), Question{Name: "db.example."}); err == nil || isGone(err) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.resolve(ctx, Question{Name: "db.example."}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	none := newLookup(Config{Hosts: resolvertest.File(t, "hosts", ""), ResolvConf: resolvertest.File(t, "resolv.conf", "search x\n")})
	if _, err := none.resolve(context.Background(), Question{Name: "db.example."}); err == nil {
		t.Error("resolved without a server")
	}
}

func TestServiceLookup(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Set("_http._tcp.shop.example. SRV", "30 IN SRV 10 5 80 b.Shop.example.", "20 IN SRV 10 7 81 c.shop.example.",
		"60 IN SRV 1 0 82 a.shop.example.", "60 IN SRV 1 0 82 a.shop.example.", "60 IN SRV 0 0 0 port.zero.")
	s.Set("_none._tcp.shop.example. SRV", "60 IN SRV 0 0 0 .")
	s.Set("_only._tcp.shop.example. A", "60 IN A 127.0.0.1")
	s.Rcode("_nx._tcp.shop.example.", dns.RcodeNameError)
	s.Rcode("_ill._tcp.shop.example.", dns.RcodeServerFailure)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("60 IN SRV %d 0 80 x%d.shop.example.", 200-i, i))
	}
	s.Set("_many._tcp.shop.example. SRV", many...)
	l := newLookup(Config{
		Nameservers: []string{s.Addr}, Timeout: 2 * time.Second, Hosts: resolvertest.File(t, "hosts", "127.0.0.1 _http._tcp\n"),
		ResolvConf: resolvertest.File(t, "resolv.conf", "search shop.example\noptions ndots:2 attempts:1\n"),
	})
	want := "[{a.shop.example. 82 1 0} {c.shop.example. 81 10 7} {b.shop.example. 80 10 5}]"
	for _, name := range []string{"_http._tcp.shop.example.", "_http._tcp.shop.example", "_http._tcp"} {
		f, err := l.resolve(context.Background(), Question{name, true})
		if got := fmt.Sprint(f.Targets); err != nil || got != want || f.ttl != 20*time.Second || len(f.Addrs) > 0 {
			t.Errorf("%s: got %s and %v for %v, %v; want %s", name, got, f.Addrs, f.ttl, err, want)
		}
	}
	for _, name := range []string{"_none._tcp.shop.example.", "_only._tcp.shop.example.", "_nx._tcp.shop.example."} {
		if f, err := l.resolve(context.Background(), Question{name, true}); !isGone(err) || !strings.Contains(err.Error(), "no SRV records") {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if _, err := l.resolve(context.Background(), Question{"_ill._tcp.shop.example.", true}); err == nil || isGone(err) {
		t.Errorf("a server that fails: %v", err)
	}
	f, err := l.resolve(context.Background(), Question{"_many._tcp.shop.example.", true})
	if err != nil || len(f.Targets) != maxTargets || f.Targets[0].Priority != 1 {
		t.Errorf("%d records, %v", len(f.Targets), err)
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
		for _, a := range f.Addrs {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("%v", a)
			}
		}
		for _, to := range f.Targets {
			if to.Name == "." || to.Port == 0 {
				t.Errorf("%v", to)
			}
		}
	})
}
