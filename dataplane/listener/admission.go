package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/quota"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// admission decides whether a port takes one more connection, or flow. One that
// is refused is closed at once: another replica may have room, and would not be
// asked while it waits here.
type admission struct {
	port   *port
	limits atomic.Pointer[connectionLimits] // nil without any
	// open counts what is open, clients whose: of those that came while they were bounded.
	open    atomic.Int64
	clients *quota.Counts
	// rates are the clients' buckets, nil before there was a rate; guarded by Set.mu.
	rates *quota.Buckets

	unsaid atomic.Int64 // refused since it was last logged
	saidAt atomic.Int64 // nanoseconds since 1970
}

// Why a connection is refused.
const (
	reasonMax          = "max_connections"
	reasonMaxPerClient = "max_connections_per_client"
	reasonRate         = "connection_rate_per_client"
)

// sayEvery is how often refused connections are logged.
const sayEvery = 10 * time.Second

// connectionLimits are snapshot.ConnectionLimits, ready to be kept. They are immutable.
type connectionLimits struct {
	max, maxPerClient int
	// interval is the nanoseconds in which a client may open one connection,
	// capacity those of all that it may open at once.
	interval, capacity int64
	rates              *quota.Buckets
	exempt             []netip.Prefix
}

// update makes cfg what new connections meet. The error names networks that cannot
// be read, which are not exempt. Set.mu is held.
func (a *admission) update(cfg *snapshot.ConnectionLimits) error {
	if cfg == nil {
		a.limits.Store(nil)
		return nil
	}
	l := &connectionLimits{max: cfg.Max, maxPerClient: cfg.MaxPerClient}
	if r := cfg.RatePerClient; r != nil && r.Connections > 0 {
		if a.rates == nil {
			a.rates = quota.NewBuckets(time.Now())
		}
		l.rates = a.rates
		l.interval = max(int64(r.Per)/int64(r.Connections), 1)
		l.capacity = l.interval * int64(max(r.Burst, 1))
	}
	var errs []error
	for _, cidr := range cfg.Exempt {
		network, err := netip.ParsePrefix(cidr)
		if err != nil {
			errs = append(errs, fmt.Errorf("connection limits: exempt: %w", err))
			continue
		}
		l.exempt = append(l.exempt, network.Masked())
	}
	a.limits.Store(l)
	return errors.Join(errs...)
}

// enter makes room for a connection of whoever. If it reports true, leave must follow.
func (a *admission) enter(peer netip.Addr) bool {
	n := a.open.Add(1)
	if l := a.limits.Load(); l != nil && l.max > 0 && n > int64(l.max) {
		a.leave()
		a.refuse(reasonMax, peer)
		return false
	}
	return true
}

func (a *admission) leave() { a.open.Add(-1) }

// enterClient makes room for a connection of a client. It returns why there is
// none, or ""; and whether it is counted: leaveClient must follow then.
func (a *admission) enterClient(client netip.Addr, now time.Time) (counted bool, reason string) {
	l := a.limits.Load()
	if l == nil || l.maxPerClient == 0 && l.rates == nil || l.exempts(client) {
		return false, ""
	}
	if l.maxPerClient > 0 {
		if counted = a.clients.Enter(a.clients.Client(quota.NoValues, client), l.maxPerClient); !counted {
			a.refuse(reasonMaxPerClient, client)
			return false, reasonMaxPerClient
		}
	}
	// Only what is let in counts, so that who asks too often is not locked out for good.
	if l.rates != nil && l.rates.Take(l.rates.Client(quota.NoValues, client), now, l.interval, l.capacity) > 0 {
		if counted {
			a.leaveClient(client)
		}
		a.refuse(reasonRate, client)
		return false, reasonRate
	}
	return counted, ""
}

func (a *admission) leaveClient(client netip.Addr) {
	a.clients.Leave(a.clients.Client(quota.NoValues, client))
}

// crowded reports whether a client has half of the connections that it may have.
func (a *admission) crowded(client netip.Addr) bool {
	l := a.limits.Load()
	return l != nil && l.maxPerClient > 0 &&
		a.clients.Count(a.clients.Client(quota.NoValues, client)) >= (l.maxPerClient+1)/2
}

func (l *connectionLimits) exempts(client netip.Addr) bool {
	for i := range l.exempt {
		if l.exempt[i].Contains(client) {
			return true
		}
	}
	return false
}

// flow is enter and enterClient for a flow of datagrams.
func (a *admission) flow(client netip.Addr) (leave func(), reason string) {
	if !a.enter(client) {
		return nil, reasonMax
	}
	counted, reason := a.enterClient(client, time.Now())
	if reason != "" {
		a.leave()
		return nil, reason
	}
	return func() {
		if counted {
			a.leaveClient(client)
		}
		a.leave()
	}, ""
}

// refuse counts a connection that is not taken, and now and then says so.
func (a *admission) refuse(reason string, client netip.Addr) {
	a.port.metrics.Rejected(reason)
	a.unsaid.Add(1)
	now, last := time.Now().UnixNano(), a.saidAt.Load()
	if now-last >= int64(sayEvery) && a.saidAt.CompareAndSwap(last, now) {
		a.port.set.opts.Log.Info("connections are refused", "port", a.port.key, "reason", reason, "client", client, "refused", a.unsaid.Swap(0))
	}
}
