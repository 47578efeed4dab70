package compile

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// compileBackendConnections compiles what a BackendPolicy says of connections: how they
// are made, kept and given up. set sets a stanza, unless there have been findings
// since there were so many.
func compileBackendConnections(c *policyCompiler, spec *v1alpha1.BackendPolicySpec, set func(name string, findings int, apply clusterSetting)) {
	if spec.Pool != nil {
		compilePool(c, spec.Pool, spec.ProxyProtocol != nil, set)
	}
	if spec.SourceAddresses != nil {
		before := len(c.findings)
		addrs := sourceAddresses(c, spec.SourceAddresses)
		set("sourceAddresses", before, func(cl *snapshot.Cluster) { cl.Socket.SourceAddresses = addrs })
	}
	if k := spec.TCPKeepalive; k != nil {
		before := len(c.findings)
		to := &snapshot.TCPKeepalive{
			IdleTime: c.duration("spec.tcpKeepalive.idleTime", k.IdleTime, 0, time.Second, 2*time.Hour),
			Interval: c.duration("spec.tcpKeepalive.interval", k.Interval, 0, time.Second, 2*time.Hour),
			Probes:   int(number(c, "spec.tcpKeepalive.probes", k.Probes, 0, 1, 127)),
		}
		if *k == (v1alpha1.TCPKeepalive{}) {
			c.invalid("spec.tcpKeepalive", "it sets nothing", "idleTime, interval or probes")
		}
		set("tcpKeepalive", before, func(cl *snapshot.Cluster) { cl.Socket.Keepalive = to })
	}
	if spec.TCPUserTimeout != nil {
		before := len(c.findings)
		d := c.duration("spec.tcpUserTimeout", spec.TCPUserTimeout, 0, time.Second, 10*time.Minute)
		set("tcpUserTimeout", before, func(cl *snapshot.Cluster) { cl.Socket.UserTimeout = d })
	}
	if k := spec.HTTP2Keepalive; k != nil {
		before := len(c.findings)
		to := &snapshot.HTTP2Keepalive{
			Interval: c.duration("spec.http2Keepalive.interval", k.Interval, 0, time.Second, time.Hour),
			Timeout:  c.duration("spec.http2Keepalive.timeout", k.Timeout, 0, 100*time.Millisecond, time.Minute),
		}
		if *k == (v1alpha1.HTTP2Keepalive{}) {
			c.invalid("spec.http2Keepalive", "it sets nothing", "interval or timeout")
		}
		set("http2Keepalive", before, func(cl *snapshot.Cluster) { cl.HTTP2Keepalive = to })
	}
}

// notAhead is why a pool makes no connections ahead that are introduced.
const notAhead = "connections that begin with a client's PROXY protocol header cannot be made ahead of the client"

// compilePool is compileConnections for the pool; introduced says that connections
// begin with a PROXY protocol header.
func compilePool(c *policyCompiler, p *v1alpha1.ConnectionPool, introduced bool, set func(name string, findings int, apply clusterSetting)) {
	if p.MaxIdle != nil {
		before := len(c.findings)
		n := number(c, "spec.pool.maxIdle", p.MaxIdle, 0, 1, 65536)
		set("pool.maxIdle", before, func(cl *snapshot.Cluster) { cl.Pool.MaxIdle = int(n) })
	}
	notIntroduced := func(field string) {
		if introduced {
			c.invalid(field, notAhead, "none of it, or no proxyProtocol")
		}
	}
	if p.MinIdle != nil {
		before := len(c.findings)
		most := valueOr(p.MaxIdle, 256)
		n := number(c, "spec.pool.minIdle", p.MinIdle, 0, 1, max(1, min(1000, most)))
		notIntroduced("spec.pool.minIdle")
		set("pool.minIdle", before, func(cl *snapshot.Cluster) { cl.Pool.MinIdle = int(n) })
	}
	if p.PreconnectPercent != nil {
		before := len(c.findings)
		n := number(c, "spec.pool.preconnectPercent", p.PreconnectPercent, 0, 100, 300)
		notIntroduced("spec.pool.preconnectPercent")
		set("pool.preconnectPercent", before, func(cl *snapshot.Cluster) { cl.Pool.PreconnectPercent = int(n) })
	}
	if p.IdleTimeout != nil {
		before := len(c.findings)
		d := c.duration("spec.pool.idleTimeout", p.IdleTimeout, 0, time.Second, time.Hour)
		set("pool.idleTimeout", before, func(cl *snapshot.Cluster) { cl.Pool.IdleTimeout = d })
	}
	if p.MaxAge != nil {
		before := len(c.findings)
		d := c.duration("spec.pool.maxAge", p.MaxAge, 0, time.Second, 24*time.Hour)
		set("pool.maxAge", before, func(cl *snapshot.Cluster) { cl.Pool.MaxAge = d })
	}
	if p.MaxRequests != nil {
		before := len(c.findings)
		n := number(c, "spec.pool.maxRequests", p.MaxRequests, 0, 1, 1_000_000_000)
		set("pool.maxRequests", before, func(cl *snapshot.Cluster) { cl.Pool.MaxRequests = int(n) })
	}
}

// sourceAddresses reads addresses to connect from. Whether they are on the machine
// is found out there: replicas share a policy, and each may have another of them.
func sourceAddresses(c *policyCompiler, list []v1alpha1.IPAddress) (addrs []netip.Addr) {
	if len(list) == 0 || len(list) > 16 {
		c.invalid("spec.sourceAddresses", fmt.Sprintf("it has %d addresses", len(list)), "1 to 16")
	}
	for i, text := range list {
		field := fmt.Sprintf("spec.sourceAddresses[%d]", i)
		addr, err := netip.ParseAddr(string(text))
		addr = addr.Unmap()
		switch {
		case err != nil || addr.Zone() != "":
			c.invalid(field, fmt.Sprintf("%q is no IP address", text), "an IPv4 or IPv6 address of the machine")
		case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			c.invalid(field, string(text)+" is no one machine's address", "an address of the machine")
		}
		addrs = append(addrs, addr)
	}
	return addrs
}
