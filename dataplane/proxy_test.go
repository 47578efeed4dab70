package dataplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gateway = "shop/gateway/http"

// world builds snapshots step by step, each with its delta.
type world struct {
	snap  snapshot.Snapshot
	delta snapshot.Delta
}

func (w *world) port(p *snapshot.Port) *world {
	w.snap.Ports, w.delta.Ports = []*snapshot.Port{p}, true
	return w
}

// plain is a port with one HTTP listener for all hosts, at a port of the kernel's choice.
func plain() *snapshot.Port {
	return &snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: gateway, Port: 80, Protocol: "HTTP"},
	}}
}

func (w *world) host(listener, hostname string, routes ...*snapshot.Route) *world {
	key := snapshot.HostKey(listener, hostname)
	w.snap.Hosts = w.snap.Hosts.With(key, &snapshot.VirtualHost{Listener: listener, Hostname: hostname, Routes: routes})
	w.delta.Hosts = append(w.delta.Hosts, key)
	return w
}

func (w *world) cluster(key string, addresses ...string) *world {
	w.snap.Clusters = w.snap.Clusters.With(key, &snapshot.Cluster{Key: key, Protocol: "http1"})
	w.delta.Clusters = append(w.delta.Clusters, key)
	return w.endpoints(key, addresses...)
}

func (w *world) endpoints(key string, addresses ...string) *world {
	eps := &snapshot.Endpoints{}
	for _, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		n, _ := strconv.Atoi(port)
		eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: host, Port: uint16(n)})
	}
	w.snap.Endpoints = w.snap.Endpoints.With(key, eps)
	w.delta.Endpoints = append(w.delta.Endpoints, key)
	return w
}

func (w *world) apply(t testing.TB, p *dataplane.Proxy) {
	t.Helper()
	snap, delta := w.snap, w.delta
	w.delta = snapshot.Delta{}
	if err := p.Apply(&snap, &delta); err != nil {
		t.Fatal(err)
	}
}

// to is a route for a path prefix to a cluster.
func to(prefix, cluster string) *snapshot.Route {
	return &snapshot.Route{
		Match: snapshot.Match{Path: snapshot.PathMatch{Type: "PathPrefix", Value: prefix}},
		Rule: &snapshot.Rule{
			Source:   snapshot.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: strings.Trim(prefix, "/"), Section: "0"},
			Backends: []snapshot.Backend{{Cluster: cluster, Weight: 1}},
		},
	}
}

func start(t testing.TB, opts dataplane.Options) *dataplane.Proxy {
	opts.BindAddresses = []string{"127.0.0.1"}
	p := dataplane.New(opts)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil && !p.Ready() && ctx.Err() != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return p
}

func address(t testing.TB, p *dataplane.Proxy) string {
	t.Helper()
	ports := p.Ports()
	if len(ports) == 0 || ports[0].Error != "" {
		t.Fatalf("no port is bound: %+v", ports)
	}
	return ports[0].Address
}

// backend answers with its name and what it was asked.
func backend(t testing.TB, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Backend", name)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.URL, body)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// client keeps its connections, and ends them with the test.
func client(t testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

func get(t testing.TB, c *http.Client, url string, edit ...func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestProxy(t *testing.T) {
	p := start(t, dataplane.Options{})
	if p.Ready() {
		t.Error("ready before the first snapshot")
	}
	w := &world{}
	w.port(plain()).cluster("a", backend(t, "a")).cluster("b", backend(t, "b")).
		host(gateway, "*", to("/a", "a"), to("/b", "b")).
		host(gateway, "shop.example.com", to("/a", "b")).
		apply(t, p)
	if !p.Ready() {
		t.Error("not ready")
	}
	c, url := client(t), "http://"+address(t, p)

	for _, tt := range []struct{ host, path, want string }{
		{"", "/a/1?x=%20", "a GET /a/1?x=%20 "},
		{"", "/b", "b GET /b "},
		{"shop.example.com", "/a/../a/2", "b GET /a/2 "},
		{"shop.example.com", "/b", "b GET /b "}, // from the less specific host
		{"SHOP.example.com:80", "/a", "b GET /a "},
	} {
		resp, body := get(t, c, url+tt.path, func(r *http.Request) { r.Host = tt.host })
		if resp.StatusCode != 200 || body != tt.want {
			t.Errorf("%s%s: %d %q, want %q", tt.host, tt.path, resp.StatusCode, body, tt.want)
		}
	}
	if resp, _ := get(t, c, url+"/c"); resp.StatusCode != 404 {
		t.Errorf("no route: %d", resp.StatusCode)
	}

	resp, err := c.Post(url+"/a", "text/plain", strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "a POST /a content" {
		t.Errorf("POST: %q", body)
	}
	if states := p.Clusters(); len(states) != 2 || states[0].Cluster != "a" || len(states[0].Endpoints) != 1 {
		t.Errorf("clusters: %+v", states)
	}
}

// TestApplyUnderLoad alternates routes and endpoints while clients ask, and
// wants every answer right.
func TestApplyUnderLoad(t *testing.T) {
	p := start(t, dataplane.Options{})
	a1, a2, b := backend(t, "a"), backend(t, "a"), backend(t, "b")
	w := &world{}
	w.port(plain()).cluster("a", a1).cluster("b", b).
		host(gateway, "*", to("/stable", "a"), to("/moving", "a")).apply(t, p)
	url := "http://" + address(t, p)

	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var asked atomic.Int64
	for i := range 8 {
		c := client(t)
		done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				path, want := "/stable", "a GET /stable "
				if i%2 == 1 {
					path, want = "/moving", " GET /moving "
				}
				resp, err := c.Get(url + path)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || !strings.HasSuffix(string(body), want) {
					t.Errorf("%s: %d %q %v", path, resp.StatusCode, body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range 500 {
		if i%2 == 0 {
			w.host(gateway, "*", to("/stable", "a"), to("/moving", "b")).endpoints("a", a1)
		} else {
			w.host(gateway, "*", to("/stable", "a"), to("/moving", "a")).endpoints("a", a2)
		}
		w.host(gateway, "other.example.com", to(fmt.Sprintf("/%d", i), "a")).apply(t, p)
		before := asked.Load()
		for stuck := time.Now().Add(5 * time.Second); asked.Load() < before+4 && time.Now().Before(stuck) && !t.Failed(); {
			time.Sleep(50 * time.Microsecond)
		}
	}
	cancel()
	done.Wait()
	t.Logf("%d requests over 500 changes", asked.Load())
}

func TestWebSocketOutlivesChanges(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, append([]byte("echo "), data...)) != nil {
				return
			}
		}
	}))
	defer s.Close()

	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("ws", s.Listener.Addr().String()).host(gateway, "*", to("/ws", "ws")).apply(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+address(t, p)+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	echo := func(text string) {
		t.Helper()
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != "echo "+text {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	echo("before")
	// Its route and cluster go, and all else changes.
	w.snap.Clusters, w.snap.Endpoints = w.snap.Clusters.Without("ws"), w.snap.Endpoints.Without("ws")
	w.delta.Clusters, w.delta.Endpoints = []string{"ws"}, []string{"ws"}
	w.cluster("a", backend(t, "a")).host(gateway, "*", to("/", "a")).apply(t, p)
	echo("after")
	if _, body := get(t, client(t), "http://"+address(t, p)+"/ws"); body != "a GET /ws " {
		t.Errorf("a new request: %q", body)
	}
	// Its port goes too.
	w.snap.Ports, w.delta.Ports = nil, true
	w.apply(t, p)
	echo("at last")
	c.Close(websocket.StatusNormalClosure, "")
}

func TestBindErrorIsRetried(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	number := taken.Addr().(*net.TCPAddr).Port
	p := start(t, dataplane.Options{})
	w := &world{}
	blocked := plain()
	blocked.Key, blocked.Number = fmt.Sprintf("tcp/%d", number), uint16(number)
	w.snap.Ports = []*snapshot.Port{plain(), blocked}
	w.cluster("a", backend(t, "a")).host(gateway, "*", to("/", "a"))
	snap := w.snap
	if err := p.Apply(&snap, nil); err == nil || !strings.Contains(err.Error(), blocked.Key) {
		t.Fatalf("the error does not name the port: %v", err)
	}
	if ports := p.Ports(); len(ports) != 2 || ports[0].Error != "" || ports[1].Error == "" {
		t.Fatalf("%+v", ports)
	}
	if _, body := get(t, client(t), "http://"+address(t, p)+"/x"); body != "a GET /x " {
		t.Errorf("the other port: %q", body)
	}
	taken.Close()
	if err := p.Apply(&snap, &snapshot.Delta{}); err != nil {
		t.Fatal(err)
	}
	if st := p.Ports()[1]; st.Error != "" {
		t.Errorf("not bound by the next Apply: %+v", st)
	}
	if _, body := get(t, client(t), fmt.Sprintf("http://127.0.0.1:%d/y", number)); body != "a GET /y " {
		t.Errorf("the port that became free: %q", body)
	}
}

// TestDrainAnnounces has clients told that their connections will end, those that
// come later too, and serves all of them until then.
func TestDrainAnnounces(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served") }))
	defer s.Close()
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("a", s.Listener.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)
	connect := func() (ask func() (last bool)) {
		conn, err := net.Dial("tcp", address(t, p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		in := bufio.NewReader(conn)
		return func() bool {
			t.Helper()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "served" {
				t.Errorf("got %q, %v", body, err)
			}
			return resp.Close
		}
	}
	old := connect()
	if old() {
		t.Error("the end is announced before the drain")
	}
	p.Drain()
	for name, ask := range map[string]func() bool{"old": old, "new": connect()} {
		for deadline := time.Now().Add(20 * time.Second); !ask(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the %s connection is not told that it ends", name)
			}
		}
	}
	if !p.Ready() {
		t.Error("it serves, and says that it does not")
	}
}

// TestShutdownFinishes lets a request in flight finish, and closes what is idle.
func TestShutdownFinishes(t *testing.T) {
	began, finish := make(chan bool), make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-finish
		io.WriteString(w, "finished")
	}))
	defer s.Close()
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("a", s.Listener.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)
	conn, err := net.Dial("tcp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-began
	down := make(chan error)
	go func() { down <- p.Shutdown(context.Background()) }()
	for p.Ready() {
		time.Sleep(time.Millisecond)
	}
	close(finish)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "finished" {
		t.Errorf("got %q", body)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", conn.RemoteAddr().String()); err == nil {
		t.Error("still accepting")
	}
	if err := p.Apply(&snapshot.Snapshot{}, nil); err == nil {
		t.Error("applied after the shutdown")
	}
}
