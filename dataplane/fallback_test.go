package dataplane_test

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func unsent(clusters ...string) *snapshot.Fallback {
	f := &snapshot.Fallback{Conditions: []string{"CircuitOpen", "ConnectFailure", "NoEndpoint"}, MinHealthyPercent: 1}
	for _, c := range clusters {
		f.Backends = append(f.Backends, snapshot.Backend{Cluster: c})
	}
	return f
}

// TestFallback takes a backend away and brings it back, while what stands in for
// it takes all requests, with their content; then that one, too.
func TestFallback(t *testing.T) {
	for version, newClient := range map[string]func(testing.TB) *http.Client{"HTTP/1.1": client, "HTTP/2": client2} {
		t.Run(version, func(t *testing.T) {
			named := func(name string) *mortal {
				return newMortal(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Name", name) })
			}
			primary, standby := named("primary"), named("standby")
			p := start(t, dataplane.Options{})
			route := to("/", "primary")
			f := unsent("standby")
			f.Response = &snapshot.FallbackResponse{Status: 503, ContentType: "text/html", Body: "<h1>Back soon</h1>"}
			route.Rule.Backends[0].Fallback = f
			(&world{}).port(plain()).cluster("primary", primary.addr).cluster("standby", standby.addr).host(gateway, "*", route).apply(t, p)
			c, url := newClient(t), "http://"+address(t, p)+"/"
			send := func(want string) {
				t.Helper()
				resp, err := c.Post(url, "text/plain", strings.NewReader("content"))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if got := resp.Header.Get("Name"); got != want {
					t.Errorf("%d from %q, want %q", resp.StatusCode, got, want)
				}
			}
			send("primary")
			primary.kill(t)
			for range 3 {
				send("standby")
			}
			primary.start(t)
			send("primary")
			primary.kill(t)
			standby.kill(t)
			resp, body := get(t, c, url)
			if resp.StatusCode != 503 || body != "<h1>Back soon</h1>" || resp.Header.Get("Content-Type") != "text/html" {
				t.Errorf("%d %v %q", resp.StatusCode, resp.Header, body)
			}
		})
	}
}

// TestFallbackOfConnections: those of TCP and flows of UDP go elsewhere, too.
func TestFallbackOfConnections(t *testing.T) {
	p := start(t, dataplane.Options{})
	byTCP := target("", "primary")
	byTCP.Backends[0].Fallback = unsent("gone", "standby")
	w := (&world{}).port(tcpPort(byTCP)).cluster("primary", closed(t)).cluster("gone").cluster("standby", echo(t, "standby", nil))
	w.apply(t, p)
	for range 3 {
		if got, err := talk(t, dial(t, address(t, p)), "hello"); err != nil || got != "standby\nhellobye" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	w.endpoints("primary", echo(t, "primary", nil)).apply(t, p)
	if got, err := talk(t, dial(t, address(t, p)), "hello"); err != nil || got != "primary\nhellobye" {
		t.Fatalf("%q, %v", got, err)
	}

	p, w = start(t, dataplane.Options{}), &world{}
	byUDP := target("", "names")
	byUDP.Backends[0].Fallback = unsent("more names")
	w.port(&snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 53, Protocol: "UDP", Targets: []*snapshot.Target{byUDP}},
	}}).cluster("names").cluster("more names", udpEcho(t, "more")).apply(t, p)
	c, err := net.Dial("udp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "more hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// TestFallbackWhenFull overflows: what one backend has no room for, the other takes.
func TestFallbackWhenFull(t *testing.T) {
	var served atomic.Int64
	held := make(chan struct{})
	busy := newMortal(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		select {
		case <-held:
		case <-r.Context().Done():
		}
	})
	spare := newMortal(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Name", "spare") })
	p := start(t, dataplane.Options{})
	route := to("/", "busy")
	route.Rule.Backends[0].Fallback = unsent("spare")
	w := (&world{}).port(plain()).cluster("busy", busy.addr).cluster("spare", spare.addr).host(gateway, "*", route)
	w.snap.Clusters = w.snap.Clusters.With("busy", &snapshot.Cluster{Key: "busy", Protocol: "http1", CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 1}})
	w.apply(t, p)
	c, url := client(t), "http://"+address(t, p)+"/"
	done := make(chan string, 1)
	go func() {
		resp, err := c.Get(url)
		if err != nil {
			done <- err.Error()
			return
		}
		resp.Body.Close()
		done <- resp.Status + resp.Header.Get("Name")
	}()
	for until := time.Now().Add(20 * time.Second); served.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the first request does not arrive")
		}
	}
	if resp, _ := get(t, c, url); resp.StatusCode != 200 || resp.Header.Get("Name") != "spare" {
		t.Errorf("%d from %q", resp.StatusCode, resp.Header.Get("Name"))
	}
	close(held)
	if got := <-done; got != "200 OK" {
		t.Errorf("the first: %s", got)
	}
}
