package l4

import (
	"net"
	"slices"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// fallback is what stands in for a way, as far as a snapshot.Fallback is for
// connections: nothing is sent before there is one, and there is no response.
type fallback struct {
	conditions []string
	asks       bool // by the share of endpoints that are healthy
	percent    int
	ways       []way
}

func newFallback(cfg *snapshot.Fallback, to func(cluster string) way) *fallback {
	if cfg == nil || len(cfg.Backends) == 0 {
		return nil
	}
	f := &fallback{conditions: cfg.Conditions, asks: slices.Contains(cfg.Conditions, "NoEndpoint"), percent: cfg.MinHealthyPercent}
	for i := range cfg.Backends {
		f.ways = append(f.ways, to(cfg.Backends[i].Cluster))
	}
	return f
}

// reach makes a connection by the way, or by the first that stands in for it and has a healthy
// endpoint. taken is the way that it came about by, or the last that was tried.
func (w *way) reach(connect func(Cluster) (net.Conn, func(), error)) (taken *way, up net.Conn, release func(), err error) {
	f := w.fallback
	if f == nil {
		up, release, err = connect(w.cluster)
		return w, up, release, err
	}
	tried := !f.asks || w.cluster.Available(f.percent)
	if tried {
		up, release, err = connect(w.cluster)
	}
	taken = w
	for i := range f.ways {
		next := &f.ways[i]
		if tried && (err == nil || !slices.Contains(f.conditions, conditionOf(err))) {
			break
		}
		if next.cluster != nil && next.cluster.Available(1) {
			taken, tried = next, true
			up, release, err = connect(next.cluster)
		}
	}
	if !tried { // as there is nobody else
		up, release, err = connect(w.cluster)
	}
	return taken, up, release, err
}

// conditionOf is what snapshot.Fallback.Conditions calls a failure to connect.
func conditionOf(err error) string {
	switch reasonOf(err) {
	case "no_endpoint":
		return "NoEndpoint"
	case "circuit_open":
		return "CircuitOpen"
	}
	return "ConnectFailure"
}
