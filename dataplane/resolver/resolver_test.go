package resolver

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSubscriptions has two share a name, which is looked up until both have stopped.
func TestSubscriptions(t *testing.T) {
	s := resolvertest.NewServer(t)
	s.Set("db.example. A", "0 IN A 127.0.0.1")
	ctx, cancel := context.WithCancel(context.Background())
	r := New(ctx, Config{
		Nameservers: []string{s.Addr}, MinTTL: 10 * time.Millisecond,
		Hosts: resolvertest.File(t, "hosts", ""), ResolvConf: resolvertest.File(t, "resolv.conf", ""),
	}, logr.Discard())
	defer r.Wait()
	defer cancel()
	q := Question{Name: "db.example."}
	changed := make(chan struct{}, 1)
	one := r.Subscribe(q, func() {
		select {
		case changed <- struct{}{}:
		default: // one that was not taken yet is as good
		}
	})
	await := func(want string) {
		t.Helper()
		for late := time.After(10 * time.Second); ; {
			select {
			case <-changed:
				if a := one.Answer(); fmt.Sprint(a.Addrs) == want {
					return
				}
			case <-late:
				t.Fatalf("nobody is told of %s", want)
			}
		}
	}
	await("[127.0.0.1]")
	two := r.Subscribe(q, func() {})
	if two.Answer() != one.Answer() {
		t.Error("who comes second has another answer")
	}
	s.Set("db.example. A", "0 IN A 127.0.0.2")
	await("[127.0.0.2]")
	one.Stop()
	if len(r.names) != 1 {
		t.Error("it is looked up no more while somebody is interested")
	}
	two.Stop()
	if len(r.names) != 0 {
		t.Error("it is still looked up when nobody is interested")
	}
}
