package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// socket is how sockets to a cluster's endpoints are made. A nil one leaves all
// to package net, and so to the system.
type socket struct {
	cfg    snapshot.Socket
	dialer net.Dialer
	// sources are what to bind to for endpoints of IPv4, and of IPv6.
	sources [2][]netip.Addr
	// turn is which of these is next.
	turn atomic.Uint32
	// missing says that the last attempt had none, as was logged.
	missing atomic.Bool
}

// socketOf returns how to make sockets: the one from before, if that is by the same settings.
func socketOf(cfg *snapshot.Socket, before *socket) *socket {
	switch {
	case reflect.ValueOf(*cfg).IsZero():
		return nil
	case before != nil && reflect.DeepEqual(*cfg, before.cfg):
		return before
	}
	s := &socket{cfg: *cfg}
	if k := cfg.Keepalive; k != nil {
		s.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: k.IdleTime, Interval: k.Interval, Count: k.Probes}
	}
	for _, addr := range cfg.SourceAddresses {
		i := family(addr)
		s.sources[i] = append(s.sources[i], addr)
	}
	s.dialer.Control = s.control
	return s
}

func family(addr netip.Addr) int {
	if addr.Unmap().Is4() {
		return 0
	}
	return 1
}

// dial connects to "ip:port", or to the path of a Unix socket. Where there are
// addresses to connect from, they are taken in turn, and one that is not to be
// had (it is not on this machine, or has no port left) is followed by the next.
func (s *socket) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s == nil || network == "unix" {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	var sources []netip.Addr
	if to, err := netip.ParseAddrPort(address); err == nil {
		sources = s.sources[family(to.Addr())]
	}
	if len(sources) == 0 {
		return s.dialer.DialContext(ctx, network, address)
	}
	first := s.turn.Add(1)
	var last error
	for i := range sources {
		from := sources[(int(first)+i)%len(sources)]
		d := s.dialer
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: from.AsSlice()}
		} else {
			d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
		}
		nc, err := d.DialContext(ctx, network, address)
		if err == nil {
			return nc, nil
		}
		if !noSource(err) {
			return nil, err
		}
		last = err
	}
	return nil, &sourceError{sources, last}
}

// noSource reports whether it is the source address that an attempt to connect
// failed by: the system says EINVAL of one from which there is no way, such as a
// loopback address.
func noSource(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EINVAL)
}

// control sets what package net does not.
func (s *socket) control(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = setOptions(int(fd), s.cfg.UserTimeout, len(s.cfg.SourceAddresses) > 0) })
	return errors.Join(controlErr, err)
}

// sourceError says that no source address is to be had. It is not the endpoint's fault.
type sourceError struct {
	sources []netip.Addr
	err     error
}

func (e *sourceError) Error() string {
	return fmt.Sprintf("none of the source addresses %v can be connected from: %v", e.sources, e.err)
}

func (e *sourceError) Unwrap() error { return e.err }
