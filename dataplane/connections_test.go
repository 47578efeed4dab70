package dataplane_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// accepted returns how many connections a port has accepted.
func accepted(t testing.TB, m *observe.Metrics, port string) (n float64) {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			if f.GetName() == "headgate_connections_accepted_total" && one.GetLabel()[0].GetValue() == port {
				n = one.GetCounter().GetValue()
			}
		}
	}
	return n
}

// TestMaxRequestsPerConnection has clients connect again, and none of their
// requests fail.
func TestMaxRequestsPerConnection(t *testing.T) {
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	w := &world{}
	l := listener3(t, "l", "a.example.com")
	l.Client = &snapshot.Client{MaxRequestsPerConnection: 2}
	w.port3(l).cluster("a", backend(t, "a")).host("l", "a.example.com", to("/", "a")).apply(t, p)
	secured := func(c *http.Client) *http.Client {
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.com"}
		return c
	}
	url := "https://" + address(t, p) + "/"
	ask := func(c *http.Client, url string, major int) {
		t.Helper()
		resp, body := get(t, c, url, func(r *http.Request) { r.Host = "a.example.com" })
		if resp.StatusCode != 200 || resp.ProtoMajor != major {
			t.Fatalf("%s %d %q", resp.Proto, resp.StatusCode, body)
		}
	}

	one := secured(client(t))
	for range 6 {
		ask(one, url, 1)
	}
	if n := accepted(t, m, "tcp/0"); n != 3 {
		t.Errorf("HTTP/1.1: 6 requests over %v connections, want 3", n)
	}
	// Those of HTTP/2 and HTTP/3 hear of it when they have sent more.
	for major, c := range map[int]*http.Client{2: secured(client2(t)), 3: client3(t, address3(t, p), &tls.Config{ServerName: "a.example.com"})} {
		port, url := "tcp/0", url
		if major == 3 {
			port, url = "udp/0", "https://a.example.com/"
		}
		before := accepted(t, m, port)
		for deadline := time.Now().Add(10 * time.Second); accepted(t, m, port) < before+3; {
			if time.Now().After(deadline) {
				t.Fatalf("HTTP/%d: still at connection %v", major, accepted(t, m, port)-before)
			}
			ask(c, url, major)
		}
	}
}

// TestHTTP3ConnectionsAreBounded refuses in QUIC what TCP refuses by a reset.
func TestHTTP3ConnectionsAreBounded(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port3(listener3(t, "l", "a.example.com")).cluster("a", backend(t, "a")).host("l", "a.example.com", to("/", "a"))
	for _, port := range w.snap.Ports {
		port.Connections = &snapshot.ConnectionLimits{MaxPerClient: 1}
	}
	w.apply(t, p)
	conf := func() *tls.Config { return &tls.Config{ServerName: "a.example.com"} }
	first := client3(t, address3(t, p), conf())
	get(t, first, "https://a.example.com/")
	if resp, err := client3(t, address3(t, p), conf()).Get("https://a.example.com/"); err == nil {
		resp.Body.Close()
		t.Error("a client's second connection was taken")
	}
	get(t, first, "https://a.example.com/") // is not concerned
	first.CloseIdleConnections()
	third := client3(t, address3(t, p), conf())
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := third.Get("https://a.example.com/")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room for another:", err)
		}
	}
}

func TestFlowsAreBounded(t *testing.T) {
	p, _, m := watched(t, dataplane.Options{})
	w := &world{}
	port := &snapshot.Port{Key: "udp/0", Transport: "udp", Connections: &snapshot.ConnectionLimits{MaxPerClient: 1}, Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 53, Protocol: "UDP", Targets: []*snapshot.Target{of("UDPRoute", "u", target("", "a"))}},
	}}
	w.port(port).cluster("a", udpEcho(t, "a")).apply(t, p)
	var conns [2]net.Conn
	for i := range conns {
		c, err := net.Dial("udp", address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		conns[i] = c
	}
	b := make([]byte, 10)
	_, _ = conns[0].Write([]byte("x"))
	if _, err := conns[0].Read(b); err != nil {
		t.Fatal(err)
	}
	// The second is dropped by the time that the first has its next answer.
	_, _ = conns[1].Write([]byte("y"))
	_, _ = conns[0].Write([]byte("x"))
	if _, err := conns[0].Read(b); err != nil {
		t.Fatal(err)
	}
	refused := 0.0
	for labels, n := range l4Series(t, m) {
		if n > 0 && strings.Contains(labels, "max_connections_per_client") {
			refused += n
		}
	}
	if refused != 1 {
		t.Errorf("%v flows refused, want 1: %v", refused, l4Series(t, m))
	}
}
