package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	// instances is how many endpoints the backend has that is updated.
	instances = 10
	// terminating is how long an endpoint serves on when it is to end, as with the
	// preStop hook that docs/operations.md asks for.
	terminating = time.Second
)

// rollout replaces the endpoints of a backend one by one while wrk runs, as a
// Deployment does: a new one is ready, an old one terminates, ends, and is gone. Not
// one request may fail.
func (t *testbed) rollout() error {
	i := slices.IndexFunc(t.proxies, func(p *proxy) bool { return p.name == "headgate" })
	if i < 0 {
		return errors.New("it is of Headgate: -proxies must have it")
	}
	p := t.proxies[i]
	free, err := freeAddress()
	if err != nil {
		return err
	}
	r := &rolling{testbed: t, dir: p.Dir}
	_, r.port, _ = net.SplitHostPort(free)
	for range instances {
		if err := r.begin(); err != nil {
			return err
		}
	}
	if err := r.write(); err != nil {
		return err
	}
	if err := answers(t.ctx, p.HTTP, t.s.path, nil); err != nil {
		return err
	}
	type loaded struct {
		sample
		err error
	}
	t.results = []result{{Scenario: t.s.name, Proxy: p.name}}
	for round := range t.o.rounds {
		load, duration := make(chan loaded, 1), instances*(terminating+500*time.Millisecond)
		go func() {
			one, err := wrk(t.ctx, t.o, t.s, p, duration)
			load <- loaded{one, err}
		}()
		err := r.update()
		got := <-load
		if err := errors.Join(err, got.err); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s %d/%d %.0f req/s\n", t.s.name, round+1, t.o.rounds, got.rate)
		t.results[0].runs = append(t.results[0].runs, got.sample)
	}
	return nil
}

// rolling is the backend that is updated.
type rolling struct {
	*testbed
	dir, port string
	last      int // that was ever begun
	all       []instance
}

type instance struct {
	address     string
	pid         int
	terminating bool
}

// begin starts an instance, at an address of its own.
func (r *rolling) begin() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r.last++
	one := instance{address: fmt.Sprintf("127.0.%d.%d", 1+r.last/250, 1+r.last%250)}
	at := net.JoinHostPort(one.address, r.port)
	if one.pid, err = r.start(r.o.clientCore, filepath.Join(r.dir, at+".log"), self, "-echo", at); err != nil {
		return err
	}
	r.all = append(r.all, one)
	return listens(r.ctx, at)
}

// write has Headgate see the instances as they are.
func (r *rolling) write() error {
	text := fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: rolling
  namespace: bench
  labels: {kubernetes.io/service-name: rolling}
addressType: IPv4
ports: [{name: http, port: %s}]
endpoints:
`, r.port)
	for _, one := range r.all {
		text += fmt.Sprintf("- {addresses: [%s], conditions: {ready: %t, serving: true, terminating: %t}}\n", one.address, !one.terminating, one.terminating)
	}
	hidden := filepath.Join(r.dir, ".rolling")
	if err := os.WriteFile(hidden, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(hidden, filepath.Join(r.dir, "rolling.yaml"))
}

// update replaces all instances.
func (r *rolling) update() error {
	for range instances {
		if err := r.begin(); err != nil {
			return err
		}
		r.all[0].terminating = true
		if err := r.write(); err != nil {
			return err
		}
		select {
		case <-time.After(terminating):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
		old := r.all[0]
		r.all = r.all[1:]
		if err := syscall.Kill(old.pid, syscall.SIGTERM); err != nil {
			return err
		}
		if err := r.write(); err != nil {
			return err
		}
	}
	return nil
}
