package upstream

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
)

// fullBacklog listens at a port of IPv6's loopback address and accepts nothing. What
// connects there now is answered by nobody.
func fullBacklog(t *testing.T, port uint16) {
	t.Helper()
	addr := unix.SockaddrInet6{Port: int(port), Addr: netip.IPv6Loopback().As16()}
	socket := func() int {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Skip("there is no IPv6")
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	l := socket()
	if err := unix.Bind(l, &addr); err != nil {
		t.Skip(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		fd := socket()
		if err := unix.Connect(fd, &addr); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(poll, 300); n == 0 {
			return // this one waits
		}
	}
	t.Skip("the backlog does not become full")
}

// TestRaceWithKernel has the kernel drop what IPv6 sends.
func TestRaceWithKernel(t *testing.T) {
	b := newBackend(t, ok)
	fullBacklog(t, b.addr.Port())
	ns := resolvertest.NewServer(t)
	ns.Set("db.example. A", "300 IN A 127.0.0.1")
	ns.Set("db.example. AAAA", "300 IN AAAA ::1")
	m := newManagerFor(t, Options{DNS: testDNS(t, ns)})
	x := cfg()
	x.ConnectTimeout = time.Minute
	c := m.NewCluster(x, hosts(b.addr.Port(), "db.example."))
	eventually(t, "both are known", func() bool { return len(c.State()) == 2 })
	for range 6 {
		send(t, c, "GET", "")
	}
	six := netip.AddrPortFrom(netip.IPv6Loopback(), b.addr.Port())
	if s := stateOf(t, c, six); s.State != "warming" || s.Connects != 0 || s.Requests != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := net.DialTimeout("tcp", six.String(), time.Millisecond); err == nil {
		t.Error("it can be connected to after all")
	}
}
