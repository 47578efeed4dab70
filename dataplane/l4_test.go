package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/l4"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// echo is a TCP server that says its name, then sends back all it gets, and
// after the client's end "bye".
func echo(t testing.TB, name string, with *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if with != nil {
		ln = tls.NewListener(ln, with)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.WriteString(c, name+"\n")
				_, _ = io.Copy(c, c)
				_, _ = io.WriteString(c, "bye")
			}()
		}
	}()
	return ln.Addr().String()
}

// talk sends what and its end, and returns all that comes back.
func talk(t testing.TB, c net.Conn, what string) (string, error) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, what)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return string(got), err
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// target sends connections for a server name to clusters of equal weight.
func target(hostname string, clusters ...string) *snapshot.Target {
	t := &snapshot.Target{Hostname: hostname}
	for _, c := range clusters {
		t.Backends = append(t.Backends, snapshot.Backend{Cluster: c, Weight: 1})
	}
	return t
}

func tcpPort(targets ...*snapshot.Target) *snapshot.Port {
	return &snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 5432, Protocol: "TCP", Targets: targets},
	}}
}

// closed is an address where nobody listens: a client's, so that nobody else
// gets it meanwhile.
func closed(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c := dial(t, ln.Addr().String())
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestTCP(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	// One of the endpoints refuses: another is tried.
	w.port(tcpPort(target("", "a"))).cluster("a", closed(t), echo(t, "a", nil)).apply(t, p)
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for _, what := range []string{"", "hello", large} {
		for range 3 {
			if got, err := talk(t, dial(t, address(t, p)), what); err != nil || got != "a\n"+what+"bye" {
				t.Fatalf("sent %d bytes, got %d: %.20q…, %v", len(what), len(got), got, err)
			}
		}
	}

	// A connection stays where it is when the route changes; new ones go elsewhere.
	before := dial(t, address(t, p))
	name := make([]byte, 2)
	if _, err := io.ReadFull(before, name); err != nil || string(name) != "a\n" {
		t.Fatalf("%q, %v", name, err)
	}
	w.port(tcpPort(target("", "b"))).cluster("b", echo(t, "b", nil)).apply(t, p)
	if got, err := talk(t, dial(t, address(t, p)), "x"); err != nil || got != "b\nxbye" {
		t.Errorf("after the change: %q, %v", got, err)
	}
	if got, err := talk(t, before, "y"); err != nil || got != "ybye" {
		t.Errorf("from before: %q, %v", got, err)
	}
	awaitQuiet(t, p)
}

// awaitQuiet waits until no endpoint has a connection.
func awaitQuiet(t testing.TB, p *dataplane.Proxy) {
	t.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		busy := int64(0)
		for _, c := range p.Clusters() {
			for _, e := range c.Endpoints {
				busy += e.InFlight + int64(e.Connections)
			}
		}
		if busy == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("still counted: %+v", p.Clusters())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTCPRefused(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	unresolved := target("", "")
	w.port(tcpPort(unresolved)).apply(t, p)
	refused := func(why string) {
		t.Helper()
		c, err := net.Dial("tcp", address(t, p))
		if err != nil {
			return // reset before the dialer looked
		}
		got, err := talk(t, c, "x")
		if got != "" || err == nil {
			t.Errorf("%s: got %q, %v; want a reset", why, got, err)
		}
	}
	refused("unresolved backend")
	w.port(tcpPort()).apply(t, p)
	refused("no route")
	w.port(tcpPort(target("", "a"))).cluster("a", closed(t)).apply(t, p)
	refused("nobody listens")

	// Half of the weight is unresolved: about half of the connections are refused.
	half := target("", "b", "")
	w.port(tcpPort(half)).cluster("b", echo(t, "b", nil)).apply(t, p)
	served := 0
	for range 60 {
		c, err := net.Dial("tcp", address(t, p))
		if err != nil {
			continue
		}
		if got, err := talk(t, c, "x"); err == nil && got == "b\nxbye" {
			served++
		}
	}
	if served < 10 || served > 50 {
		t.Errorf("%d of 60 served, want about 30", served)
	}
}

func TestTCPIdle(t *testing.T) {
	const idle = 200 * time.Millisecond
	p := start(t, dataplane.Options{L4: l4.Options{IdleTimeout: idle}})
	w := &world{}
	w.port(tcpPort(target("", "a"))).cluster("a", echo(t, "a", nil)).apply(t, p)
	// busy has nine echoes within twice the timeout, and returns the longest time
	// that the connection can have been idle for.
	busy := func() (c net.Conn, longest time.Duration, err error) {
		active, b := time.Now(), make([]byte, 2)
		c = dial(t, address(t, p))
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		for i := 0; i < 9 && err == nil; i++ {
			since := active
			if i > 0 {
				time.Sleep(idle / 4)
				active = time.Now()
				_, err = c.Write(b)
			}
			if err == nil {
				_, err = io.ReadFull(c, b)
			}
			longest = max(longest, time.Since(since))
		}
		return c, longest, err
	}
	for until := time.Now().Add(20 * time.Second); ; {
		c, longest, err := busy()
		if err == nil {
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("idle: %d, %v", n, err)
			}
		}
		c.Close()
		if err == nil {
			break
		}
		if longest < idle || time.Now().After(until) { // else it was idle after all, for a busy machine
			t.Fatalf("%v, though it was not idle for longer than %v", err, longest)
		}
	}
	awaitQuiet(t, p)
}

func TestTCPDrain(t *testing.T) {
	p := start(t, dataplane.Options{L4: l4.Options{DrainTimeout: 50 * time.Millisecond}})
	w := &world{}
	w.port(tcpPort(target("", "a"))).cluster("a", echo(t, "a", nil)).apply(t, p)
	c := dial(t, address(t, p))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 2)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	w.snap.Ports, w.delta.Ports = nil, true
	w.apply(t, p)
	if n, err := c.Read(b); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("drained: %d, %v", n, err)
	}
	awaitQuiet(t, p)
}

func pair(t *testing.T, s *snapshot.TLS) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(s.Certificates[0].Chain, s.Certificates[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTLSMixed has on one port what passes through, what is terminated and
// passed on, and HTTPS, told apart by server name.
func TestTLSMixed(t *testing.T) {
	inner := pair(t, selfSigned(t, 7, "pass.example.com"))
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: "pass", Port: 443, Protocol: "TLS", Hostname: "*.example.com", Targets: []*snapshot.Target{
			target("pass.example.com", "tls"), target("*.example.com", "tls2"),
		}},
		{Key: "raw", Port: 443, Protocol: "TLS", Hostname: "raw.example.com",
			TLS: selfSigned(t, 8, "raw.example.com"), Targets: []*snapshot.Target{target("raw.example.com", "plain")}},
		{Key: "web", Port: 443, Protocol: "HTTPS", Hostname: "web.example.com", TLS: selfSigned(t, 9, "web.example.com")},
	}}).
		cluster("tls", echo(t, "tls", &tls.Config{Certificates: []tls.Certificate{inner}, NextProtos: []string{"echo"}})).
		cluster("tls2", echo(t, "tls2", &tls.Config{Certificates: []tls.Certificate{inner}})).
		cluster("plain", echo(t, "plain", nil)).cluster("http", backend(t, "http")).
		host("web", "web.example.com", to("/", "http")).apply(t, p)

	for _, tt := range []struct {
		name, alpn string
		serial     int64
		want       string
	}{
		{"pass.example.com", "echo", 7, "tls\nhibye"},
		{"PASS.example.com", "echo", 7, "tls\nhibye"},
		{"other.example.com", "", 7, "tls2\nhibye"},
		{"raw.example.com", "", 8, "plain\nhibye"},
		{"raw.example.com", "mqtt", 8, "plain\nhibye"},
		{"example.org", "", 0, ""},
		{"", "", 0, ""},
	} {
		settings := &tls.Config{ServerName: tt.name, InsecureSkipVerify: true}
		if tt.alpn != "" {
			settings.NextProtos = []string{tt.alpn}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		nc := dial(t, address(t, p))
		c := tls.Client(nc, settings)
		err := c.HandshakeContext(ctx)
		cancel()
		if (err == nil) != (tt.want != "") {
			t.Errorf("%q: handshake: %v", tt.name, err)
		}
		if err != nil {
			nc.Close()
			continue
		}
		if serial := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != tt.serial {
			t.Errorf("%q: certificate %d, want %d", tt.name, serial, tt.serial)
		}
		if got, err := talk(t, c, "hi"); err != nil || got != tt.want {
			t.Errorf("%q: %q, %v", tt.name, got, err)
		}
	}

	web := client(t)
	transport := web.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{ServerName: "web.example.com", InsecureSkipVerify: true}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address(t, p))
	}
	if resp, body := get(t, web, "https://web.example.com/x"); resp.StatusCode != 200 || body != "http GET /x " {
		t.Errorf("HTTPS beside it: %d %q", resp.StatusCode, body)
	}

	// What is no TLS, or hostile, is closed.
	for _, head := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 100)} {
		c := dial(t, address(t, p))
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(c, head)
		if got, _ := io.ReadAll(c); bytes.Contains(got, []byte("200")) {
			t.Errorf("%q: %q", head, got)
		}
		c.Close()
	}
}

// udpEcho answers each datagram with its name and the datagram.
func udpEcho(t testing.TB, name string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(name+" "), buf[:n]...), from)
		}
	}()
	return c.LocalAddr().String()
}

func TestUDP(t *testing.T) {
	p := start(t, dataplane.Options{L4: l4.Options{MaxFlows: 8}})
	w := &world{}
	port := func(targets ...*snapshot.Target) *snapshot.Port {
		return &snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
			{Key: gateway, Port: 53, Protocol: "UDP", Targets: targets},
		}}
	}
	w.port(port(target("", "a", "b"))).cluster("a", udpEcho(t, "a")).cluster("b", udpEcho(t, "b")).apply(t, p)

	ask := func(c net.Conn, what string) (string, error) {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte(what)); err != nil {
			return "", err
		}
		buf := make([]byte, 1<<16)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	var clients []net.Conn
	for i := range 8 {
		c, err := net.Dial("udp", address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
		first := ""
		for k := range 5 {
			what := fmt.Sprintf("%d.%d", i, k)
			got, err := ask(c, what)
			name, rest, _ := strings.Cut(got, " ")
			if err != nil || rest != what || name != "a" && name != "b" || first != "" && name != first {
				t.Fatalf("client %d: %q, %v; want %s and from where the flow began (%s)", i, got, err, what, first)
			}
			first = name
		}
	}
	if got, err := ask(clients[0], strings.Repeat("x", 60000)); err != nil || len(got) != 60002 {
		t.Errorf("large datagram: %d bytes, %v", len(got), err)
	}
	// The table is full.
	c, err := net.Dial("udp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = c.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 10)); err == nil {
		t.Errorf("one flow too many was answered with %d bytes", n)
	}
	w.snap.Ports, w.delta.Ports = nil, true
	w.apply(t, p)
	awaitQuiet(t, p)
}

func TestUDPFlowEnds(t *testing.T) {
	p := start(t, dataplane.Options{L4: l4.Options{FlowTimeout: 50 * time.Millisecond}})
	w := &world{}
	w.port(&snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 53, Protocol: "UDP", Targets: []*snapshot.Target{target("", "a")}},
	}}).cluster("a", udpEcho(t, "a")).apply(t, p)
	c, err := net.Dial("udp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		// A datagram is answered while its flow lasts: on a busy machine, another one.
		for until := time.Now().Add(20 * time.Second); ; {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, err := c.Read(make([]byte, 10))
			if err == nil {
				break
			}
			if time.Now().After(until) {
				t.Fatal(err)
			}
		}
		awaitQuiet(t, p)
	}
}
