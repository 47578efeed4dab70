package observe

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Port counts the connections of one socket. It is safe for concurrent use.
type Port struct {
	key       string
	accepted  atomic.Uint64
	active    atomic.Int64
	rejected  reasons
	malformed reasons
	// certificates are what the socket's listeners serve.
	certificates atomic.Pointer[[]Certificate]
	m            *Metrics
	users        int // guarded by m.mu
}

// Port returns the handle for a port's key, such as "tcp/80". Every handle that
// was got is given back with Release.
func (m *Metrics) Port(key string) *Port {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[key]
	if p == nil {
		p = &Port{key: key, m: m}
		m.ports[key] = p
	}
	p.users++
	return p
}

// Release gives the handle back. Open connections may still use it.
func (p *Port) Release() {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(p.m.ports, p.key)
	}
}

// Accepted counts a connection that was accepted and is open now.
func (p *Port) Accepted() {
	p.accepted.Add(1)
	p.active.Add(1)
}

// Closed counts an accepted connection that is closed.
func (p *Port) Closed() { p.active.Add(-1) }

// Certificate is one that a listener serves.
type Certificate struct {
	// Listener is the listener's key, Name where the certificate comes from.
	Listener, Name string
	NotAfter       time.Time
	// StapleUntil returns until when its OCSP response is valid, the zero time if
	// there never was one; nil if it is to have none.
	StapleUntil func() time.Time
}

// SetCertificates says what the socket's listeners serve from now on.
func (p *Port) SetCertificates(all []Certificate) { p.certificates.Store(&all) }

// Rejected counts a connection that was closed before a request was read from
// it, by reason: "limit", "tls_handshake", ….
func (p *Port) Rejected(reason string) { p.rejected.count(reason) }

// Malformed counts a request that could not be read, by reason.
func (p *Port) Malformed(reason string) { p.malformed.count(reason) }

// reasons counts by a word. Words are constants of the program; should one
// not be, the bound keeps it from filling the memory.
type reasons struct {
	counts atomic.Pointer[map[string]*atomic.Uint64]
	mu     sync.Mutex // held to add a word
}

const (
	maxReasons  = 128
	otherReason = "other"
)

func (r *reasons) count(reason string) {
	if counts := r.counts.Load(); counts != nil {
		if n := (*counts)[reason]; n != nil {
			n.Add(1)
			return
		}
	}
	r.add(reason).Add(1)
}

func (r *reasons) add(reason string) *atomic.Uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]*atomic.Uint64{}
	if old := r.counts.Load(); old != nil {
		if n := (*old)[reason]; n != nil {
			return n
		}
		if len(*old) >= maxReasons {
			if n := (*old)[otherReason]; n != nil {
				return n
			}
			reason = otherReason
		}
		counts = maps.Clone(*old)
	}
	n := new(atomic.Uint64)
	counts[strings.Clone(reason)] = n
	r.counts.Store(&counts)
	return n
}
