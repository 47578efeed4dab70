package listener

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeepAliveIsInherited(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", ":0"} {
		ln, err := listen(address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for name, one := range map[string]struct{ level, option, want int }{
			"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveSeconds},
			"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveSeconds},
			"TCP_KEEPCNT":   {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes},
			"TCP_NODELAY":   {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		} {
			var got int
			if controlErr := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), one.level, one.option) }); controlErr != nil || err != nil {
				t.Fatal(controlErr, err)
			}
			if got != one.want {
				t.Errorf("at %s, %s is %d, want %d", address, name, got, one.want)
			}
		}
	}
}
