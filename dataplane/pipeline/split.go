package pipeline

import (
	"fmt"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/hashkey"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// split is the live counterpart of a snapshot.Split.
type split struct {
	keys     hashkey.Keys
	picker   balance.Picker
	backends []*backend // those with a weight, as the picker has them
}

// pick returns the client's backend, nil if it is not known who that is.
func (s *split) pick(ex *exchange.Exchange) *backend {
	hash, ok := s.keys.Hash(ex)
	if !ok {
		return nil
	}
	return s.backends[s.picker.Pick(balance.Choice{Hash: hash})]
}

// split links how a rule shares its clients. A backend's place among all
// clients depends on its name alone, so neither its index, nor other rules, nor
// a restart moves a client.
func (l *linker) split(r *rule, cfg *snapshot.Rule) {
	if cfg.Split == nil {
		return
	}
	keys, err := hashkey.New(cfg.Split.HashOn)
	if err != nil {
		l.fail(fmt.Errorf("%s: split: %w", name(r), err))
	}
	live := &split{keys: keys}
	var members []balance.Member
	for i := range r.backends {
		if b := &r.backends[i]; b.weight > 0 {
			live.backends = append(live.backends, b)
			members = append(members, balance.Member{ID: b.source.Name, Weight: b.weight, Load: &balance.Load{}})
		}
	}
	live.picker = balance.NewRendezvous(members)
	r.split = live
}
