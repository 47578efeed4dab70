package upstream

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/concurrency"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/hashkey"
	"github.com/headgate/headgate/dataplane/resolver"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Cluster is the live counterpart of a snapshot's cluster. It is safe for
// concurrent use.
type Cluster struct {
	m     *Manager
	state atomic.Pointer[state]

	// ejected counts the endpoints that are ejected or unhealthy; while it is 0,
	// picking needs no clock. eject guards the change of ejections.
	ejected atomic.Int32
	eject   sync.Mutex
	// outage says that none could be connected to when one last could not.
	outage atomic.Bool
	// inFlight counts the requests of all endpoints, gone ones included.
	inFlight atomic.Int64
	// retries counts those that are under way again.
	retries atomic.Int64
	// queue is who waits for an endpoint with room, refusals counts what the circuit
	// breaker has refused, by the reason.
	queue    queue
	refusals [refusalReasons]atomic.Uint64
	// hedged is made for the first request that may be hedged.
	hedged atomic.Pointer[hedged]
	// interval is when outliers are looked for next; 0 before the first time.
	interval atomic.Int64

	// mu guards what follows, the side that is configured.
	mu     sync.Mutex
	closed bool
	cfg    *snapshot.Cluster
	tls    *tls.Config
	tlsErr error
	socket *socket // as cfg has it, as are all of these
	http2  *h2.ClientOptions
	health *snapshot.HealthCheck // as cfg has it; another pointer only if it differs
	budget *retryBudget          // as cfg has it; another one only if it differs
	keys   hashkey.Keys          // as cfg has them, compiled
	// concurrency is as cfg has it; another one only if it differs.
	concurrency *concurrency.Controller
	eps         *snapshot.Endpoints
	hosts       map[resolver.Question]*resolver.Subscription
	resolving   chan struct{}
	byAddr      map[netip.AddrPort]*endpoint
}

// state is what a round trip goes by. It is immutable.
type state struct {
	key            string
	protocol       string // protocolHTTP1, …
	connectTimeout time.Duration
	timeouts       snapshot.Timeouts
	pool           snapshot.Pool // with its defaults
	warms          bool          // whether connections are made ahead, see warm.go
	outliers       *snapshot.OutlierDetection
	slowStart      *snapshot.SlowStart
	loadReports    bool
	budget         *retryBudget // nil for none
	// terms are what connections are made with; tlsErr says why TLS cannot be
	// spoken as configured.
	terms
	tlsErr error

	// hashes says that the algorithm wants a hash, of the first of keys that a
	// request has; timed that it goes by latencies.
	hashes, timed bool
	keys          hashkey.Keys

	// breaker is noBounds where there is none. maxConnections bounds those of each
	// endpoint; 0 means any number.
	breaker        *snapshot.CircuitBreaker
	maxConnections int
	concurrency    *concurrency.Controller // nil for none

	members []member
	tiers
	// dual says that some are named.
	dual    bool
	subsets *subsets // nil for none
	// resolving is closed when each host has been looked up once; nil after that.
	resolving <-chan struct{}
}

// member is an endpoint in a set.
type member struct {
	ep       *endpoint
	weight   uint32
	draining bool
	zone     string
	labels   map[string]string
	rank     rank
	// named says that it is an address of a host that has some of both IP families.
	named bool
	// tier is the member's place in state.ready, or -1 if it is draining.
	tier int
}

func newCluster(m *Manager, cfg *snapshot.Cluster, eps *snapshot.Endpoints) *Cluster {
	c := &Cluster{
		m:      m,
		hosts:  map[resolver.Question]*resolver.Subscription{},
		byAddr: map[netip.AddrPort]*endpoint{},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setConfig(cfg)
	c.setHosts(eps)
	c.rebuild()
	return c
}

// Update replaces the configuration. Requests in flight keep the old one;
// idle connections that were made on other terms are closed.
func (c *Cluster) Update(cfg *snapshot.Cluster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	before, protocol := c.terms(), c.protocol()
	c.setConfig(cfg)
	c.rebuild()
	if c.terms() != before || c.protocol() != protocol {
		for _, ep := range c.byAddr {
			ep.drain()
		}
	}
}

// terms are what connections are made with.
func (c *Cluster) terms() terms {
	return terms{tls: c.tls, proxyProtocol: proxyVersions[c.cfg.ProxyProtocol], socket: c.socket, http2: c.http2}
}

// protocol is what to speak to the endpoints.
func (c *Cluster) protocol() string {
	switch {
	case c.cfg.Protocol == protocolHTTP2:
		return protocolHTTP2
	case c.cfg.Protocol == protocolALPN && c.cfg.TLS != nil:
		return protocolALPN
	case c.cfg.Protocol == protocolTCP:
		return protocolTCP
	}
	return protocolHTTP1
}

// SetEndpoints replaces the endpoint set. Endpoints that stay, by address and
// port, keep their connections, counts, ejection and health. Those that go
// finish what they have in flight.
func (c *Cluster) SetEndpoints(eps *snapshot.Endpoints) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.setHosts(eps)
	c.rebuild()
}

// Close closes idle connections and ends lookups. Exchanges that began before
// may still use the cluster; it then keeps no connections.
func (c *Cluster) Close() {
	c.m.forget(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for _, s := range c.hosts {
		s.Stop()
	}
	if c.resolving != nil {
		close(c.resolving)
		c.resolving = nil
	}
	for _, ep := range c.byAddr {
		c.retire(ep)
	}
}

func (c *Cluster) setConfig(cfg *snapshot.Cluster) {
	before := c.cfg
	c.cfg = cfg
	if !reflect.DeepEqual(c.health, cfg.HealthCheck) {
		c.health = cfg.HealthCheck
	}
	c.socket = socketOf(&cfg.Socket, c.socket)
	if before == nil || !reflect.DeepEqual(before.HTTP2Keepalive, cfg.HTTP2Keepalive) {
		c.http2 = c.m.http2Options(cfg.HTTP2Keepalive)
	}
	if before == nil || !reflect.DeepEqual(before.RetryBudget, cfg.RetryBudget) {
		c.budget = newRetryBudget(cfg.RetryBudget)
	}
	if before == nil || !reflect.DeepEqual(hashOn(&before.Balance), hashOn(&cfg.Balance)) {
		c.setKeys()
	}
	c.concurrency = concurrency.For(cmp.Or(cfg.CircuitBreaker, noBounds).AdaptiveConcurrency, c.concurrency)
	if before == nil || before.Protocol != cfg.Protocol || !reflect.DeepEqual(before.TLS, cfg.TLS) {
		c.tls, c.tlsErr = clientTLS(cfg.TLS, c.protocol())
		if c.tlsErr != nil {
			c.m.opts.Log.Error(c.tlsErr, "TLS to the cluster is misconfigured; its requests fail", "cluster", cfg.Key)
		}
	}
	if l := cfg.Balance.Locality; (before == nil || before.Balance.Locality != l) &&
		(l == "OnlySameZone" && c.m.opts.Zone == "" || l == "OnlySameNode" && c.m.opts.Node == "") {
		c.m.opts.Log.Error(errNowhere, "No endpoint of the cluster may be used from here", "cluster", cfg.Key, "locality", l)
	}
}

func (c *Cluster) setHosts(eps *snapshot.Endpoints) {
	if eps == nil {
		eps = &snapshot.Endpoints{}
	}
	c.eps = eps
	c.watchHosts()
}

// watchHosts begins to resolve new hosts and stops for those that are gone. What
// SRV records name are hosts as any others, each looked up for itself.
func (c *Cluster) watchHosts() {
	wanted := map[resolver.Question]bool{}
	want := func(q resolver.Question) *resolver.Subscription {
		wanted[q] = true
		if c.hosts[q] == nil {
			c.hosts[q] = c.m.resolver.Subscribe(q, c.resolved)
		}
		return c.hosts[q]
	}
	for i := range c.eps.Hosts {
		h := &c.eps.Hosts[i]
		if q, ok := asked(h); ok && q.SRV {
			if answer := want(q).Answer(); answer != nil {
				for _, t := range answer.Targets {
					want(resolver.Question{Name: t.Name})
				}
			}
		} else if ok {
			want(q)
		}
	}
	for q, s := range c.hosts {
		if !wanted[q] {
			s.Stop()
			delete(c.hosts, q)
		}
	}
}

// asked is what to look up for a host, and false if that is an address already.
func asked(h *snapshot.Host) (resolver.Question, bool) {
	name := strings.ToLower(h.Name)
	_, err := parseLiteral(name)
	return resolver.Question{Name: name, SRV: h.SRV}, err != nil
}

// resolved is called when the answer for a host has changed.
func (c *Cluster) resolved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.watchHosts()
		c.rebuild()
	}
}

// rebuild makes the state anew and retires the endpoints that are not in it.
func (c *Cluster) rebuild() {
	members, settled := c.members()
	if settled && c.resolving != nil {
		defer close(c.resolving)
		c.resolving = nil
	} else if !settled && c.resolving == nil {
		c.resolving = make(chan struct{})
	}
	st := &state{
		key:            c.cfg.Key,
		protocol:       c.protocol(),
		connectTimeout: cmp.Or(c.cfg.ConnectTimeout, 5*time.Second),
		timeouts:       c.cfg.Timeouts,
		pool:           c.cfg.Pool,
		outliers:       c.cfg.OutlierDetection,
		slowStart:      c.cfg.Balance.SlowStart,
		loadReports:    c.cfg.Balance.LoadReports,
		hashes:         len(hashOn(&c.cfg.Balance)) > 0,
		keys:           c.keys,
		timed:          c.cfg.Balance.Algorithm == "PeakEWMA",
		budget:         c.budget,
		terms:          c.terms(),
		tlsErr:         c.tlsErr,
		members:        members,
	}
	st.pool.MaxIdle = cmp.Or(st.pool.MaxIdle, 256)
	st.pool.IdleTimeout = cmp.Or(st.pool.IdleTimeout, time.Minute)
	// A client's PROXY header cannot be sent ahead of it, nor what its TCP connection will say.
	st.warms = (st.pool.MinIdle > 0 || st.pool.PreconnectPercent > 0) && st.proxyProtocol == 0 && st.tlsErr == nil &&
		(st.protocol == protocolHTTP1 || st.protocol == protocolHTTP2 || st.protocol == protocolALPN)
	// A pool's connections cannot be made ahead with a client's PROXY header.
	st.dual = (st.proxyProtocol == 0 || st.protocol == protocolTCP) && slices.ContainsFunc(members, func(m member) bool { return m.named })
	if c.resolving != nil {
		st.resolving = c.resolving
	}
	c.setTiers(st)
	c.setBounds(st)
	if len(c.byAddr) > 0 { // those of a first set have nobody to leave requests to
		c.welcome(st)
	}
	c.state.Store(st)

	stays := make(map[netip.AddrPort]*endpoint, len(members))
	for i := range members {
		ep := members[i].ep
		stays[ep.addr] = ep
		ep.checkBy(c.health)
		ep.mu.Lock()
		ep.setBound()
		ep.mu.Unlock()
	}
	for addr, ep := range c.byAddr {
		if stays[addr] == nil {
			c.retire(ep)
		}
	}
	c.byAddr = stays
	c.warmUp(st)
	c.serveQueue() // there may be more room, or nothing any more
}

// welcome begins with the endpoints of a set that are new in it. c.byAddr are
// those of the one before.
func (c *Cluster) welcome(st *state) {
	now, known := c.m.now(), false
	for ep := range st.inUse {
		known = known || c.byAddr[ep.addr] != nil && ep.load.EjectedUntil.Load() == 0
	}
	for ep := range st.inUse {
		if c.byAddr[ep.addr] != nil {
			continue
		}
		ep.startSlowly(st, now)
		if st.warms {
			c.expect(ep, now)
			if known {
				c.eject.Lock()
				c.hold(st, ep)
				c.eject.Unlock()
			}
		}
	}
}

// members lists the endpoints that are configured and those that hosts resolve
// to, sorted by address. It also reports whether every host had an answer.
func (c *Cluster) members() (members []member, settled bool) {
	// As many as there were, as a rule, or as there are known to be.
	likely := max(len(c.byAddr), len(c.eps.Endpoints))
	members = make([]member, 0, likely)
	places := make(map[netip.AddrPort]int, likely)
	add := func(addr netip.AddrPort, address string, e *snapshot.Endpoint, within uint16) {
		m := member{weight: max(e.Weight, 1), draining: e.Draining, zone: e.Zone, labels: e.Labels, rank: c.rank(e)}
		if m.rank.distance == unreachable {
			return
		}
		m.rank.within = within
		if i, ok := places[addr]; ok { // slices and hosts may name the same address
			known := &members[i]
			known.weight = max(known.weight, m.weight)
			known.draining = known.draining && m.draining
			if m.rank.compare(known.rank) < 0 {
				known.rank = m.rank
			}
			return
		}
		m.ep = c.byAddr[addr]
		if m.ep == nil {
			if address == "" {
				address = addr.String()
			}
			m.ep = newEndpoint(c, addr, address)
		}
		places[addr] = len(members)
		members = append(members, m)
	}
	at := func(addr netip.AddrPort, e *snapshot.Endpoint, within uint16) { add(addr, "", e, within) }
	for i := range c.eps.Endpoints {
		e := &c.eps.Endpoints[i]
		if isSocket(e.Address) {
			id, _ := exchange.EndpointID(e.Address)
			add(id, e.Address, e, 0)
			continue
		}
		addr, err := parseLiteral(e.Address)
		if err != nil {
			c.m.opts.Log.Error(err, "Endpoint left out", "cluster", c.cfg.Key, "address", e.Address)
			continue
		}
		at(netip.AddrPortFrom(addr, e.Port), e, 0)
	}
	settled = true
	// latest is the answer to a question. One that watchHosts has not asked yet is
	// of an answer that came behind it, and resolved is about to be called again.
	latest := func(q resolver.Question) *resolver.Answer {
		if s := c.hosts[q]; s != nil {
			if a := s.Answer(); a != nil {
				return a
			}
		}
		settled = false
		return &resolver.Answer{}
	}
	host := func(name string, port uint16, remote bool, e *snapshot.Endpoint, within uint16) {
		addrs := latest(resolver.Question{Name: name}).Addrs
		dual := slices.ContainsFunc(addrs, netip.Addr.Is4) && slices.ContainsFunc(addrs, netip.Addr.Is6)
		for _, addr := range addrs {
			if !remote || !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
				at(netip.AddrPortFrom(addr, port), e, within)
				if i, ok := places[netip.AddrPortFrom(addr, port)]; ok {
					members[i].named = members[i].named || dual
				}
			}
		}
	}
	for i := range c.eps.Hosts {
		h := &c.eps.Hosts[i]
		e := &snapshot.Endpoint{Weight: h.Weight, Zone: h.Zone, Priority: h.Priority, Labels: h.Labels}
		q, ok := asked(h)
		switch {
		case !ok:
			addr, _ := parseLiteral(q.Name)
			at(netip.AddrPortFrom(addr, h.Port), e, 0)
		case q.SRV:
			for _, t := range latest(q).Targets {
				one := *e
				one.Weight = uint32(t.Weight)
				host(t.Name, t.Port, h.Remote, &one, t.Priority)
			}
		default:
			host(q.Name, h.Port, h.Remote, e, 0)
		}
	}
	slices.SortFunc(members, func(a, b member) int { return a.ep.addr.Compare(b.ep.addr) })
	return members, settled
}

// parseLiteral reads an IP address, also in the brackets that URLs need.
func parseLiteral(s string) (netip.Addr, error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err
}

// EndpointState is how an endpoint is doing, for people and metrics.
type EndpointState struct {
	// Address is "ip:port" or "unix:/path".
	Address string `json:"address"`
	Weight  uint32 `json:"weight"`
	Zone    string `json:"zone,omitempty"`
	// Labels are those by which requests choose a subset.
	Labels map[string]string `json:"labels,omitempty"`
	// SharePercent is how much of its weight the endpoint has for now: less than
	// 100 while it starts slowly, or as its load reports say.
	SharePercent int `json:"sharePercent"`
	// Tier is the place among those that are preferred in turn, 0 the first one;
	// -1 if it is draining.
	Tier int `json:"tier"`
	// State is "ready", "full" (it has as many requests as it may), "draining",
	// "warming" (it gets requests when a first connection has been made),
	// "ejected" (it refused a connection or is an outlier, and is tried again
	// later) or "unhealthy" (its health checks failed).
	State string `json:"state"`
	// InFlight counts requests, MaxInFlight is how many they may be, 0 for any
	// number. Idle and Connections count connections.
	InFlight    int64 `json:"inFlight"`
	MaxInFlight int64 `json:"maxInFlight,omitempty"`
	Idle        int   `json:"idle"`
	Connections int   `json:"connections"`
	// Requests counts the requests sent, Failures those of them, and of the
	// attempts to connect, that brought no response.
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
	// Connects and ConnectFailures count attempts to connect by their outcome.
	Connects        uint64 `json:"connects"`
	ConnectFailures uint64 `json:"connectFailures"`
	// TLSFailures are those of ConnectFailures that TLS is the reason of, by
	// reason; nil if there are none.
	TLSFailures map[string]uint64 `json:"tlsFailures,omitempty"`
	// Ejections count how often it was taken out of use, by reason; nil if it never was.
	Ejections map[string]uint64 `json:"ejections,omitempty"`
	// Latency is the moving average of the time to the response's first byte.
	Latency time.Duration `json:"latency"`
	// ChecksPassed and ChecksFailed count health checks; CheckFailure says why
	// the last one failed, "" if it passed.
	ChecksPassed uint64 `json:"checksPassed,omitempty"`
	ChecksFailed uint64 `json:"checksFailed,omitempty"`
	CheckFailure string `json:"checkFailure,omitempty"`
}

// Key returns the cluster's key.
func (c *Cluster) Key() string { return c.state.Load().key }

// State returns the endpoints of the current set, sorted by address.
func (c *Cluster) State() []EndpointState {
	st := c.state.Load()
	list := make([]EndpointState, len(st.members))
	for i := range st.members {
		m := &st.members[i]
		s := m.ep.snapshot()
		s.SharePercent = m.ep.sharePercent()
		s.Weight, s.Zone, s.Tier, s.Labels = m.weight, m.zone, m.tier, m.labels
		switch until := m.ep.load.EjectedUntil.Load(); {
		case until == balance.Unhealthy:
			s.State = "unhealthy"
		case m.draining:
			s.State = "draining"
		case until != 0 && m.ep.held.Load():
			s.State = "warming"
		case until != 0:
			s.State = "ejected"
		case m.ep.load.Full():
			s.State = "full"
		default:
			s.State = "ready"
		}
		list[i] = s
	}
	return list
}
