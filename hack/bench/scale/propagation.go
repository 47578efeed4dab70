package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// poll is how often a route that is not served yet is asked for.
const poll = 500 * time.Microsecond

// propagation creates routes one by one, each when the one before is served. A
// route is served with the first right answer; before it 404 is right, and
// after it nothing but right answers are. As gateway-api-bench has it, each
// route has a second rule, whose Service does not exist.
func propagation(ctx context.Context, w *world, routes int) error {
	const app = "app"
	if err := w.create(ctx, namespaceObject(edge.Namespace), namespaceObject(app), gateway(),
		service(app, app), slice(app, app, app+"-1", w.echoes[0].Addr())); err != nil {
		return err
	}
	address, err := w.served(ctx, edge, httpPort)
	if err != nil {
		return err
	}
	target := func(i int) target {
		name := fmt.Sprint("route-", i)
		return target{hostname(app, name), fmt.Sprintf("/%d/x", i), mark(app, name, 0)}
	}
	var serving atomic.Int64
	n := 0
	traffic := begin(ctx, address, 100, func(a *asker) error {
		if serving.Load() == 0 {
			return nil
		}
		n += 7919 // anywhere
		return a.right(target(n % int(serving.Load())))
	})
	a := newAsker("http", address)
	defer a.close()
	var fromStart, fromReturn latencies
	unexpected, after := 0, 0
	cpu, began := w.headgate.cpu(), time.Now()
	for i := range routes {
		t := target(i)
		route := httpRoute(app, fmt.Sprint("route-", i), t.host, fmt.Sprintf("/%d", i), app, 0)
		missing := *route.Spec.Rules[0].DeepCopy()
		missing.Matches[0].Path.Value = ptr("/")
		missing.BackendRefs[0].Name = "missing"
		route.Spec.Rules = append(route.Spec.Rules, missing)

		started := time.Now()
		if err := w.create(ctx, route); err != nil {
			return err
		}
		returned := time.Now()
		for {
			status, _, mark, err := a.get(t)
			if err == nil && status == http.StatusOK && mark == t.mark {
				break
			}
			if err != nil || status != http.StatusNotFound {
				unexpected++
			}
			if time.Since(returned) > time.Minute {
				return fmt.Errorf("route %d is not served within a minute: %d %v", i, status, err)
			}
			time.Sleep(poll)
		}
		fromStart, fromReturn = append(fromStart, time.Since(started)), append(fromReturn, time.Since(returned))
		for range 3 {
			if err := a.right(t); err != nil {
				after++
			}
		}
		serving.Store(int64(i + 1))
	}
	took := time.Since(began)
	w.failed += unexpected + after
	fmt.Fprintf(w.out, "  from create's return to the first right answer: %s\n", fromReturn)
	fmt.Fprintf(w.out, "  from create's start: %s\n", fromStart)
	fmt.Fprintf(w.out, "  errors: %d before the first right answer, %d after it; %s\n", unexpected, after, traffic.end(w))
	fmt.Fprintf(w.out, "  CPU: %.2f s in %.1f s\n", (w.headgate.cpu() - cpu).Seconds(), took.Seconds())
	if err := w.heap("end"); err != nil {
		return err
	}
	return w.settled(ctx, "at the end")
}
