package upstream

import (
	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// wish is what an endpoint is chosen by: in which subset, see state.subsetOf, and
// there which one.
type wish struct {
	balance.Choice
	subset string
}

// subsets are the parts of a set that requests name by their headers, each with
// tiers of its own: health, panic and locality hold in it as in a set.
type subsets struct {
	selectors []snapshot.SubsetSelector
	keys      []exchange.Key // of the selectors' headers
	// byName has those that have members. Its keys are made by appendSelected.
	byName map[string]*tiers
	// fallback is for requests that name none of these.
	fallback *tiers
}

// appendSelected appends a selector's part of a subset's name.
func appendSelected(name []byte, selector int, value string) []byte {
	return append(append(append(name, byte('0'+selector)), value...), 0)
}

// subsetOf returns the name of the subset that a request asks for, by those of
// the selectors' headers that it has; "" if there are no subsets, or it has none
// of them.
func (st *state) subsetOf(ex *exchange.Exchange) string {
	s := st.subsets
	if s == nil {
		return ""
	}
	return ex.Arena.Append(func(name []byte) []byte {
		for i := range s.selectors {
			value := ""
			if key := s.keys[i]; key != exchange.KeyOther {
				value = ex.Out.Fields.Value(key)
			} else {
				value, _ = ex.Out.Fields.Get(s.selectors[i].Header)
			}
			if value != "" {
				name = appendSelected(name, i, value)
			}
		}
		return name
	})
}

// in returns the tiers to choose from.
func (st *state) in(subset string) *tiers {
	if st.subsets == nil {
		return &st.tiers
	}
	if t := st.subsets.byName[subset]; t != nil {
		return t
	}
	return st.subsets.fallback
}

// setSubsets divides the members by their labels: for each combination of
// selectors by the values that members have. c.eject is held.
func (c *Cluster) setSubsets(st *state) {
	cfg := c.cfg.Balance.Subset
	if cfg == nil {
		return
	}
	s := &subsets{selectors: cfg.Selectors, byName: map[string]*tiers{}, fallback: &st.tiers}
	for _, selector := range cfg.Selectors {
		s.keys = append(s.keys, exchange.KeyOf(selector.Header))
	}
	groups := map[string]*[]*member{}
	var defaults []*member
	var name []byte
	for i := range st.members {
		m := &st.members[i]
		for combination := 1; combination < 1<<len(cfg.Selectors); combination++ {
			var ok bool
			if name, ok = m.selected(name[:0], cfg.Selectors, combination); !ok {
				continue
			}
			group := groups[string(name)]
			if group == nil {
				group = new([]*member)
				groups[string(name)] = group
			}
			*group = append(*group, m)
		}
		if m.has(cfg.Default) {
			defaults = append(defaults, m)
		}
	}
	for name, members := range groups {
		s.byName[name] = c.newTiers(*members)
	}
	switch cfg.Fallback {
	case "None":
		s.fallback = c.newTiers(nil)
	case "Default":
		s.fallback = c.newTiers(defaults)
	}
	st.subsets = s
}

// selected appends the name of the subset that the member is in for a combination
// of selectors, a bit for each; false if it lacks one of their labels.
func (m *member) selected(name []byte, selectors []snapshot.SubsetSelector, combination int) ([]byte, bool) {
	for i := range selectors {
		if combination&(1<<i) == 0 {
			continue
		}
		value := m.labels[selectors[i].Label]
		if value == "" {
			return name, false
		}
		name = appendSelected(name, i, value)
	}
	return name, true
}

// has reports whether the member has all of these labels.
func (m *member) has(labels map[string]string) bool {
	for name, value := range labels {
		if own, ok := m.labels[name]; !ok || own != value {
			return false
		}
	}
	return true
}
