package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/l4"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// logged is an access log in memory.
type logged struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// line is what the log says of a connection.
type line struct {
	Remote, Client, Protocol, Listener, Route, Cluster, Endpoint, Reason string

	ServerName string `json:"server_name"`
	Received   int64  `json:"received_bytes"`
	Sent       int64  `json:"sent_bytes"`
	Duration   int64  `json:"duration_us"`
}

// await waits for n lines and returns the last.
func (l *logged) await(t testing.TB, n int) (last line) {
	t.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		l.mu.Lock()
		lines := strings.Split(strings.TrimSuffix(l.all.String(), "\n"), "\n")
		empty := l.all.Len() == 0
		l.mu.Unlock()
		if !empty && len(lines) >= n {
			if err := json.Unmarshal([]byte(lines[n-1]), &last); err != nil {
				t.Fatalf("%q: %v", lines[n-1], err)
			}
			return last
		}
		if time.Now().After(until) {
			t.Fatalf("%d lines of %d: %q", len(lines), n, lines)
		}
		time.Sleep(time.Millisecond)
	}
}

// l4Series are the metrics of what is passed on unread, by name and labels.
func l4Series(t testing.TB, m *observe.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		name, found := strings.CutPrefix(f.GetName(), "headgate_l4_")
		if !found {
			continue
		}
		for _, series := range f.GetMetric() {
			key := name
			for _, l := range series.GetLabel() {
				key += " " + l.GetValue()
			}
			all[key] = series.GetCounter().GetValue() + series.GetGauge().GetValue()
		}
	}
	return all
}

func watched(t testing.TB, opts dataplane.Options) (*dataplane.Proxy, *logged, *observe.Metrics) {
	log := &logged{}
	opts.Metrics, opts.AccessLog = observe.NewMetrics(""), observe.NewAccessLog(log, observe.JSON)
	t.Cleanup(func() { opts.AccessLog.Close() })
	return start(t, opts), log, opts.Metrics
}

func of(kind, name string, targets ...*snapshot.Target) *snapshot.Target {
	targets[0].Source = snapshot.Ref{Kind: kind, Namespace: "shop", Name: name}
	return targets[0]
}

func TestTCPIsToldOf(t *testing.T) {
	p, log, metrics := watched(t, dataplane.Options{})
	w := &world{}
	backend := echo(t, "a", nil)
	w.port(behind(tcpPort(of("TCPRoute", "db", target("", "a"))), false, loopback)).cluster("a", backend).apply(t, p)
	const client = "203.0.113.7:4000"
	ask := func() (string, error) {
		c := dial(t, address(t, p))
		_, _ = io.WriteString(c, header(client, nil))
		return talk(t, c, "hello")
	}
	if got, err := ask(); err != nil || got != "a\nhellobye" {
		t.Fatalf("%q, %v", got, err)
	}
	want := line{Remote: client, Client: "203.0.113.7", Protocol: "TCP", Listener: gateway, Route: "TCPRoute/shop/db",
		Cluster: "a", Endpoint: backend, Received: 5, Sent: 10}
	if got := log.await(t, 1); got.Duration <= 0 || same(got, want) != "" {
		t.Errorf("%+v, %s", got, same(got, want))
	}

	// What is refused, by why.
	w.cluster("a", closed(t)).apply(t, p)
	_, _ = ask()
	want.Endpoint, want.Received, want.Sent, want.Reason = "", 0, 0, "connect_refused"
	if got := log.await(t, 2); same(got, want) != "" {
		t.Error(same(got, want))
	}
	w.port(behind(tcpPort(of("TCPRoute", "db", target("", ""))), false, loopback)).apply(t, p)
	_, _ = ask()
	want.Cluster, want.Reason = "", "unresolved_backend"
	if got := log.await(t, 3); same(got, want) != "" {
		t.Error(same(got, want))
	}
	w.port(behind(tcpPort(), false, loopback)).apply(t, p)
	_, _ = ask()
	want.Route, want.Reason = "", "no_route"
	if got := log.await(t, 4); same(got, want) != "" {
		t.Error(same(got, want))
	}
	got := l4Series(t, metrics)
	// The route and its series are gone.
	if len(got) != 1 || got["connections_total  "+gateway+" no_route "] != 1 {
		t.Errorf("%v", got)
	}
}

// same says in what two lines differ but for times.
func same(got, want line) string {
	got.Duration, want.Duration = 0, 0
	if got == want {
		return ""
	}
	return fmt.Sprintf("got %+v\nwant %+v", got, want)
}

// Who has ended a connection.
func TestTCPReasons(t *testing.T) {
	p, log, metrics := watched(t, dataplane.Options{L4: l4.Options{DrainTimeout: 10 * time.Millisecond}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ends := make(chan *net.TCPConn, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			ends <- c.(*net.TCPConn)
		}
	}()
	port := func(idle time.Duration) *snapshot.Port {
		port := tcpPort(of("TCPRoute", "db", target("", "a")))
		port.Listeners[0].Client = &snapshot.Client{IdleTimeout: idle}
		return port
	}
	w := &world{}
	w.port(port(0)).cluster("a", ln.Addr().String()).apply(t, p)
	// reach makes a connection over which 3 bytes went up and 4 down.
	reach := func() (client, end *net.TCPConn) {
		client = dial(t, address(t, p)).(*net.TCPConn)
		end = <-ends
		_ = client.SetDeadline(time.Now().Add(20 * time.Second))
		_ = end.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(client, "ask")
		_, _ = io.ReadFull(end, make([]byte, 3))
		_, _ = io.WriteString(end, "tell")
		_, _ = io.ReadFull(client, make([]byte, 4))
		t.Cleanup(func() { client.Close(); end.Close() })
		return client, end
	}
	n := 0
	reason := func(want string) {
		t.Helper()
		n++
		got := log.await(t, n)
		if got.Reason != want && !(runtime.GOOS != "linux" && got.Reason == "reset") || got.Received != 3 || got.Sent != 4 {
			t.Errorf("%+v, want reason %q", got, want)
		}
	}
	client, _ := reach()
	_ = client.SetLinger(0)
	client.Close()
	reason("client_reset")

	_, end := reach()
	_ = end.SetLinger(0)
	end.Close()
	reason("upstream_reset")

	_, _ = reach()
	if got := l4Series(t, metrics); got["connections_active a "+gateway+" TCPRoute/shop/db"] != 1 {
		t.Errorf("one is active: %v", got)
	}
	w.port(port(2*time.Second)).apply(t, p) // time to reach it on a busy machine
	_, _ = reach()
	reason("idle_timeout")

	// The one from before keeps its timeout, and ends when its listener does.
	w.snap.Ports, w.delta.Ports = nil, true
	w.apply(t, p)
	reason("drained")
}

func TestTLSIsToldOf(t *testing.T) {
	inner := pair(t, selfSigned(t, 7, "pass.example.com"))
	p, log, metrics := watched(t, dataplane.Options{})
	w := &world{}
	w.port(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: "pass", Port: 443, Protocol: "TLS", Hostname: "pass.example.com", Targets: []*snapshot.Target{of("TLSRoute", "pass", target("pass.example.com", "tls"))}},
		{Key: "end", Port: 443, Protocol: "TLS", Hostname: "end.example.com", TLS: selfSigned(t, 8, "end.example.com"),
			Targets: []*snapshot.Target{of("TLSRoute", "end", target("end.example.com", "plain"))}},
	}}).cluster("tls", echo(t, "tls", &tls.Config{Certificates: []tls.Certificate{inner}})).cluster("plain", echo(t, "plain", nil)).apply(t, p)
	for i, name := range []string{"pass", "end"} {
		nc := dial(t, address(t, p))
		c := tls.Client(nc, &tls.Config{ServerName: name + ".example.com", InsecureSkipVerify: true})
		if _, err := talk(t, c, "hello"); err != nil {
			t.Fatal(err)
		}
		got := log.await(t, i+1)
		if got.Protocol != "TLS" || got.ServerName != name+".example.com" || got.Listener != name || got.Route != "TLSRoute/shop/"+name || got.Reason != "" {
			t.Errorf("%+v", got)
		}
		// Of TLS that ends here, what is counted is what was in it.
		if name == "end" && (got.Received != 5 || got.Sent != int64(len("plain\nhellobye"))) || name == "pass" && got.Received < 100 {
			t.Errorf("%s: %d received, %d sent", name, got.Received, got.Sent)
		}
		if series := l4Series(t, metrics); series["received_bytes_total "+got.Cluster+" "+name+" "+got.Route] != float64(got.Received) ||
			series["sent_bytes_total "+got.Cluster+" "+name+" "+got.Route] != float64(got.Sent) ||
			series["connections_total "+got.Cluster+" "+name+" ended "+got.Route] != 1 {
			t.Errorf("%s: %v", name, series)
		}
	}
}

func TestUDPIsToldOf(t *testing.T) {
	p, log, metrics := watched(t, dataplane.Options{L4: l4.Options{MaxFlows: 1}})
	port := func(idle time.Duration, targets ...*snapshot.Target) *snapshot.Port {
		return &snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
			{Key: gateway, Port: 53, Protocol: "UDP", Targets: targets, Client: &snapshot.Client{IdleTimeout: idle}},
		}}
	}
	w := &world{}
	backend := udpEcho(t, "a")
	w.port(port(time.Minute, of("UDPRoute", "dns", target("", "a")))).cluster("a", backend).apply(t, p)
	addr := address(t, p)
	begin := func() net.Conn {
		t.Helper()
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	c := begin()
	for range 2 {
		_, _ = io.WriteString(c, "what")
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	// The table has room for one. What is refused is counted.
	_, _ = io.WriteString(begin(), "x")
	refused := "connections_total a " + gateway + " flow_limit UDPRoute/shop/dns"
	for until := time.Now().Add(20 * time.Second); l4Series(t, metrics)[refused] != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%v", l4Series(t, metrics))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	want := line{Remote: c.LocalAddr().String(), Client: "127.0.0.1", Protocol: "UDP", Listener: gateway, Route: "UDPRoute/shop/dns", Cluster: "a",
		Endpoint: backend, Received: 8, Sent: 12, Reason: "drained"}
	if got := log.await(t, 1); same(got, want) != "" {
		t.Error(same(got, want))
	}
}

// A listener's own timeout is that of its flows.
func TestUDPIdleTimeout(t *testing.T) {
	p, log, _ := watched(t, dataplane.Options{})
	w := &world{}
	w.port(&snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 53, Protocol: "UDP", Targets: []*snapshot.Target{of("UDPRoute", "dns", target("", "a"))},
			Client: &snapshot.Client{IdleTimeout: 50 * time.Millisecond}},
	}}).cluster("a", udpEcho(t, "a")).apply(t, p)
	c, err := net.Dial("udp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x")
	if got := log.await(t, 1); got.Reason != "" || got.Received != 1 {
		t.Errorf("%+v", got)
	}
}
