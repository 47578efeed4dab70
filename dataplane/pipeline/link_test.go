package pipeline

import (
	"slices"
	"testing"

	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestApplyTouchesWhatTheDeltaNames(t *testing.T) {
	b := newBench(t)
	kept := to("a", filters(b.step("kept")))
	changed := to("a", filters(b.step("changed")))
	changed.Match.Path.Value = "/changed"
	other := to("b", filters(b.step("other")))
	b.host(gateway, "*", changed, kept)
	b.host(gateway, "other.example.com", other)
	b.must()
	a, bb := b.fakes["a"], b.fakes["b"]
	if want := []string{"changed built", "kept built", "other built"}; !slices.Equal(sorted(b.log), want) {
		t.Fatalf("built %q", b.log)
	}

	// One rule of one host changes: a request in flight keeps the old one.
	ex := request("GET /changed")
	b.Serve(ex)
	b.log = nil
	again := to("b", filters(b.step("again")))
	again.Match.Path.Value = "/changed"
	b.host(gateway, "*", again, kept)
	snap := b.snap
	if err := b.Apply(&snap, &snapshot.Delta{Hosts: []string{snapshot.HostKey(gateway, "*")}}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"again built", "changed released"}; !slices.Equal(b.log, want) {
		t.Errorf("got %q, want %q", b.log, want)
	}
	b.Done(ex, nil)
	if b.do(request("GET /changed")); len(bb.seen()) != 1 {
		t.Error("the new rule does not serve")
	}

	// Endpoints reach their cluster and nothing else.
	b.log = nil
	eps := &snapshot.Endpoints{Endpoints: []snapshot.Endpoint{{Address: "192.0.2.1", Port: 80}}}
	b.snap.Endpoints = b.snap.Endpoints.With("a", eps)
	snap = b.snap
	if err := b.Apply(&snap, &snapshot.Delta{Endpoints: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	if a.eps != eps || len(b.log) != 0 || a.updates+bb.updates != 0 {
		t.Errorf("endpoints %v, filters %q, updates %d", a.eps, b.log, a.updates+bb.updates)
	}

	// The same again, and nothing known of it: nothing is built anew.
	b.must()
	if len(b.log) != 0 {
		t.Errorf("built without need: %q", b.log)
	}

	// A host and its cluster go.
	b.snap.Hosts = b.snap.Hosts.Without(snapshot.HostKey(gateway, "other.example.com"))
	b.snap.Clusters = b.snap.Clusters.Without("a")
	b.host(gateway, "*", again)
	snap = b.snap
	if err := b.Apply(&snap, &snapshot.Delta{
		Hosts:    []string{snapshot.HostKey(gateway, "*"), snapshot.HostKey(gateway, "other.example.com")},
		Clusters: []string{"a"},
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"kept released", "other released"}; !slices.Equal(sorted(b.log), want) || !a.closed || bb.closed {
		t.Errorf("got %q, want %q; closed %v %v", b.log, want, a.closed, bb.closed)
	}
	if b.fakes["a"] != a || len(b.Clusters()) != 1 {
		t.Error("a cluster was made anew")
	}

	b.log = nil
	b.Close()
	if want := []string{"again released"}; !slices.Equal(b.log, want) || !bb.closed {
		t.Errorf("after Close: %q", b.log)
	}
}

// TestHostsOutliveListeners has hosts before their listener, and after.
func TestHostsOutliveListeners(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", to("a"))
	b.host("shop/gateway/second", "*", to("b"))
	listeners := b.snap.Ports
	b.snap.Ports = nil
	b.must()
	if status, reason := b.do(request("GET /")); status != 404 || reason != "no_listener" {
		t.Errorf("without a listener: %d %s", status, reason)
	}
	for range 3 {
		b.snap.Ports = listeners
		snap := b.snap
		if err := b.Apply(&snap, &snapshot.Delta{Ports: true}); err != nil {
			t.Fatal(err)
		}
		if status, _ := b.do(request("GET /")); status != 200 {
			t.Errorf("with it: %d", status)
		}
		b.listen(&snapshot.Listener{Key: "shop/gateway/second", Port: 80})
		snap = b.snap
		if err := b.Apply(&snap, &snapshot.Delta{Ports: true}); err != nil {
			t.Fatal(err)
		}
		if status, _ := b.do(request("GET /")); status != 200 {
			t.Errorf("the second: %d", status)
		}
		if n := len(b.tables.Load().hosts); n != 2 {
			t.Errorf("%d tables of hosts for 2 listeners", n)
		}
	}
	if n, m := len(b.fakes["a"].seen()), len(b.fakes["b"].seen()); n != 3 || m != 3 {
		t.Errorf("%d and %d requests", n, m)
	}
}

func TestUnknownClusterIsLinkedLater(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", to("late"))
	if err := b.apply(); err == nil {
		t.Error("no error for a cluster that is not there")
	}
	if status, reason := b.do(request("GET /")); status != 500 || reason != "unresolved_backend" {
		t.Errorf("%d %s", status, reason)
	}
	b.snap.Clusters = b.snap.Clusters.With("late", &snapshot.Cluster{Key: "late"})
	b.must()
	if status, _ := b.do(request("GET /")); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

func TestWrongTrustedProxy(t *testing.T) {
	b := newBench(t)
	b.listen(&snapshot.Listener{Key: gateway, Client: &snapshot.Client{TrustedProxies: []string{"everybody", "192.0.2.0/24"}}})
	b.host(gateway, "*", to("a"))
	if err := b.apply(); err == nil {
		t.Error("no error")
	}
	if status, _ := b.do(request("GET /")); status != 200 {
		t.Errorf("%d", status)
	}
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
