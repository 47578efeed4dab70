//go:build e2e

package e2e

import (
	"testing"
)

// TestRollouts replaces pods under load, in every way that one does on purpose.
// Not one request may fail, and every connection that is in use ends only after
// it was told to.
func TestRollouts(t *testing.T) {
	install(t)
	s := newShop(t, "rollouts")

	// replaced are the ways whose connections all go to pods that were replaced.
	headgate := func(name string, change func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			l := s.load()
			change(t)
			settled(t, system, release)
			for way, r := range l.stop(t) {
				if way != "HTTP/1.1, new" && way != "HTTP/1.1 TLS, new" && r.Announced == 0 {
					t.Errorf("%s: not one connection was told that it ends: %s", way, r)
				}
			}
		})
	}
	headgate("Headgate restarted", func(t *testing.T) {
		kubectl(t, "-n", system, "rollout", "restart", "deployment/"+release)
	})
	headgate("Headgate upgraded with another value", func(t *testing.T) {
		install(t, "--set", "log.level=debug")
	})

	backends := func(name string, change func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			l := s.load()
			change(t)
			settled(t, s.namespace, "steady")
			settled(t, s.namespace, "abrupt")
			l.stop(t)
		})
	}
	backends("Backends restarted", func(t *testing.T) {
		kubectl(t, "-n", s.namespace, "rollout", "restart", "deployment/steady", "deployment/abrupt")
	})
	backends("Backends scaled up and down", func(t *testing.T) {
		kubectl(t, "-n", s.namespace, "scale", "--replicas=6", "deployment/steady", "deployment/abrupt")
		settled(t, s.namespace, "steady")
		settled(t, s.namespace, "abrupt")
		kubectl(t, "-n", s.namespace, "scale", "--replicas=2", "deployment/steady", "deployment/abrupt")
	})
}
