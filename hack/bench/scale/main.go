// Command scale measures what Headgate costs, and how fast it is, with many
// routes, ListenerSets and endpoints: its binary, against an etcd and a
// kube-apiserver. It measures what gateway-api-bench does
// (https://github.com/howardjohn/gateway-api-bench), without nodes: Services
// and EndpointSlices are written by the benchmark, and lead to an echo of its own.
//
// The control plane's programs are those in KUBEBUILDER_ASSETS. All runs in a
// network of its own where the kernel allows that. Linux only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type options struct {
	headgate string
	crds     string
	// routes is the size of the scenario, 0 for its own.
	routes   int
	duration time.Duration
	settle   time.Duration
	profile  string
}

// scenario is one measurement, with a Headgate and a control plane of its own.
type scenario struct {
	name, about string
	// routes is how many routes it has unless the flag says otherwise.
	routes int
	run    func(context.Context, *world, int) error
}

var scenarios = []scenario{
	{"propagation", "HTTPRoutes created one by one: how long until each is served", 1000, propagation},
	{"propagation-3000", "the same with more", 3000, propagation},
	{"routes", "HTTPRoutes of 100 Services, and then all of them changing", 5000, manyRoutes},
	{"listenersets", "HTTPRoutes of ListenerSets with 16 each", 40000, manyListenerSets},
	{"endpoints", "a hundred changes of EndpointSlices a second", 1000, endpointChurn},
}

func main() {
	var o options
	var names string
	flag.StringVar(&o.headgate, "headgate", "bin/headgate", "the `program` headgate")
	flag.StringVar(&o.crds, "crds", "", "the `folder` of the Gateway API's CRDs")
	flag.StringVar(&names, "scenario", "propagation,propagation-3000,routes,listenersets,endpoints", "the scenarios to run")
	flag.IntVar(&o.routes, "routes", 0, "how many routes each scenario has (default its own)")
	flag.DurationVar(&o.duration, "duration", 30*time.Second, "how long things change")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "for how long memory must be the same to be taken for what it is in the end")
	flag.StringVar(&o.profile, "profile", "", "write profiles of Headgate into this `folder`: the heap at the end of each scenario, and the CPU while things change")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: scale [flags]")
		for _, s := range scenarios {
			fmt.Fprintf(os.Stderr, "  %-17s %s (%d routes)\n", s.name, s.about, s.routes)
		}
		flag.PrintDefaults()
	}
	flag.Parse()
	code, err := isolated(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := run(ctx, &o, strings.Split(names, ",")); err != nil {
			fmt.Fprintln(os.Stderr, "scale:", err)
			return 1
		}
		return 0
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, o *options, names []string) error {
	for _, name := range names {
		s, err := find(name)
		if err != nil {
			return err
		}
		if o.routes > 0 {
			s.routes = o.routes
		}
		if err := s.measure(ctx, o, os.Stdout); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func find(name string) (scenario, error) {
	var known []string
	for _, s := range scenarios {
		if s.name == name {
			return s, nil
		}
		known = append(known, s.name)
	}
	return scenario{}, fmt.Errorf("there is no scenario %q: want one of %s", name, strings.Join(known, ", "))
}
