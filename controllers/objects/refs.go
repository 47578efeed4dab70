package objects

import (
	"maps"
	"slices"
)

// refs is a set of names. The zero refs is empty.
type refs struct {
	// few are all of them, in no order, while they are no more than maxFew: there
	// are thousands of such sets, and a map takes several times as much for a name.
	few  []Ref
	many map[Ref]struct{} // nil until then
}

const maxFew = 32

func (r *refs) add(ref Ref) {
	switch {
	case r.has(ref):
	case r.many != nil:
		r.many[ref] = struct{}{}
	case len(r.few) < maxFew:
		r.few = append(r.few, ref)
	default:
		r.many = map[Ref]struct{}{ref: {}}
		for _, one := range r.few {
			r.many[one] = struct{}{}
		}
		r.few = nil
	}
}

func (r *refs) remove(ref Ref) {
	delete(r.many, ref)
	if i := slices.Index(r.few, ref); i >= 0 {
		r.few = slices.Delete(r.few, i, i+1)
	}
}

func (r *refs) has(ref Ref) bool {
	_, ok := r.many[ref]
	return ok || slices.Contains(r.few, ref)
}

func (r *refs) len() int { return len(r.few) + len(r.many) }

// sorted returns a list of its own.
func (r *refs) sorted() []Ref {
	all := slices.AppendSeq(slices.Clone(r.few), maps.Keys(r.many))
	slices.SortFunc(all, Ref.Compare)
	return all
}
