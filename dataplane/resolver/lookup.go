package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// lookup resolves a name once, by hosts(5) and DNS. Unlike package net's
// resolver it tells for how long the answer counts.
type lookup struct {
	nameservers     []string
	resolvConf      string
	hosts           string
	minTTL, maxTTL  time.Duration
	questionTimeout time.Duration
}

// found is a successful lookup, with an answer that is not empty.
type found struct {
	Answer
	ttl time.Duration
	// lacks says that the question for addresses of one IP family has failed, and
	// which these are; nil if both were answered.
	lacks func(netip.Addr) bool
}

// complete adds what was known before of the family that the answer lacks, as all
// would stay if both questions had failed.
func (f *found) complete(before *Answer) {
	if f.lacks == nil || before == nil {
		return
	}
	for _, addr := range before.Addrs {
		if f.lacks(addr) {
			f.Addrs = append(f.Addrs, addr)
		}
	}
	slices.SortFunc(f.Addrs, netip.Addr.Compare)
	f.Addrs = slices.Compact(f.Addrs)
}

// maxTargets bounds the SRV records of a name; of more, those that come first by
// priority count.
const maxTargets = 128

// hostsTTL is for how long entries of the hosts file count.
const hostsTTL = 10 * time.Second

// goneError says that a name has no such records, by who should know.
type goneError struct{ Question }

func (e *goneError) Error() string {
	if e.SRV {
		return e.Name + " has no SRV records"
	}
	return e.Name + " has no addresses"
}

func isGone(err error) bool {
	var gone *goneError
	return errors.As(err, &gone)
}

func newLookup(cfg Config) lookup {
	return lookup{
		nameservers:     cfg.Nameservers,
		resolvConf:      cmp.Or(cfg.ResolvConf, "/etc/resolv.conf"),
		hosts:           cmp.Or(cfg.Hosts, "/etc/hosts"),
		minTTL:          cmp.Or(cfg.MinTTL, time.Second),
		maxTTL:          cmp.Or(cfg.MaxTTL, 5*time.Minute),
		questionTimeout: cfg.Timeout,
	}
}

func (l *lookup) resolve(ctx context.Context, q Question) (found, error) {
	f, err := l.find(ctx, q)
	if err != nil {
		return found{}, fmt.Errorf("resolving %q: %w", q.Name, err)
	}
	f.Addrs = reachable(f.Addrs)
	slices.SortFunc(f.Addrs, netip.Addr.Compare)
	f.Addrs = slices.Compact(f.Addrs)
	slices.SortFunc(f.Targets, Target.compare)
	f.Targets = slices.Compact(f.Targets)
	f.Targets = f.Targets[:min(len(f.Targets), maxTargets)]
	f.ttl = min(max(f.ttl, l.minTTL), l.maxTTL)
	return f, nil
}

// local answers without a name server, if it can.
func (l *lookup) local(q Question) []netip.Addr {
	if q.SRV {
		return nil // the hosts file has addresses alone
	}
	bare := strings.TrimSuffix(q.Name, ".")
	if addrs := l.fromHosts(bare); len(addrs) > 0 {
		return addrs
	}
	// RFC 6761 section 6.3: names under localhost never leave the machine.
	if bare == "localhost" || strings.HasSuffix(bare, ".localhost") {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	}
	return nil
}

func (l *lookup) find(ctx context.Context, of Question) (found, error) {
	if addrs := l.local(of); len(addrs) > 0 {
		return found{Answer: Answer{Addrs: addrs}, ttl: hostsTTL}, nil
	}
	cfg, err := dns.ClientConfigFromFile(l.resolvConf)
	if err != nil {
		// As resolv.conf(5) says of a machine without the file.
		cfg = &dns.ClientConfig{Servers: []string{"127.0.0.1"}, Port: "53", Ndots: 1, Timeout: 5, Attempts: 2}
	}
	servers := l.nameservers
	if len(servers) == 0 {
		for _, s := range cfg.Servers {
			servers = append(servers, net.JoinHostPort(s, cfg.Port))
		}
	}
	if len(servers) == 0 {
		return found{}, fmt.Errorf("%s names no server", l.resolvConf)
	}
	q := questions{
		servers:  servers,
		attempts: max(cfg.Attempts, 1),
		timeout:  cmp.Or(l.questionTimeout, time.Duration(cfg.Timeout)*time.Second),
	}
	var ill error
	ask := q.addresses
	if of.SRV {
		ask = q.services
	}
	for _, candidate := range cfg.NameList(of.Name) {
		f, err := ask(ctx, candidate)
		switch {
		case err == nil:
			return f, nil
		case isGone(err):
		case errors.Is(err, errServer):
			// As the C library does: the next name of the search list is tried,
			// and the failure reported if none is found.
			ill = err
		default:
			return found{}, err
		}
	}
	if ill != nil {
		return found{}, ill
	}
	return found{}, &goneError{of}
}

// fromHosts reads the hosts file, hosts(5).
func (l *lookup) fromHosts(name string) []netip.Addr {
	text, err := os.ReadFile(l.hosts)
	if err != nil {
		return nil
	}
	return hostsEntries(string(text), name)
}

func hostsEntries(text, name string) (addrs []netip.Addr) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		if slices.ContainsFunc(fields[1:], func(f string) bool {
			return strings.EqualFold(strings.TrimSuffix(f, "."), name)
		}) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// questions asks name servers.
type questions struct {
	servers  []string
	attempts int
	timeout  time.Duration
}

// errServer says that a server could not answer, RFC 1035 section 4.1.1.
var errServer = errors.New("the name server failed")

// addresses asks for A and AAAA of a full name at the same time.
func (q *questions) addresses(ctx context.Context, name string) (found, error) {
	type outcome struct {
		found
		err error
	}
	var v4, v6 outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6.found, v6.err = q.ask(ctx, name, dns.TypeAAAA)
	}()
	v4.found, v4.err = q.ask(ctx, name, dns.TypeA)
	<-done

	// One family is enough: many servers answer badly for the other.
	switch {
	case v4.err == nil && v6.err == nil:
		return found{Answer: Answer{Addrs: append(v4.Addrs, v6.Addrs...)}, ttl: min(v4.ttl, v6.ttl)}, nil
	case v4.err == nil:
		if !isGone(v6.err) {
			v4.lacks = netip.Addr.Is6
		}
		return v4.found, nil
	case v6.err == nil:
		if !isGone(v4.err) {
			v6.lacks = netip.Addr.Is4
		}
		return v6.found, nil
	case isGone(v4.err):
		return found{}, v6.err
	}
	return found{}, v4.err
}

// services asks for the SRV records of a full name.
func (q *questions) services(ctx context.Context, name string) (found, error) {
	return q.ask(ctx, name, dns.TypeSRV)
}

// ask puts one question to the servers in turn until one answers.
func (q *questions) ask(ctx context.Context, name string, kind uint16) (found, error) {
	gone := &goneError{Question{name, kind == dns.TypeSRV}}
	var m dns.Msg
	m.SetQuestion(name, kind)
	m.SetEdns0(1232, false)
	var last error
	for range q.attempts {
		for _, server := range q.servers {
			r, err := q.exchange(ctx, &m, server)
			if ctx.Err() != nil {
				return found{}, ctx.Err()
			}
			if err != nil {
				last = err
				continue
			}
			switch r.Rcode {
			case dns.RcodeSuccess:
				f := read(r)
				if len(f.Addrs) == 0 && len(f.Targets) == 0 {
					return found{}, gone
				}
				return f, nil
			case dns.RcodeNameError:
				return found{}, gone
			default:
				last = fmt.Errorf("%w: %s answered %s for %s", errServer, server, dns.RcodeToString[r.Rcode], name)
			}
		}
	}
	return found{}, last
}

func (q *questions) exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	r, err := q.over(ctx, "udp", m, server)
	if err == nil && r.Truncated {
		r, err = q.over(ctx, "tcp", m, server)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || r.Question[0].Qtype != m.Question[0].Qtype || !strings.EqualFold(r.Question[0].Name, m.Question[0].Name) {
		return nil, fmt.Errorf("%s answered another question", server)
	}
	return r, nil
}

func (q *questions) over(ctx context.Context, network string, m *dns.Msg, server string) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: q.timeout, UDPSize: 1232}
	conn, err := c.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The client keeps the context's deadline, but does not notice its end.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	return r, err
}

// read takes the addresses and SRV records from an answer. Its time to live is the least of
// all records in it, as aliases may change too.
func read(r *dns.Msg) found {
	var f found
	least := ^uint32(0)
	for _, record := range r.Answer {
		var addr netip.Addr
		var ok bool
		switch record := record.(type) {
		case *dns.A:
			addr, ok = netip.AddrFromSlice(record.A.To4())
		case *dns.AAAA:
			addr, ok = netip.AddrFromSlice(record.AAAA)
		case *dns.SRV:
			// A target "." says that there is no such service, RFC 2782.
			if record.Target != "." && record.Port != 0 {
				f.Targets = append(f.Targets, Target{strings.ToLower(record.Target), record.Port, record.Priority, record.Weight})
			}
		}
		least = min(least, record.Header().Ttl)
		// What names no one endpoint is left out.
		if addr = addr.Unmap(); ok && !addr.IsUnspecified() && !addr.IsMulticast() {
			f.Addrs = append(f.Addrs, addr)
		}
	}
	f.ttl = time.Duration(least) * time.Second
	return f
}

// compare puts first what is used first.
func (t Target) compare(other Target) int {
	return cmp.Or(cmp.Compare(t.Priority, other.Priority), cmp.Compare(other.Weight, t.Weight),
		cmp.Compare(t.Name, other.Name), cmp.Compare(t.Port, other.Port))
}

// reachable leaves out the addresses of a family that this machine does not
// have, unless none would remain: they would only be dialled in vain.
func reachable(addrs []netip.Addr) []netip.Addr {
	local, err := net.InterfaceAddrs()
	if err != nil {
		return addrs
	}
	var have [2][2]bool // IPv6?, loopback?
	index := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	for _, a := range local {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			if addr := prefix.Addr().Unmap(); !addr.IsLinkLocalUnicast() {
				have[index(addr.Is6())][index(addr.IsLoopback())] = true
			}
		}
	}
	var kept []netip.Addr
	for _, a := range addrs {
		if have[index(a.Is6())][index(a.IsLoopback())] {
			kept = append(kept, a)
		}
	}
	if len(kept) == 0 {
		return addrs
	}
	return kept
}
