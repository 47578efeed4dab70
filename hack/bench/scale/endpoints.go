package main

import (
	"context"
	"fmt"
	"time"
)

// changesPerSecond is how many EndpointSlices are written a second.
const changesPerSecond = 100

// endpointChurn changes EndpointSlices at a steady rate. Each
// moves a Service from one echo to the other. Every tenth is timed, from the
// update's return to the first answer of the other one. Both are always there,
// so that no request may fail.
func endpointChurn(ctx context.Context, w *world, routes int) error {
	p := populate(routes)
	address, err := p.build(ctx, w)
	if err != nil {
		return err
	}
	i := 0
	traffic := begin(ctx, address, 500, func(a *asker) error {
		i++
		return a.right(p.target(i%p.namespaces, i/p.namespaces%p.services, i%p.routes, 0))
	})
	// One Service is watched, all others change beside it.
	watched := p.target(0, 0, 0, 0)
	a := newAsker("http", address)
	defer a.close()
	move := func(to int) (time.Duration, error) {
		if err := w.kube.Update(ctx, slice(p.namespace(0), p.service(0), p.service(0)+"-1", w.echoes[to].Addr())); err != nil {
			return 0, err
		}
		returned := time.Now()
		err := await(ctx, time.Minute, "the endpoint has moved", poll, func() error {
			_, echo, _, err := a.get(watched)
			if err == nil && echo != fmt.Sprint(to) {
				err = fmt.Errorf("still at %s", echo)
			}
			return err
		})
		return time.Since(returned), err
	}
	var took latencies
	profiled := w.cpuProfile("churn")
	cpu, began, changes := w.headgate.cpu(), time.Now(), 0
	beside := make(chan error, 1)
	go func() {
		beside <- func() error {
			tick := time.NewTicker(time.Second * 10 / (9 * changesPerSecond))
			defer tick.Stop()
			for n := 1; time.Since(began) < w.duration; n++ {
				<-tick.C
				service := 1 + n%(p.namespaces*p.services-1)
				s := slice(p.namespace(service/p.services), p.service(service%p.services), p.service(service%p.services)+"-1", w.echoes[n%2].Addr())
				if err := w.kube.Update(ctx, s); err != nil {
					return err
				}
				changes++
			}
			return nil
		}()
	}()
	moves := 0
	for tick := time.NewTicker(time.Second * 10 / changesPerSecond); time.Since(began) < w.duration; <-tick.C {
		moves++
		d, err := move(moves % 2)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	if err := <-beside; err != nil {
		return err
	}
	spent, whole := w.headgate.cpu()-cpu, time.Since(began)
	if err := <-profiled; err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  %d changes in %.0f s, %.0f a second: CPU %.2f s, %.1f %% of one\n", changes+moves, whole.Seconds(),
		float64(changes+moves)/whole.Seconds(), spent.Seconds(), 100*spent.Seconds()/whole.Seconds())
	fmt.Fprintf(w.out, "  from an update's return to the first answer of the new endpoint: %s\n", took)
	fmt.Fprintf(w.out, "  %s\n", traffic.end(w))
	return w.settled(ctx, "after that")
}
