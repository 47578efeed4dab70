package upstream

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/snapshot"
)

var errNowhere = errors.New("it is not known where this process is; want --zone and --node")

// rank says how much an endpoint is preferred: by priority, then by the priority
// that its SRV record has within that, then by distance.
type rank struct {
	priority int
	within   uint16
	distance int
}

// Distances. Where locality says nothing, everything is elsewhere.
const (
	onNode = iota
	inZone
	elsewhere
	// unreachable is what may not be used from here.
	unreachable
)

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.priority, o.priority), cmp.Compare(r.within, o.within), cmp.Compare(r.distance, o.distance))
}

// rank says how much the endpoint is preferred by this process. An endpoint's
// hints say where it should be used from, KEP-2433 and KEP-3015; without them
// it is its own place.
func (c *Cluster) rank(e *snapshot.Endpoint) rank {
	near := func(own, place string, hints []string) bool {
		return own != "" && (len(hints) == 0 && place == own || slices.Contains(hints, own))
	}
	r := rank{priority: e.Priority, distance: elsewhere}
	zone := near(c.m.opts.Zone, e.Zone, e.ForZones)
	node := near(c.m.opts.Node, e.Node, e.ForNodes)
	switch locality := c.cfg.Balance.Locality; {
	case locality == "PreferSameNode" && node:
		r.distance = onNode
	case (locality == "PreferSameNode" || locality == "PreferSameZone") && zone:
		r.distance = inZone
	case locality == "OnlySameNode" && !node, locality == "OnlySameZone" && !zone:
		r.distance = unreachable
	}
	return r
}

// tier is the part of the members that is chosen from together.
type tier struct {
	endpoints []*endpoint
	picker    balance.Picker
	// weight is that of all its endpoints together, down that of those which
	// are ejected or unhealthy.
	weight int64
	down   atomic.Int64
	// want is how much weight is enough for all requests: its own if all are
	// healthy, or more, where it is less than should be here.
	want int64
}

// tiers are what a set is chosen from. They are immutable but for tier.down.
type tiers struct {
	// ready are the tiers in the order in which they are preferred.
	ready []*tier
	// draining endpoints are the last resort.
	draining *tier
	// short says that a tier has not what it wants even if all are healthy.
	short bool
	// fills says that pickers pass over endpoints which have as much as they
	// should, bounded that there may be some which have as much as they can.
	fills, bounded bool
	// minHealthy and panicThreshold are shares in percent.
	minHealthy, panicThreshold int64
}

// setTiers divides the state's members, all of them and each subset.
func (c *Cluster) setTiers(st *state) {
	all := make([]*member, len(st.members))
	c.eject.Lock()
	defer c.eject.Unlock()
	for i := range st.members {
		m := &st.members[i]
		m.ep.tiers, m.ep.tierWeight = m.ep.tiers[:0], int64(m.weight)
		all[i] = m
	}
	st.tiers = *c.newTiers(all)
	for _, m := range all {
		m.tier = slices.Index(st.ready, m.ep.tiers[0])
	}
	c.setSubsets(st)
}

// newTiers divides members. c.eject is held.
func (c *Cluster) newTiers(members []*member) *tiers {
	settings := &c.cfg.Balance
	made := &tiers{
		minHealthy:     int64(cmp.Or(settings.MinHealthyPercent, snapshot.MinHealthyPercent)),
		panicThreshold: int64(settings.PanicThresholdPercent),
		fills:          settings.Algorithm == "FirstAvailable",
		bounded:        c.boundsEndpoints(),
	}
	var ranks []rank
	for _, m := range members {
		if !m.draining && (len(ranks) == 0 || ranks[len(ranks)-1] != m.rank) {
			ranks = append(ranks, m.rank)
		}
	}
	slices.SortFunc(ranks, rank.compare)
	ranks = slices.Compact(ranks)

	groups := make([][]balance.Member, len(ranks)+1)
	all := make([]*tier, len(groups))
	for i := range all {
		all[i] = &tier{}
	}
	if len(ranks) == 1 { // as most have
		all[0].endpoints = make([]*endpoint, 0, len(members))
		groups[0] = make([]balance.Member, 0, len(members))
	}
	made.ready, made.draining = all[:len(ranks)], all[len(ranks)]
	for _, m := range members {
		place := len(ranks)
		if !m.draining {
			place, _ = slices.BinarySearchFunc(ranks, m.rank, rank.compare)
		}
		t := all[place]
		t.endpoints = append(t.endpoints, m.ep)
		groups[place] = append(groups[place], balance.Member{ID: m.ep.address, Weight: m.weight, Load: &m.ep.load})
		m.ep.tiers = append(m.ep.tiers, t)
		t.weight += m.ep.tierWeight
		if m.ep.load.EjectedUntil.Load() != 0 {
			t.down.Add(m.ep.tierWeight)
		}
	}
	for i, t := range all {
		t.want = t.weight
		t.picker = c.picker(groups[i])
	}
	for i, r := range ranks {
		t := made.ready[i]
		if r.distance == inZone {
			t.want = max(t.want, evenShare(members, r))
		}
		made.short = made.short || t.want*made.minHealthy > t.weight*100
	}
	return made
}

// inUse yields the endpoints that are not draining.
func (st *state) inUse(yield func(*endpoint) bool) {
	for i := range st.members {
		if m := &st.members[i]; !m.draining && !yield(m.ep) {
			return
		}
	}
}

// evenShare is how much weight each zone would have, of the endpoints of one
// priority, if all had the same; what is on this node counts as in the zone.
// A zone with less would be overloaded by its own requests, if these come to
// all zones alike.
func evenShare(members []*member, of rank) int64 {
	zones := map[string]bool{}
	var all, node int64
	for _, m := range members {
		if m.draining || m.rank.priority != of.priority || m.rank.within != of.within {
			continue
		}
		zones[m.zone] = true
		all += int64(m.weight)
		if m.rank.distance == onNode {
			node += int64(m.weight)
		}
	}
	return all/int64(len(zones)) - node
}

func (c *Cluster) picker(members []balance.Member) balance.Picker {
	settings := &c.cfg.Balance
	picker, err := balance.New(balance.Config{
		Algorithm:         settings.Algorithm,
		HashBalanceFactor: settings.HashBalanceFactor,
		InFlight:          &c.inFlight,
		MaxRequests:       settings.MaxRequests,
	}, members)
	if err != nil {
		c.m.opts.Log.Error(err, "Falling back to the default algorithm", "cluster", c.cfg.Key)
		picker, _ = balance.New(balance.Config{}, members)
	}
	return picker
}

// first chooses the tier to begin with. Each takes all that reaches it, if
// enough of it is healthy, or else the share that it has of that; panic says
// that so little is healthy in all that health does not count.
func (t *tiers) first() (first int, panic bool) {
	if len(t.ready) == 1 && t.panicThreshold == 0 {
		return 0, false
	}
	var all, up int64
	for _, t := range t.ready {
		all += t.weight
		up += t.weight - t.down.Load()
	}
	if up*100 < all*t.panicThreshold {
		return t.draw(func(t *tier) int64 { return t.weight }), true
	}
	for i, tier := range t.ready {
		has, needs := (tier.weight-tier.down.Load())*100, tier.want*t.minHealthy
		if has > 0 && (has >= needs || rand.Int64N(needs) < has) {
			return i, false
		}
	}
	return t.draw(func(t *tier) int64 { return t.weight - t.down.Load() }), false
}

// draw chooses a tier by weight.
func (t *tiers) draw(weight func(*tier) int64) int {
	var sum int64
	for _, tier := range t.ready {
		sum += max(0, weight(tier))
	}
	if sum == 0 {
		return 0
	}
	ticket := rand.Int64N(sum)
	for i, tier := range t.ready {
		if ticket -= max(0, weight(tier)); ticket < 0 {
			return i
		}
	}
	return 0
}

// pick chooses from the tier first, or else from the others in their order.
// Where all that is ready has as much as it should, it is filled further, up to
// its bound. full says that there is none only because those which there are
// have no room.
func (t *tiers) pick(first int, choice balance.Choice) (ep *endpoint, full bool) {
	if ep := t.pickReady(first, choice); ep != nil {
		return ep, false
	}
	choice.Full = true
	if t.fills {
		if ep := t.pickReady(first, choice); ep != nil {
			return ep, false
		}
	}
	if !t.bounded {
		return t.draining.pick(choice), false
	}
	unbounded := choice
	unbounded.Unbounded = true
	if t.pickReady(first, unbounded) != nil {
		return nil, true
	}
	if ep := t.draining.pick(choice); ep != nil {
		return ep, false
	}
	return nil, t.draining.pick(unbounded) != nil
}

func (t *tiers) pickReady(first int, choice balance.Choice) *endpoint {
	if first < len(t.ready) {
		if ep := t.ready[first].pick(choice); ep != nil {
			return ep
		}
	}
	for i, tier := range t.ready {
		if i == first {
			continue
		}
		if ep := tier.pick(choice); ep != nil {
			return ep
		}
	}
	return nil
}

func (t *tier) pick(choice balance.Choice) *endpoint {
	if i := t.picker.Pick(choice); i >= 0 {
		return t.endpoints[i]
	}
	return nil
}
