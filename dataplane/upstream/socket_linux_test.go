package upstream

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestSocketOptions looks at what is set of a connection.
func TestSocketOptions(t *testing.T) {
	b := newBackend(t, ok)
	x := cfg()
	x.Socket = snapshot.Socket{
		SourceAddresses: addrs("127.0.0.1"),
		Keepalive:       &snapshot.TCPKeepalive{IdleTime: 7 * time.Second, Interval: 3 * time.Second, Probes: 4},
		UserTimeout:     25 * time.Second,
	}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
	ex := newExchange("GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	defer finish(t, ex, lease)
	raw, err := lease.(*conn).client.NC.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name                string
		level, option, want int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 7},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 25_000},
		{"IP_BIND_ADDRESS_NO_PORT", unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
	} {
		got := 0
		if err := errors.Join(raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), o.level, o.option) }), err); err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
		if got != o.want {
			t.Errorf("%s is %d, want %d", o.name, got, o.want)
		}
	}
}
