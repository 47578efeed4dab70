package hangup

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if New(near) != nil {
		t.Error("a plain socket is watched twice")
	}
	w := New(tls.Client(near, &tls.Config{}))
	near.SetDeadline(time.Unix(1, 0)) // which must not matter
	if !w.Quiet() {
		t.Error("not quiet")
	}
	if n := testing.AllocsPerRun(100, func() { w.Quiet() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	io.WriteString(far, "x")
	await(t, "bytes are seen", func() bool { return !w.Quiet() })
	near.SetDeadline(time.Time{})
	near.Read(make([]byte, 1))
	if !w.Quiet() {
		t.Error("not quiet after the bytes were read")
	}
	far.Close()
	await(t, "the end is seen", func() bool { return !w.Quiet() })

	a, z := net.Pipe()
	defer a.Close()
	defer z.Close()
	if New(a).Quiet() {
		t.Error("it is known to be quiet without a socket")
	}
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}
