package compile

import (
	"cmp"
	"slices"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
)

// place is where a policy can be attached: an object, or a section of it.
type place struct {
	object  objects.Ref
	section string // "" for the whole object
}

func (p place) String() string {
	if p.section == "" {
		return p.object.String()
	}
	return p.object.String() + ", section " + p.section
}

// attached is a policy at one of its targets.
type attached struct {
	policy *compiledPolicy
	place  place
	// target is the index into the policy's targetRefs, or byExtension.
	target int
}

// winner is a stanza that holds, and where it comes from.
type winner struct {
	attached
	stanza *stanza
}

// effective is the merge of one kind's policies at one place: of each stanza
// the one that holds, in the order in which they come from the outermost
// policy to the nearest.
type effective []winner

// value returns what a stanza sets, nil if there is none.
func (e effective) value(name string) any {
	for _, w := range e {
		if w.stanza.name == name {
			return w.stanza.value
		}
	}
	return nil
}

// policies is the policyIndex.
type policies struct {
	compiled map[objects.Ref]*compiledPolicy
	sorted   []objects.Ref
	// attached are in the order in which they win at one place: those that are
	// enforced first, then the older, then by name.
	attached map[objects.Ref][]attached
	// routes are the routes with policies, and outer the policies that
	// are attached to anything else; both by kind of policy, sorted.
	routes, outer [][]objects.Ref
	// disputed are listeners that share a port with another one and do not agree
	// with it on the PROXY protocol: that other one, by the listener's key.
	disputed map[string]string
	// withoutHTTP3 says why listeners do not have the HTTP/3 that a policy gives
	// them, by the listener's key. It is complete when the ports are bound.
	withoutHTTP3 map[string]Finding
}

// newPolicyIndex compiles all policies of a set.
func newPolicyIndex(set *objects.Set, _ grants, opts Options) policyIndex {
	x := &policies{
		compiled:     map[objects.Ref]*compiledPolicy{},
		attached:     map[objects.Ref][]attached{},
		routes:       make([][]objects.Ref, len(policyKinds)),
		outer:        make([][]objects.Ref, len(policyKinds)),
		disputed:     map[string]string{},
		withoutHTTP3: map[string]Finding{},
	}
	for i := range policyKinds {
		kind := &policyKinds[i]
		if kind.list == nil {
			continue
		}
		for _, object := range kind.list(set) {
			merged := cmp.Or(kind.mergesWith, i)
			p := &compiledPolicy{row: kind, kind: merged, object: object,
				ref: objects.Ref{Kind: kind.name, Namespace: object.GetNamespace(), Name: object.GetName()}}
			kind.compile(&policyCompiler{p, set, opts.readsPods()})
			x.compiled[p.ref] = p
			x.sorted = append(x.sorted, p.ref)
			if kind.filters != nil {
				x.attached[p.ref] = []attached{{p, place{object: p.ref}, byExtension}}
			}
			for t := range object.Targets() {
				if at, ok := targetOf(p, t); ok {
					x.attached[at.object] = append(x.attached[at.object], attached{p, at, t})
					if isRoute(at.object.Kind) {
						x.routes[merged] = append(x.routes[merged], at.object)
					} else {
						x.outer[merged] = append(x.outer[merged], p.ref)
					}
				}
			}
		}
	}
	for i := range policyKinds {
		x.routes[i], x.outer[i] = sortedRefs(x.routes[i]), sortedRefs(x.outer[i])
	}
	slices.SortFunc(x.sorted, objects.Ref.Compare)
	for _, all := range x.attached {
		slices.SortStableFunc(all, func(a, b attached) int { return precedence(a.policy, b.policy) })
	}
	return x
}

// targetOf returns the place that a targetRef names; false if policies of this
// kind do not attach to such objects.
func targetOf(p *compiledPolicy, target int) (place, bool) {
	ref := &p.object.Targets()[target]
	kind := string(ref.Kind)
	at := place{object: objects.Ref{Kind: kind, Namespace: p.ref.Namespace, Name: string(ref.Name)}}
	if ref.SectionName != nil {
		at.section = string(*ref.SectionName)
	}
	ok := slices.Contains(p.row.targets, kind) && objects.GroupOf(kind) == string(ref.Group) &&
		(kind != "Backend" && kind != "XBackend" || at.section == "")
	return at, ok
}

// precedence orders policies at one place, GEP-713 "conflict resolution".
func precedence(a, b *compiledPolicy) int {
	return cmp.Or(
		cmp.Compare(truth(b.object.IsEnforced()), truth(a.object.IsEnforced())),
		cmp.Compare(a.object.GetCreationTimestamp().Unix(), b.object.GetCreationTimestamp().Unix()),
		a.ref.Compare(b.ref))
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// effective merges the policies of a kind at places that are given from the
// outermost to the nearest. What an outer policy enforces holds; otherwise the
// nearest holds; at one place, the first by precedence.
func (x *policies) effective(kind int, places ...place) effective {
	var merged effective
	for _, at := range places {
		outer := len(merged)
		for _, a := range x.attached[at.object] {
			if a.policy.kind != kind || a.place != at {
				continue
			}
			for i := range a.policy.stanzas {
				s := &a.policy.stanzas[i]
				j := slices.IndexFunc(merged, func(w winner) bool { return w.stanza.name == s.name })
				switch {
				case j < 0:
					merged = append(merged, winner{a, s})
				case j < outer && merged[j].place != at && !merged[j].policy.object.IsEnforced():
					merged[j] = winner{a, s}
				}
			}
		}
	}
	return merged
}

// rulePlaces are a route and, if it has a name, one of its rules.
func rulePlaces(route *form, rule int) []place {
	object := route.ref
	places := []place{{object: object}}
	if name := route.Spec.Rules[rule].Name; name != nil && *name != "" {
		places = append(places, place{object, string(*name)})
	}
	return places
}

// places are those of the policies for a rule, from the outermost to the nearest,
// which are the ones that its own filters name.
func (a *attachment) places(own ownFilters) []place {
	places := append(a.Listener.places(), rulePlaces(a.Route, a.Rule)...)
	for _, extension := range own.extensions {
		places = append(places, place{object: extension})
	}
	return places
}

// filters implements policyIndex.
func (x *policies) filters(at attachment, own ownFilters) (filters []policy.Config, uses []clusterUse, broken string) {
	places := at.places(own)
	var responses []policy.Config
	for i := range policyKinds {
		kind := &policyKinds[i]
		if kind.own != nil {
			filters = append(filters, kind.own(own)...)
		}
		if kind.filters == nil {
			continue
		}
		e := x.effective(i, places...)
		for _, w := range e {
			if broken == "" {
				broken = w.stanza.broken
			}
			uses = append(uses, w.stanza.uses...)
		}
		if len(e) == 0 {
			continue
		}
		filters = append(filters, kind.filters(e)...)
		if kind.responses != nil {
			responses = append(responses, kind.responses(e)...)
		}
	}
	return append(responses, filters...), uses, broken
}

// streams implements policyIndex.
func (x *policies) streams(at attachment) (filters []policy.Config) {
	for i := range policyKinds {
		if kind := &policyKinds[i]; kind.streams != nil {
			filters = append(filters, kind.streams(x.effective(i, at.places(ownFilters{})...), at.Route.ref.Kind)...)
		}
	}
	return filters
}

// attachedTo implements policyIndex. A route with policies of its own concerns
// those of the objects above it too: it may have come to them or left them,
// and they say in status where they are overridden.
func (x *policies) attachedTo(target objects.Ref) []objects.Ref {
	var refs []objects.Ref
	for _, a := range x.attached[target] {
		refs = append(refs, a.policy.ref)
	}
	if isRoute(target.Kind) {
		for kind := range policyKinds {
			if _, ok := slices.BinarySearchFunc(x.routes[kind], target, objects.Ref.Compare); ok {
				refs = append(refs, x.outer[kind]...)
			}
		}
	}
	return sortedRefs(refs)
}

// all implements policyIndex.
func (x *policies) all() []objects.Ref { return x.sorted }

// wanted implements policyIndex.
func (x *policies) wanted() []objects.Ref {
	var refs []objects.Ref
	for _, ref := range x.sorted {
		refs = append(refs, x.compiled[ref].wanted...)
	}
	return sortedRefs(refs)
}

func sortedRefs(refs []objects.Ref) []objects.Ref {
	slices.SortFunc(refs, objects.Ref.Compare)
	return slices.Compact(refs)
}
