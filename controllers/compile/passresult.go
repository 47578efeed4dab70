package compile

import (
	"maps"
	"reflect"
	"slices"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// set replaces an entry of a table, or takes it out if there is to be none, and
// reports whether that changes anything.
func set[V any](table *snapshot.Table[V], key string, to V, there bool) bool {
	old, _ := table.Get(key)
	switch {
	case equal(old, to):
		return false
	case there:
		*table = table.With(key, to)
	default:
		*table = table.Without(key)
	}
	return true
}

// setCluster replaces a cluster; a use without one takes it out.
func (p *pass) setCluster(key string, use clusterUse) {
	there := use.cluster != nil
	if !set(&p.Snapshot.Clusters, key, use.cluster, there) {
		return
	}
	p.clusters[key] = true
	if there && podsOf(p.set, use) != nil {
		p.tables.podBackends = p.tables.podBackends.With(key, use.backend)
	} else {
		p.tables.podBackends = p.tables.podBackends.Without(key)
	}
}

func (p *pass) setEndpoints(key string, e *snapshot.Endpoints) {
	if set(&p.Snapshot.Endpoints, key, e, e != nil) {
		p.endpoints[key] = true
	}
}

func (p *pass) setStatus(ref objects.Ref, s *Status) {
	if set(&p.Result.statuses, ref.String(), s, s != nil) {
		p.statuses[ref] = true
	}
}

func (p *pass) setFindings(ref objects.Ref, f []Finding) {
	if len(f) == 0 {
		f = nil // which equals no entry
	}
	if set(&p.Result.findings, ref.String(), f, f != nil) {
		p.findings[ref] = true
	}
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
