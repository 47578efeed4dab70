package listener

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/proxyproto"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// trustedSources are who may begin a connection with a PROXY protocol header.
// It is immutable.
type trustedSources struct {
	networks []netip.Prefix
	optional bool
}

// newTrustedSources returns nil if there is nobody. The error names networks
// that cannot be read; nobody is trusted by them.
func newTrustedSources(cfg *snapshot.ProxyProtocol) (*trustedSources, error) {
	if cfg == nil {
		return nil, nil
	}
	s := &trustedSources{optional: cfg.Optional}
	var errs []error
	for _, cidr := range cfg.TrustedSources {
		network, err := netip.ParsePrefix(cidr)
		if err != nil {
			errs = append(errs, fmt.Errorf("PROXY protocol: trusted sources: %w", err))
			continue
		}
		s.networks = append(s.networks, network.Masked())
	}
	return s, errors.Join(errs...)
}

func (s *trustedSources) contains(peer netip.Addr) bool {
	for i := range s.networks {
		if s.networks[i].Contains(peer) {
			return true
		}
	}
	return false
}

// identify reads the header that a trusted source begins with, and makes info
// say who the client is. rest is to be served before what the connection has.
// A connection from elsewhere is left as it is, with all that it brings.
func (s *trustedSources) identify(nc *net.TCPConn, info *exchange.Conn, timeout time.Duration) (rest []byte, err error) {
	if s == nil || !s.contains(info.Remote.Addr()) {
		return nil, nil
	}
	_ = nc.SetReadDeadline(time.Now().Add(timeout))
	h, rest, err := proxyproto.Read(nc)
	switch {
	case errors.Is(err, proxyproto.ErrNone) && s.optional:
	case err != nil:
		return nil, err
	default:
		info.ProxyTLVs = h.TLVs
		if h.Source.IsValid() {
			info.Remote, info.Local = h.Source, h.Destination
		}
	}
	_ = nc.SetReadDeadline(time.Time{})
	return rest, nil
}
