package dataplane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// listener3 is a listener of HTTPS with HTTP/3.
func listener3(t testing.TB, key, hostname string) *snapshot.Listener {
	return &snapshot.Listener{
		Key: key, Port: 443, Protocol: "HTTPS", Hostname: hostname, TLS: selfSigned(t, 1, hostname),
		HTTP3: &snapshot.HTTP3{AltSvcMaxAge: time.Hour},
	}
}

// port3 makes the listeners those of a port of TCP and of one of UDP.
func (w *world) port3(listeners ...*snapshot.Listener) *world {
	w.port(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: listeners})
	w.snap.Ports = append(w.snap.Ports, &snapshot.Port{Key: "udp/0", Transport: "udp", Listeners: listeners})
	return w
}

// address3 returns where HTTP/3 is spoken.
func address3(t testing.TB, p *dataplane.Proxy) string {
	t.Helper()
	for _, port := range p.Ports() {
		if port.Port == "udp/0" && port.Error == "" {
			return port.Address
		}
	}
	t.Fatalf("no UDP port is bound: %+v", p.Ports())
	return ""
}

// client3 speaks HTTP/3 to an address, whatever the URL says.
func client3(t testing.TB, addr string, conf *tls.Config) *http.Client {
	conf.InsecureSkipVerify = true
	tr := &http3.Transport{TLSClientConfig: conf}
	tr.Dial = func(ctx context.Context, _ string, conf *tls.Config, config *quic.Config) (*quic.Conn, error) {
		return quic.DialAddrEarly(ctx, addr, conf, config)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// text reads a response's content.
func text(t testing.TB, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

func TestHTTP3(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	without := listener3(t, "without", "without.example.com")
	without.HTTP3 = nil
	w.port3(listener3(t, "one", "one.example.com"), listener3(t, "two", "*.example.com"), without).
		cluster("a", backend(t, "a")).cluster("b", backend(t, "b")).
		host("one", "one.example.com", to("/", "a")).host("two", "*.example.com", to("/", "b")).apply(t, p)
	one := client3(t, address3(t, p), &tls.Config{ServerName: "one.example.com"})
	two := client3(t, address3(t, p), &tls.Config{ServerName: "two.example.com"})
	for _, tt := range []struct {
		c          *http.Client
		host, want string
		status     int
	}{
		{one, "one.example.com", "a GET /x ", 200},
		{one, "ONE.example.com.", "a GET /x ", 200},
		{two, "two.example.com", "b GET /x ", 200},
		{two, "one.example.com", "", 421},
		{one, "two.example.com", "", 421},
		{one, "example.org", "", 404},
		{two, "without.example.com", "", 421}, // is not two's, though nobody has it here
	} {
		resp, body := get(t, tt.c, "https://gateway/x", func(r *http.Request) { r.Host = tt.host })
		if resp.StatusCode != tt.status || tt.want != "" && body != tt.want || resp.ProtoMajor != 3 {
			t.Errorf("%s: %s %d %q", tt.host, resp.Proto, resp.StatusCode, body)
		}
		if got := resp.Header.Get("Alt-Svc"); got != "" {
			t.Errorf("over HTTP/3: Alt-Svc %q", got)
		}
		if got := resp.Header.Get("Via"); tt.status == 200 && got != "1.1 headgate" {
			t.Errorf("Via %q", got)
		}
	}
	resp, err := one.Post("https://one.example.com/p", "text/plain", strings.NewReader(strings.Repeat("x", 100_000)))
	if body := text(t, resp, err); len(body) != 100_000+len("a POST /p ") {
		t.Errorf("%d bytes", len(body))
	}

	// No name that a listener has: no connection, and the others stay.
	for _, name := range []string{"example.org", "without.example.com"} {
		if _, err := client3(t, address3(t, p), &tls.Config{ServerName: name}).Get("https://" + name + "/"); err == nil {
			t.Error("a connection for " + name)
		}
	}

	// Over TCP clients learn of it, at the port that they see.
	for _, protocols := range []bool{false, true} {
		c := client(t)
		tr := c.Transport.(*http.Transport)
		tr.TLSClientConfig = &tls.Config{ServerName: "one.example.com", InsecureSkipVerify: true}
		tr.ForceAttemptHTTP2 = protocols
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address(t, p))
		}
		for _, host := range []string{"one.example.com", "example.org"} { // also on answers of our own
			resp, _ := get(t, c, "https://gateway/x", func(r *http.Request) { r.Host = host })
			if got := resp.Header.Values("Alt-Svc"); host == "one.example.com" && !slices.Equal(got, []string{`h3=":443"; ma=3600`}) {
				t.Errorf("%s: Alt-Svc %q", resp.Proto, got)
			}
		}
	}
}

// Certificates and listeners change while clients ask: not one request fails.
func TestHTTP3ApplyUnderLoad(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port3(listener3(t, "one", "one.example.com")).cluster("a", backend(t, "a")).host("one", "one.example.com", to("/", "a")).apply(t, p)
	addr := address3(t, p)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		c := client3(t, addr, &tls.Config{ServerName: "one.example.com"})
		done.Go(func() {
			for ctx.Err() == nil {
				resp, err := c.Get("https://one.example.com/x")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(body) != "a GET /x " {
					t.Errorf("%d %q %v", resp.StatusCode, body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range 20 {
		w.port3(listener3(t, "one", "one.example.com"), listener3(t, "two", fmt.Sprintf("n%d.example.com", i))).apply(t, p)
		for before, stuck := asked.Load(), time.Now().Add(5*time.Second); asked.Load() < before+8 && time.Now().Before(stuck) && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	cancel()
	done.Wait()
	if got := address3(t, p); got != addr {
		t.Errorf("the socket is another one: %s, was %s", got, addr)
	}
}

// fixedPort returns a free port's number.
func fixedPort(t *testing.T) uint16 {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

// A port that is taken away lets what is in flight finish, and when it comes
// back meanwhile it takes up the socket that drains.
func TestHTTP3PortComesBack(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	up := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	p := start(t, dataplane.Options{})
	w := &world{}
	number := fixedPort(t)
	port := func(l *snapshot.Listener) *snapshot.Port {
		return &snapshot.Port{Key: "udp/443", Transport: "udp", Number: number, Listeners: []*snapshot.Listener{l}}
	}
	w.port(port(listener3(t, "one", "one.example.com"))).cluster("a", up).host("one", "one.example.com", to("/", "a")).apply(t, p)
	addr := address(t, p)
	slow := make(chan string, 1)
	go func() {
		resp, err := client3(t, addr, &tls.Config{ServerName: "one.example.com"}).Get("https://one.example.com/slow")
		slow <- text(t, resp, err)
	}()
	<-began
	w.snap.Ports, w.delta.Ports = nil, true
	w.apply(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	conf := &tls.Config{ServerName: "one.example.com", InsecureSkipVerify: true, NextProtos: []string{"h3"}}
	if qc, err := quic.DialAddr(ctx, addr, conf, nil); err == nil {
		_ = qc.CloseWithError(0, "")
		t.Error("a connection to a port that is gone")
	}
	w.port(port(listener3(t, "one", "one.example.com"))).apply(t, p)
	if _, body := get(t, client3(t, addr, &tls.Config{ServerName: "one.example.com"}), "https://one.example.com/"); body != "done" {
		t.Error(body)
	}
	close(release)
	if got := <-slow; got != "done" {
		t.Error(got)
	}
	// A listener of UDP takes the number over when all that was is over.
	w.port(&snapshot.Port{Key: "udp/443", Transport: "udp", Number: number, Listeners: []*snapshot.Listener{{Key: "raw", Port: 443, Protocol: "UDP"}}})
	snap, delta := w.snap, w.delta
	_ = p.Apply(&snap, &delta) // the socket may still be the draining one's
	for until := time.Now().Add(20 * time.Second); p.Ports()[0].Error != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(p.Ports())
		}
	}
}

func TestHTTP3ClientCertificates(t *testing.T) {
	l := listener3(t, "one", "one.example.com")
	mine, err := tls.X509KeyPair(l.TLS.Certificates[0].Chain, l.TLS.Certificates[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(l.TLS.Certificates[0].Chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || leaf.IsCA {
		t.Fatal(err)
	}
	l.TLS.Clients = &snapshot.ClientCertificates{Mode: "Required", Roots: l.TLS.Certificates[0].Chain, Forward: true}
	l.HTTP3.EarlyData = true
	up := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Client-Cert")+r.Header.Get("Early-Data"))
	}))
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port3(l).cluster("a", up).host("one", "one.example.com", to("/", "a")).apply(t, p)
	if _, err := client3(t, address3(t, p), &tls.Config{ServerName: "one.example.com"}).Get("https://one.example.com/"); err == nil {
		t.Error("let in without a certificate")
	}
	cache := tls.NewLRUClientSessionCache(1)
	for range 2 { // the second time by a ticket, without early data
		c := client3(t, address3(t, p), &tls.Config{ServerName: "one.example.com", Certificates: []tls.Certificate{mine}, ClientSessionCache: cache})
		req, _ := http.NewRequest(http3.MethodGet0RTT, "https://one.example.com/", nil)
		resp, err := c.Do(req)
		if got := text(t, resp, err); !strings.HasPrefix(got, "Hash=") || strings.HasSuffix(got, "1") {
			t.Errorf("%q", got)
		}
		c.Transport.(*http3.Transport).CloseIdleConnections()
	}
}

// earlyClient is a client that may send its first request as early data. It looks at
// nothing that comes before that is written: quic-go takes the server's transport
// parameters without regard to those who open streams just then (its issue 4303).
type earlyClient struct {
	net.PacketConn
	transport *quic.Transport
	conn      *quic.Conn
	written   chan struct{}
	write     func() // closes written
}

func (c *earlyClient) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	<-c.written
	return n, from, err
}

// dialEarly connects to addr. Whether there is a ticket to send early data by is for
// the caller to say.
func dialEarly(t *testing.T, addr string, conf *tls.Config, ticket bool) *earlyClient {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &earlyClient{PacketConn: socket, written: make(chan struct{})}
	c.write = sync.OnceFunc(func() { close(c.written) })
	c.transport = &quic.Transport{Conn: c}
	t.Cleanup(c.close)
	if !ticket {
		c.write()
	}
	late := time.AfterFunc(5*time.Second, c.write) // the ticket is of no use
	defer late.Stop()
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conf.InsecureSkipVerify, conf.NextProtos = true, []string{"h3"}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if c.conn, err = c.transport.DialEarly(ctx, to, conf, &quic.Config{HandshakeIdleTimeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask makes a request and returns the content of the response.
func (c *earlyClient) ask(t *testing.T, method string) string {
	t.Helper()
	defer c.write()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	str, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = str.Write(http3Headers(":method", method, ":scheme", "https", ":authority", "one.example.com", ":path", "/"))
	_ = str.Close()
	c.write()
	_ = str.SetReadDeadline(time.Now().Add(20 * time.Second))
	in, content := quicvarint.NewReader(str), []byte(nil)
	for {
		kind, err := quicvarint.Read(in)
		if err == io.EOF {
			return string(content)
		}
		size, sizeErr := quicvarint.Read(in)
		payload := make([]byte, size)
		if _, readErr := io.ReadFull(in, payload); err != nil || sizeErr != nil || readErr != nil {
			t.Fatal(err, sizeErr, readErr)
		}
		if kind == 0 {
			content = append(content, payload...)
		}
	}
}

func (c *earlyClient) close() {
	c.write()
	_ = c.transport.Close()
	_ = c.PacketConn.Close()
}

// Early data is taken where it is on, and only for what may be repeated.
func TestHTTP3EarlyData(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			l := listener3(t, "one", "one.example.com")
			l.HTTP3.EarlyData = on
			up := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Method+r.Header.Get("Early-Data"))
			}))
			p := start(t, dataplane.Options{})
			w := &world{}
			w.port3(l).cluster("a", up).host("one", "one.example.com", to("/", "a")).apply(t, p)
			cache := tls.NewLRUClientSessionCache(10)
			used := false
			for i := range 3 {
				c := dialEarly(t, address3(t, p), &tls.Config{ServerName: "one.example.com", ClientSessionCache: cache}, on && i > 0)
				got := c.ask(t, "GET")
				early := c.conn.ConnectionState().Used0RTT
				if got != "GET" && (got != "GET1" || !early) {
					t.Errorf("%q", got)
				}
				used = used || early
				<-c.conn.HandshakeComplete()
				if got := c.ask(t, "POST"); got != "POST" {
					t.Errorf("%q", got)
				}
				c.close()
			}
			if used != on {
				t.Errorf("early data was used: %v", used)
			}
		})
	}
}

// A call of gRPC, both ways at once, and what is logged and counted of it.
func TestHTTP3GRPC(t *testing.T) {
	up := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for buf := make([]byte, 100); ; {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
	})
	var logged lockedBuffer
	accessLog := observe.NewAccessLog(&logged, observe.JSON)
	metrics := observe.NewMetrics("test")
	p := start(t, dataplane.Options{AccessLog: accessLog, Metrics: metrics})
	w := &world{}
	w.port3(listener3(t, "one", "one.example.com")).h2cCluster("a", up).host("one", "one.example.com", to("/shop.Orders", "a")).apply(t, p)
	c := client3(t, address3(t, p), &tls.Config{ServerName: "one.example.com"})
	messages, pipe := io.Pipe()
	call := func(method string, body io.Reader) *http.Response {
		t.Helper()
		req, _ := http.NewRequest("POST", "https://one.example.com"+method, body)
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := call("/shop.Orders/Talk", messages) // it is answered before anything is said
	for _, message := range []string{"one", "another"} {
		_, _ = io.WriteString(pipe, message)
		got := make([]byte, len(message))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != message {
			t.Fatalf("%q %v", got, err)
		}
	}
	_ = pipe.Close()
	if rest := text(t, resp, nil); rest != "" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q %v", rest, resp.Trailer)
	}
	resp = call("/shop.Nothing/Talk", http.NoBody)
	if rest := text(t, resp, nil); rest != "" || resp.StatusCode != 200 || resp.Header.Get("Grpc-Status")+resp.Trailer.Get("Grpc-Status") != "12" {
		t.Errorf("%q %v %v", rest, resp.Header, resp.Trailer)
	}
	_ = c.Transport.(*http3.Transport).Close()
	if _, err := client3(t, address3(t, p), &tls.Config{ServerName: "example.org"}).Get("https://example.org/"); err == nil {
		t.Error("a connection without a certificate")
	}
	for name, want := range map[string]float64{
		"headgate_connections_accepted_total": 1, "headgate_connections_active": 0, "headgate_connections_rejected_total": 1,
	} {
		for until := time.Now().Add(20 * time.Second); counted(t, metrics, name, "udp/0") != want; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s is %v, want %v", name, counted(t, metrics, name, "udp/0"), want)
			}
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = p.Shutdown(ctx)
	accessLog.Close()
	if got := logged.String(); strings.Count(got, `"HTTP/3.0"`) != 2 {
		t.Errorf("logged:\n%s", got)
	}
}

// counted returns a port's metric.
func counted(t *testing.T, m *observe.Metrics, name, port string) (sum float64) {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				if f.GetName() == name && l.GetName() == "port" && l.GetValue() == port {
					sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
				}
			}
		}
	}
	return sum
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// WebSocket over HTTP/3, RFC 9220, to an upstream that knows it from HTTP/1.1.
// The tunnel outlives its route and its port.
func TestHTTP3WebSocket(t *testing.T) {
	up := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, append([]byte("echo "), message...)) != nil {
				return
			}
		}
	}))
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port3(listener3(t, "one", "one.example.com")).cluster("a", up).host("one", "one.example.com", to("/", "a")).apply(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	qc, err := quic.DialAddr(ctx, address3(t, p), &tls.Config{ServerName: "one.example.com", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer qc.CloseWithError(0x100, "")
	tr := &http3.Transport{}
	defer tr.Close()
	cc := tr.NewClientConn(qc)
	<-cc.ReceivedSettings()
	if !cc.Settings().EnableExtendedConnect {
		t.Fatal("extended CONNECT is not offered")
	}
	str, err := cc.OpenRequestStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodConnect, "https://one.example.com/chat", nil)
	req.Proto = "websocket"
	req.Header.Set("Sec-WebSocket-Version", "13")
	if err := str.SendRequestHeader(req); err != nil {
		t.Fatal(err)
	}
	resp, err := str.ReadResponse()
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Sec-WebSocket-Accept") != "" || resp.Header.Get("Upgrade") != "" {
		t.Fatal(resp, err)
	}
	echo := func(text string) {
		t.Helper()
		// A masked text frame; the mask is zero.
		_, _ = str.Write(append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...))
		got := make([]byte, 2+len("echo ")+len(text))
		if _, err := io.ReadFull(str, got); err != nil || string(got[2:]) != "echo "+text {
			t.Fatalf("%q %v", got, err)
		}
	}
	echo("before")
	w.snap.Ports, w.delta.Ports = nil, true
	w.cluster("a", backend(t, "other")).apply(t, p)
	echo("after")
	_, _ = str.Write([]byte("\x88\x82\x00\x00\x00\x00\x03\xe8"))
	_ = str.Close()
	rest, err := io.ReadAll(str)
	if err != nil || string(rest) != "\x88\x02\x03\xe8" {
		t.Errorf("%q %v", rest, err)
	}
}
