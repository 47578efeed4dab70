package dataplane_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
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
		for deadline := time.Now().Add(20 * time.Second); accepted(t, m, port) < before+3; {
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
	for deadline := time.Now().Add(20 * time.Second); ; {
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
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
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

// TestMaxConnectionAge lets connections of each protocol grow old. None of their
// requests fail.
func TestMaxConnectionAge(t *testing.T) {
	m := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: m})
	w := &world{}
	l := listener3(t, "l", "a.example.com")
	l.Client = &snapshot.Client{MaxConnectionAge: 100 * time.Millisecond}
	w.port3(l).cluster("a", backend(t, "a")).host("l", "a.example.com", to("/", "a")).apply(t, p)
	conf := &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.com"}
	h1, h2 := client(t), client2(t)
	h1.Transport.(*http.Transport).TLSClientConfig, h2.Transport.(*http.Transport).TLSClientConfig = conf, conf.Clone()
	for _, c := range []struct {
		client    *http.Client
		url, port string
	}{
		{h1, "https://" + address(t, p) + "/", "tcp/0"},
		{h2, "https://" + address(t, p) + "/", "tcp/0"},
		{client3(t, address3(t, p), conf.Clone()), "https://a.example.com/", "udp/0"},
	} {
		before := accepted(t, m, c.port)
		for deadline := time.Now().Add(20 * time.Second); accepted(t, m, c.port) < before+2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("its connection does not grow old")
			}
			if resp, body := get(t, c.client, c.url, func(r *http.Request) { r.Host = "a.example.com" }); resp.StatusCode != 200 {
				t.Errorf("%s: %d %q", resp.Proto, resp.StatusCode, body)
			}
		}
	}

	// One that is idle is closed, and not only told with a response.
	idle, err := tls.Dial("tcp", address(t, p), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	_ = idle.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := idle.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("idle: %d, %v", n, err)
	}
}

// TestMaxConnectionAgeGrace cuts off what goes on for longer.
func TestMaxConnectionAgeGrace(t *testing.T) {
	for _, grace := range []time.Duration{0, 2 * time.Second} {
		release, began := make(chan struct{}), make(chan struct{}, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("begun, "))
			w.(http.Flusher).Flush()
			began <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			w.Write([]byte("done"))
		}))
		p := start(t, dataplane.Options{})
		w := &world{}
		port := plain()
		port.Listeners[0].Client = &snapshot.Client{MaxConnectionAge: 100 * time.Millisecond, MaxConnectionAgeGrace: grace}
		w.port(port).cluster("a", s.Listener.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)
		resp, err := client(t).Get("http://" + address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		<-began
		if grace == 0 {
			// A connection that comes later and is idle is closed for its age: this one has had its own by then.
			idle, err := net.Dial("tcp", address(t, p))
			if err != nil {
				t.Fatal(err)
			}
			_ = idle.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = idle.Read(make([]byte, 1))
			idle.Close()
			close(release)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if whole := err == nil && string(body) == "begun, done"; whole != (grace == 0) {
			t.Errorf("grace %s: %q, %v", grace, body, err)
		}
		if grace > 0 {
			close(release)
		}
		s.Close()
	}
}

func TestMaxConnectionAgeOfWhatIsPassedOn(t *testing.T) {
	p, log, m := watched(t, dataplane.Options{})
	w := &world{}
	port := tcpPort(of("TCPRoute", "r", target("", "a")))
	port.Listeners[0].Client = &snapshot.Client{MaxConnectionAge: 100 * time.Millisecond}
	w.port(port).cluster("a", echo(t, "a", nil)).apply(t, p)
	c := dial(t, address(t, p))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("its end: %v", err)
	}
	if last := log.await(t, 1); last.Reason != "max_age" {
		t.Errorf("logged as %q", last.Reason)
	}
	found := false
	for labels := range l4Series(t, m) {
		found = found || strings.HasPrefix(labels, "connections_total") && strings.Contains(labels, "max_age")
	}
	if !found {
		t.Errorf("not counted: %v", l4Series(t, m))
	}
}
