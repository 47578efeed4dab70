package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// population is routes over Services over namespaces, all served by one echo.
type population struct {
	namespaces, services, routes int // services of a namespace, routes of a Service
}

// populate divides routes among 100 Services, in ten namespaces.
func populate(routes int) population {
	return population{namespaces: 10, services: 10, routes: max(1, routes/100)}
}

func (p population) namespace(n int) string { return fmt.Sprint("team-", n) }
func (p population) service(s int) string   { return fmt.Sprint("app-", s) }

// each calls f for every route.
func (p population) each(f func(n, s, r int)) {
	for n := range p.namespaces {
		for s := range p.services {
			for r := range p.routes {
				f(n, s, r)
			}
		}
	}
}

func (p population) target(n, s, r, version int) target {
	name := fmt.Sprintf("%s-%d", p.service(s), r)
	return target{hostname(p.namespace(n), p.service(s)), fmt.Sprintf("/%d/x", r), mark(p.namespace(n), name, version)}
}

func (p population) route(n, s, r, version int) client.Object {
	t := p.target(n, s, r, version)
	return httpRoute(p.namespace(n), fmt.Sprintf("%s-%d", p.service(s), r), t.host, fmt.Sprintf("/%d", r), p.service(s), version)
}

// build creates all of it, and waits until all of it is served.
func (p population) build(ctx context.Context, w *world) (address string, err error) {
	if err := w.create(ctx, namespaceObject(edge.Namespace), gateway()); err != nil {
		return "", err
	}
	var backends, routes []client.Object
	for n := range p.namespaces {
		if err := w.create(ctx, namespaceObject(p.namespace(n))); err != nil {
			return "", err
		}
		for s := range p.services {
			backends = append(backends, service(p.namespace(n), p.service(s)),
				slice(p.namespace(n), p.service(s), p.service(s)+"-1", w.echoes[0].Addr()))
		}
	}
	var targets []target
	p.each(func(n, s, r int) {
		routes = append(routes, p.route(n, s, r, 0))
		targets = append(targets, p.target(n, s, r, 0))
	})
	if address, err = w.served(ctx, edge, httpPort); err != nil {
		return "", err
	}
	cpu, began := w.headgate.cpu(), time.Now()
	if err := w.createMany(ctx, append(backends, routes...)); err != nil {
		return "", err
	}
	created := time.Now()
	a := newAsker("http", address)
	defer a.close()
	for _, t := range targets {
		if err := await(ctx, time.Minute, "every route is served", 5*time.Millisecond, func() error { return a.right(t) }); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(w.out, "  created in %.1f s, all served and asked for %.1f s later\n", created.Sub(began).Seconds(), time.Since(created).Seconds())
	if _, err := w.quietWrites(ctx); err != nil {
		return "", err
	}
	fmt.Fprintf(w.out, "  statuses settled after %.1f s; CPU %.1f s\n", time.Since(began).Seconds(), (w.headgate.cpu() - cpu).Seconds())
	return address, nil
}

// manyRoutes measures a large number of routes as they come, as they are, and
// as they and their endpoints change.
func manyRoutes(ctx context.Context, w *world, routes int) error {
	p := populate(routes)
	address, err := p.build(ctx, w)
	if err != nil {
		return err
	}
	if err := w.settled(ctx, "with all"); err != nil {
		return err
	}
	if err := w.heap("settled"); err != nil {
		return err
	}

	const rate = 20
	i := 0
	traffic := begin(ctx, address, 200, func(a *asker) error {
		i += 7
		t := p.target(i%p.namespaces, i/7%p.services, i/5%p.routes, 0)
		status, _, got, err := a.get(t)
		if err == nil && (status != 200 || got == "") {
			err = fmt.Errorf("%s%s was answered %d by route %q", t.host, t.path, status, got)
		}
		return err
	})
	profiled := w.cpuProfile("churn")
	cpu, began, changes := w.headgate.cpu(), time.Now(), 0
	for tick := time.NewTicker(time.Second / rate); time.Since(began) < w.duration; <-tick.C {
		changes++
		n, s, r := changes%p.namespaces, changes/p.namespaces%p.services, changes%p.routes
		if err := w.kube.Patch(ctx, p.route(n, s, r, changes), client.Merge); err != nil {
			return err
		}
		moved := slice(p.namespace(n), p.service(s), p.service(s)+"-1", w.echoes[changes%2].Addr())
		if err := w.kube.Update(ctx, moved); err != nil {
			return err
		}
	}
	spent, took := w.headgate.cpu()-cpu, time.Since(began)
	if err := <-profiled; err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  %d routes and %d endpoints changed in %.0f s: CPU %.2f s, %.1f %% of one; %s\n", changes, changes,
		took.Seconds(), spent.Seconds(), 100*spent.Seconds()/took.Seconds(), traffic.end(w))
	return w.settled(ctx, "after that")
}

// cpuProfile begins a profile of the CPU, if asked to; its end is received.
func (w *world) cpuProfile(what string) <-chan error {
	done := make(chan error, 1)
	if w.profile == "" {
		done <- nil
		return done
	}
	go func() {
		done <- w.headgate.profile(fmt.Sprintf("profile?seconds=%d", max(1, int(w.duration.Seconds())-1)), filepath.Join(w.profile, w.name+"-"+what+".cpu"))
	}()
	return done
}
