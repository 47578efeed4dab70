package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// routesOfSet is how many routes a ListenerSet has, as in gateway-api-bench.
const routesOfSet = 16

// manyListenerSets measures a Headgate that starts where there is a large number
// of routes, and of TLS listeners with hostnames of their own.
func manyListenerSets(ctx context.Context, w *world, routes int) error {
	perNamespace := min(50, max(1, routes/routesOfSet))
	namespaces := max(1, routes/routesOfSet/perNamespace)
	if err := w.create(ctx, namespaceObject(edge.Namespace), gateway()); err != nil {
		return err
	}
	var sets, all []client.Object
	var targets [][]target // by ListenerSet
	for n := range namespaces {
		team := fmt.Sprint("team-", n)
		secret, err := certificate(team)
		if err != nil {
			return err
		}
		if err := w.create(ctx, namespaceObject(team), secret); err != nil {
			return err
		}
		for s := range perNamespace {
			app := fmt.Sprint("app-", s)
			sets = append(sets, service(team, app), slice(team, app, app+"-1", w.echoes[0].Addr()), listenerSet(team, app))
			var of []target
			for r := range routesOfSet {
				name := fmt.Sprintf("%s-%d", app, r)
				route := httpRoute(team, name, hostname(team, app), fmt.Sprintf("/%d", r), app, 0)
				route.Spec.ParentRefs = []gatewayv1.ParentReference{{Kind: ptr(gatewayv1.Kind("ListenerSet")), Name: gatewayv1.ObjectName(app)}}
				all = append(all, route)
				of = append(of, target{hostname(team, app), fmt.Sprintf("/%d/x", r), mark(team, name, 0)})
			}
			targets = append(targets, of)
		}
	}
	// All of it is there before Headgate is: what comes while it runs, the other
	// scenarios show.
	if _, err := w.served(ctx, edge, httpPort); err != nil {
		return err
	}
	w.headgate.stop()
	began := time.Now()
	if err := w.createMany(ctx, sets); err != nil {
		return err
	}
	if err := w.createMany(ctx, all); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  %d ListenerSets and %d HTTPRoutes created in %.0f s, without Headgate\n", len(targets), len(all), time.Since(began).Seconds())

	var err error
	if w.headgate, err = start(w.options.headgate, w.account); err != nil {
		return err
	}
	if err := w.headgate.ready(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  ready after %.2f s: CPU %.1f s\n", time.Since(w.headgate.began).Seconds(), w.headgate.cpu().Seconds())
	address, err := w.served(ctx, edge, httpsPort)
	if err != nil {
		return err
	}
	if err := askAll(ctx, address, targets); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  all served and asked for after %.1f s\n", time.Since(w.headgate.began).Seconds())
	if err := w.report("then"); err != nil {
		return err
	}
	if err := w.heap("started"); err != nil {
		return err
	}
	if _, err := w.quietWrites(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  statuses settled after %.0f s: CPU %.1f s\n", time.Since(w.headgate.began).Seconds(), w.headgate.cpu().Seconds())
	if err := w.settled(ctx, "with all"); err != nil {
		return err
	}
	return w.heap("settled")
}

// askAll asks for every route, over a connection for each ListenerSet, until
// each was answered right.
func askAll(ctx context.Context, address string, targets [][]target) error {
	return inParallel(targets, 4, func(of []target) error {
		a := newAsker("https", address)
		defer a.close()
		for _, t := range of {
			if err := await(ctx, 2*time.Minute, "every route is served", 20*time.Millisecond, func() error { return a.right(t) }); err != nil {
				return err
			}
		}
		return nil
	})
}
