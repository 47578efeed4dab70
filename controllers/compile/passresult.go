package compile

import (
	"maps"
	"reflect"
	"slices"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// setCluster replaces a cluster; a use without one takes it out.
func (p *pass) setCluster(key string, use clusterUse) {
	c := use.cluster
	old, _ := p.Snapshot.Clusters.Get(key)
	switch {
	case c == nil:
		p.Snapshot.Clusters = p.Snapshot.Clusters.Without(key)
	case equal(old, c):
		return
	default:
		p.Snapshot.Clusters = p.Snapshot.Clusters.With(key, c)
	}
	p.clusters[key] = true
	if c != nil && podsOf(p.set, use) != nil {
		p.tables.podBackends = p.tables.podBackends.With(key, use.backend)
	} else {
		p.tables.podBackends = p.tables.podBackends.Without(key)
	}
}

func (p *pass) setEndpoints(key string, e *snapshot.Endpoints) {
	old, _ := p.Snapshot.Endpoints.Get(key)
	switch {
	case e == nil:
		p.Snapshot.Endpoints = p.Snapshot.Endpoints.Without(key)
	case equal(old, e):
		return
	default:
		p.Snapshot.Endpoints = p.Snapshot.Endpoints.With(key, e)
	}
	p.endpoints[key] = true
}

func (p *pass) setStatus(ref objects.Ref, s *Status) {
	key := ref.String()
	old, _ := p.Result.statuses.Get(key)
	switch {
	case equal(old, s):
		return
	case s == nil:
		p.Result.statuses = p.Result.statuses.Without(key)
	default:
		p.Result.statuses = p.Result.statuses.With(key, s)
	}
	p.statuses[ref] = true
}

func (p *pass) setFindings(ref objects.Ref, f []Finding) {
	key := ref.String()
	old, _ := p.Result.findings.Get(key)
	switch {
	case slices.Equal(old, f):
		return
	case len(f) == 0:
		p.Result.findings = p.Result.findings.Without(key)
	default:
		p.Result.findings = p.Result.findings.With(key, f)
	}
	p.findings[ref] = true
}

func (p *pass) finish() *Result {
	r := p.Result
	r.ReadsPods = p.tables.podBackends.Len() > 0
	r.NeedsSessionKeys = p.tables.sessions > 0 && !p.tables.frame.hasSessionKeys
	r.Delta = &snapshot.Delta{
		Ports: p.ports,
		Hosts: slices.Sorted(maps.Keys(p.hosts)), Clusters: slices.Sorted(maps.Keys(p.clusters)), Endpoints: slices.Sorted(maps.Keys(p.endpoints)),
	}
	r.ChangedStatuses = slices.SortedFunc(maps.Keys(p.statuses), objects.Ref.Compare)
	r.ChangedFindings = slices.SortedFunc(maps.Keys(p.findings), objects.Ref.Compare)
	return r
}

// equal compares plain data; parts that are the same pointer cost nothing.
func equal[T any](a, b T) bool { return reflect.DeepEqual(a, b) }
