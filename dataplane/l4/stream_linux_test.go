package l4

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// tcpPair is both ends of a connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestResetBehindAnEnd has an endpoint reset its connection amid what it sends, and
// the client's end found first: the client has what there is, and then the reset.
func TestResetBehindAnEnd(t *testing.T) {
	client, down := tcpPair(t)
	up, endpoint := tcpPair(t)
	s := &Stream{down: down, began: time.Now(), idle: time.Minute, closer: closer{conns: []net.Conn{down, up}}}
	_, _ = io.WriteString(endpoint, "a part")
	_ = endpoint.SetLinger(0)
	_ = endpoint.Close()
	for until := time.Now().Add(20 * time.Second); !isReset(up); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the reset does not arrive")
		}
	}
	_ = client.CloseWrite()
	s.pass(up, down, &s.received, func(int64) {})
	s.pass(down, up, &s.sent, func(int64) {})
	_ = client.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(client); string(got) != "a part" || !errors.Is(err, syscall.ECONNRESET) || s.reason != reasonUpstreamReset {
		t.Errorf("%q, %v, reason %q", got, err, s.reason)
	}
}
