package infra

import (
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/controllers/compile"
)

// allotment hands out target ports. A pod binds each of them once, so no two
// Gateways share one, TCP and UDP counted apart.
type allotment struct {
	first, last int32
	taken       map[socket]bool
	kept        map[listenerPort]int32
}

type socket struct {
	protocol string
	port     int32
}

type listenerPort struct {
	service  string
	protocol string
	port     int32
}

func newAllotment(first, last int32) *allotment {
	return &allotment{first: first, last: last, taken: map[socket]bool{}, kept: map[listenerPort]int32{}}
}

// keep takes over the ports that a Service has recorded, as far as they can be.
func (a *allotment) keep(w compile.Infrastructure, recorded []corev1.ServicePort) {
	if w.Kept { // all of them
		for _, r := range recorded {
			a.taken[socket{string(r.Protocol), r.TargetPort.IntVal}] = true
		}
	}
	for _, want := range w.Ports {
		for _, r := range recorded {
			target := socket{want.Protocol, r.TargetPort.IntVal}
			if r.Port != want.Port || string(r.Protocol) != want.Protocol ||
				target.port < a.first || target.port > a.last || a.taken[target] {
				continue
			}
			a.taken[target] = true
			a.kept[listenerPort{w.Name, want.Protocol, want.Port}] = target.port
		}
	}
}

// allot returns a target port for each of a Service's ports.
//
// A new one is searched from a place that its name gives, rather than the
// lowest that is free: a port that one Gateway gave up is then seldom another's
// the moment after, while some replicas still have the old tables; and a
// Service that was deleted by mistake comes back with the ports that it had.
func (a *allotment) allot(w compile.Infrastructure) ([]int32, error) {
	targets := make([]int32, len(w.Ports))
	for i, want := range w.Ports {
		key := listenerPort{w.Name, want.Protocol, want.Port}
		target, ok := a.kept[key]
		if !ok {
			if target, ok = a.search(key); !ok {
				return nil, fmt.Errorf("no target port is left for Gateway %s: all of %d to %d are allotted",
					w.Gateway.NamespacedName(), a.first, a.last)
			}
			a.taken[socket{want.Protocol, target}] = true
			a.kept[key] = target
		}
		targets[i] = target
	}
	return targets, nil
}

func (a *allotment) search(key listenerPort) (int32, bool) {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s %d", key.service, key.protocol, key.port)
	size := uint32(a.last - a.first + 1)
	start := h.Sum32() % size
	for i := range size {
		port := a.first + int32((start+i)%size)
		if !a.taken[socket{key.protocol, port}] {
			return port, true
		}
	}
	return 0, false
}
