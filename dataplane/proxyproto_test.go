package dataplane_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/proxyproto"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// behind makes a port trust networks to send PROXY protocol headers.
func behind(port *snapshot.Port, optional bool, networks ...string) *snapshot.Port {
	port.ProxyProtocol = &snapshot.ProxyProtocol{TrustedSources: networks, Optional: optional}
	return port
}

const loopback = "127.0.0.0/8"

// introduced is cluster for endpoints that want a PROXY protocol header.
func (w *world) introduced(key, version, protocol string, with *snapshot.UpstreamTLS, addresses ...string) *world {
	w.cluster(key, addresses...)
	w.snap.Clusters = w.snap.Clusters.With(key, &snapshot.Cluster{Key: key, Protocol: protocol, ProxyProtocol: version, TLS: with})
	return w
}

// header is one of version 2 for a client, with TLVs.
func header(client string, tlvs proxyproto.TLVs) string {
	h := proxyproto.Header{Version: 2, Source: netip.MustParseAddrPort(client), Destination: netip.MustParseAddrPort("198.51.100.1:443"), TLVs: tlvs}
	return string(h.Append(nil))
}

// introducedConn is a connection that began with a header.
type introducedConn struct {
	net.Conn
	header *proxyproto.Header
	number int64
}

// introducedListener wants a header from each connection, and counts them.
type introducedListener struct {
	net.Listener
	accepted, open atomic.Int64
}

func (l *introducedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		h, rest, err := proxyproto.Read(c.(*net.TCPConn))
		if err != nil || len(rest) > 0 {
			c.Close()
			continue
		}
		_ = c.SetReadDeadline(time.Time{})
		l.open.Add(1)
		return &introducedConn{c, h, l.accepted.Add(1)}, nil
	}
}

func listenIntroduced(t testing.TB) *introducedListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &introducedListener{Listener: ln}
}

type introducedKey struct{}

// introducedBackend answers with the number of the connection, the client that
// its header named, and the client that X-Forwarded-For names.
func introducedBackend(t testing.TB, with *tls.Config) *introducedListener {
	l := listenIntroduced(t)
	s := &http.Server{
		Protocols: new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := r.Context().Value(introducedKey{}).(*introducedConn)
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/slow" {
				time.Sleep(50 * time.Millisecond)
			}
			fmt.Fprintf(w, "%d %v %s", c.number, c.header.Source, r.Header.Get("X-Forwarded-For"))
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if secure, ok := c.(*tls.Conn); ok {
				c = secure.NetConn()
			}
			return context.WithValue(ctx, introducedKey{}, c)
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				l.open.Add(-1)
			}
		},
		TLSConfig: with,
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if with != nil {
		go s.ServeTLS(l, "", "")
	} else {
		go s.Serve(l)
	}
	t.Cleanup(func() { s.Close() })
	return l
}

// asks sends requests over one connection that begins with head, and returns
// the answers' content, up to the first that there is none of.
func asks(t testing.TB, c net.Conn, head string, requests int, fields string) (answers []string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	for range requests {
		if _, err := io.WriteString(c, head+"GET /a HTTP/1.1\r\nHost: a.example.com\r\n"+fields+"\r\n"); err != nil {
			return answers
		}
		head = ""
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return answers
		}
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			return answers
		}
		if resp.StatusCode != 200 {
			content = []byte(resp.Status)
		}
		answers = append(answers, string(content))
	}
	return answers
}

// forwardedBackend answers with X-Forwarded-For.
func forwardedBackend(t testing.TB) string {
	return h1Backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-For")) })
}

func h1Backend(t testing.TB, h http.HandlerFunc) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return ln.Addr().String()
}

// rejected is the count of connections without a good header.
func rejected(t testing.TB, m *observe.Metrics) (n int) {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "headgate_connections_rejected_total" {
			continue
		}
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == "proxy_protocol" {
					n += int(series.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

func TestProxyProtocolIn(t *testing.T) {
	unknown := "PROXY UNKNOWN\r\n"
	local := string((&proxyproto.Header{Version: 2, Local: true}).Append(nil))
	for _, tt := range []struct {
		name, head, want string
		port             *snapshot.Port
	}{
		{"version 1", "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\r\n", "203.0.113.7", behind(plain(), false, loopback)},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4000 80\r\n", "2001:db8::7", behind(plain(), false, "192.0.2.0/24", loopback)},
		{"version 2", header("203.0.113.7:4000", nil), "203.0.113.7", behind(plain(), false, loopback)},
		{"version 2, IPv6", header("[2001:db8::7]:4000", nil), "2001:db8::7", behind(plain(), false, loopback)},
		{"UNKNOWN", unknown, "127.0.0.1", behind(plain(), false, loopback)},
		{"LOCAL", local, "127.0.0.1", behind(plain(), false, loopback)},
		{"optional, with", header("203.0.113.7:4000", nil), "203.0.113.7", behind(plain(), true, loopback)},
		{"optional, without", "", "127.0.0.1", behind(plain(), true, loopback)},
		{"not trusted, without", "", "127.0.0.1", behind(plain(), false, "192.0.2.0/24")},
		// A header that nobody reads is a malformed request.
		{"not trusted, version 1", "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\r\n", "400 Bad Request", behind(plain(), false, "192.0.2.0/24")},
		{"not trusted, version 2", header("203.0.113.7:4000", nil), "400 Bad Request", behind(plain(), true, "192.0.2.0/24")},
		{"not asked for", "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\r\n", "400 Bad Request", plain()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, dataplane.Options{})
			w := &world{}
			w.port(tt.port).cluster("a", forwardedBackend(t)).host(gateway, "*", to("/", "a")).apply(t, p)
			c := dial(t, address(t, p))
			defer c.Close()
			if got := asks(t, c, tt.head, 1, ""); len(got) != 1 || got[0] != tt.want {
				t.Fatalf("%q, want %q", got, tt.want)
			}
			if strings.HasPrefix(tt.want, "4") {
				return
			}
			// It holds for the whole connection, and for HTTP/2.
			if got := asks(t, c, "", 2, ""); len(got) != 2 || got[1] != tt.want {
				t.Errorf("later: %q, want %q", got, tt.want)
			}
			c2 := client2(t)
			c2.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					_, err = io.WriteString(c, tt.head)
				}
				return c, err
			}
			if resp, got := get(t, c2, "http://"+address(t, p)); resp.ProtoMajor != 2 || got != tt.want {
				t.Errorf("HTTP/2: %q, want %q", got, tt.want)
			}
		})
	}
}

// What looked like a header, and is none, is served whole.
func TestProxyProtocolOptionalPrefix(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(behind(plain(), true, loopback)).cluster("a", backend(t, "a")).host(gateway, "*", to("/", "a")).apply(t, p)
	c := dial(t, address(t, p))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	for range 2 {
		_, _ = io.WriteString(c, "PRO")
		time.Sleep(20 * time.Millisecond) // or both come together, which is as good
		_, _ = io.WriteString(c, "PFIND /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); string(got) != "a PROPFIND /a " {
			t.Errorf("%q", got)
		}
	}
}

// Whom the header names is the peer: what that says in X-Forwarded-For counts
// if it is a trusted proxy, and not because the load balancer would be one.
func TestProxyProtocolAndForwardedFor(t *testing.T) {
	p := start(t, dataplane.Options{})
	port := behind(plain(), false, loopback)
	port.Listeners[0].Client = &snapshot.Client{TrustedProxies: []string{"203.0.113.0/24", loopback}}
	w := &world{}
	w.port(port).cluster("a", forwardedBackend(t)).host(gateway, "*", to("/", "a")).apply(t, p)
	for client, want := range map[string]string{
		"203.0.113.7:4000": "192.0.2.9, 203.0.113.7",
		"192.0.2.7:4000":   "192.0.2.7",
	} {
		c := dial(t, address(t, p))
		if got := asks(t, c, header(client, nil), 1, "X-Forwarded-For: 192.0.2.9\r\n"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", client, got, want)
		}
		c.Close()
	}
}

// hostile are headers that are none, or take too long.
var hostile = map[string]string{
	"none":              "GET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"TLS":               "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"truncated line":    "PROXY TCP4 203.0.113.7 198.51.",
	"truncated binary":  header("203.0.113.7:4000", nil)[:20],
	"oversized line":    "PROXY UNKNOWN " + strings.Repeat("x", 94) + "\r\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"oversized binary":  "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("x", 1<<16),
	"LF alone":          "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"CR alone":          "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\rGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"CR CR LF":          "PROXY TCP4 203.0.113.7 198.51.100.1 4000 80\r\r\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"leading zeros":     "PROXY TCP4 203.000.113.7 198.51.100.1 4000 80\r\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"port leading zero": "PROXY TCP4 203.0.113.7 198.51.100.1 04000 80\r\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"port too large":    "PROXY TCP4 203.0.113.7 198.51.100.1 65536 80\r\nGET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"wrong checksum": header("203.0.113.7:4000", proxyproto.TLVs(nil).With(3, []byte("abcd"))) +
		"GET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"TLV cut off": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f\xcb\x00\x71\x07\xc6\x33\x64\x01\x0f\xa0\x00\x50\x01\x00\x09" +
		"GET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
	"unknown command": "\r\n\r\n\x00\r\nQUIT\n\x22\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\x0f\xa0\x00\x50" +
		"GET /a HTTP/1.1\r\nHost: a.example.com\r\n\r\n",
}

func TestProxyProtocolHostile(t *testing.T) {
	metrics := observe.NewMetrics("")
	p := start(t, dataplane.Options{HandshakeTimeout: 200 * time.Millisecond, Metrics: metrics})
	reached := atomic.Int64{}
	w := &world{}
	w.port(behind(plain(), false, loopback)).cluster("a", h1Backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })).
		host(gateway, "*", to("/", "a")).apply(t, p)
	for name, sent := range hostile {
		c := dial(t, address(t, p))
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(c, sent)
		if got, err := io.ReadAll(c); len(got) > 0 || err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: answered %q, %v", name, got, err)
		}
		c.Close()
	}
	if n := rejected(t, metrics); n != len(hostile) || reached.Load() != 0 {
		t.Errorf("%d were counted, want %d; %d reached the backend", n, len(hostile), reached.Load())
	}
}

// A header that comes byte by byte is good.
func TestProxyProtocolByteByByte(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(behind(plain(), false, loopback)).cluster("a", forwardedBackend(t)).host(gateway, "*", to("/", "a")).apply(t, p)
	c := dial(t, address(t, p))
	defer c.Close()
	for _, b := range []byte(header("203.0.113.7:4000", nil)) {
		_, _ = c.Write([]byte{b})
	}
	if got := asks(t, c, "", 1, ""); len(got) != 1 || got[0] != "203.0.113.7" {
		t.Errorf("%q", got)
	}
}

// The header comes before TLS, whether that is terminated or passed through.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	inner := pair(t, selfSigned(t, 7, "pass.example.com"))
	for _, passthrough := range []bool{false, true} {
		p := start(t, dataplane.Options{})
		port := behind(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
			{Key: "raw", Port: 443, Protocol: "TLS", Hostname: "raw.example.com",
				TLS: selfSigned(t, 8, "raw.example.com"), Targets: []*snapshot.Target{target("raw.example.com", "plain")}},
			{Key: "web", Port: 443, Protocol: "HTTPS", Hostname: "web.example.com", TLS: selfSigned(t, 9, "web.example.com")},
		}}, true, loopback)
		if passthrough {
			port.Listeners = append(port.Listeners, &snapshot.Listener{Key: "pass", Port: 443, Protocol: "TLS", Hostname: "pass.example.com",
				Targets: []*snapshot.Target{target("pass.example.com", "tls")}})
		}
		w := &world{}
		w.port(port).cluster("tls", echo(t, "tls", &tls.Config{Certificates: []tls.Certificate{inner}})).
			cluster("plain", echo(t, "plain", nil)).cluster("http", forwardedBackend(t)).
			host("web", "web.example.com", to("/", "http")).apply(t, p)
		for _, head := range []string{header("203.0.113.7:4000", nil), ""} {
			for name, want := range map[string]string{"pass.example.com": "tls\nhibye", "raw.example.com": "plain\nhibye", "web.example.com": ""} {
				if name == "pass.example.com" && !passthrough {
					continue
				}
				nc := dial(t, address(t, p))
				_, _ = io.WriteString(nc, head)
				c := tls.Client(nc, &tls.Config{ServerName: name, InsecureSkipVerify: true})
				if want == "" {
					want = "127.0.0.1"
					if head != "" {
						want = "203.0.113.7"
					}
					if got := web(t, c); got != want {
						t.Errorf("%s with %q: %q, want %q", name, head, got, want)
					}
				} else if got, err := talk(t, c, "hi"); err != nil || got != want {
					t.Errorf("%s with %q: %q, %v", name, head, got, err)
				}
				c.Close()
			}
		}
	}
}

// web asks web.example.com for a page.
func web(t *testing.T, c net.Conn) string {
	t.Helper()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	content, _ := io.ReadAll(resp.Body)
	return string(content)
}

// A connection to an endpoint carries the requests of one client's connection,
// and ends with it.
func TestProxyProtocolOut(t *testing.T) {
	cert := selfSigned(t, 3, "upstream.example.com")
	roots := &snapshot.UpstreamTLS{ServerName: "upstream.example.com", Roots: cert.Certificates[0].Chain}
	secure := &tls.Config{Certificates: []tls.Certificate{pair(t, cert)}, NextProtos: []string{"h2", "http/1.1"}}
	for _, tt := range []struct {
		name, version, protocol string
		with                    *snapshot.UpstreamTLS
	}{
		{"HTTP/1.1, V1", "V1", "http1", nil},
		{"HTTP/1.1, V2", "V2", "http1", nil},
		{"HTTP/2", "V2", "h2c", nil},
		{"HTTP/1.1 over TLS", "V2", "http1", roots},
		{"HTTP/2 over TLS", "V1", "alpn", roots},
	} {
		t.Run(tt.name, func(t *testing.T) {
			settings := secure
			if tt.with == nil {
				settings = nil
			}
			l := introducedBackend(t, settings)
			p := start(t, dataplane.Options{})
			w := &world{}
			w.port(plain()).introduced("a", tt.version, tt.protocol, tt.with, l.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)

			one, two := dial(t, address(t, p)), dial(t, address(t, p))
			defer one.Close()
			defer two.Close()
			first := asks(t, one, "", 3, "")
			second := asks(t, two, "", 3, "")
			again := asks(t, one, "", 1, "")
			if len(first) != 3 || len(second) != 3 || len(again) != 1 {
				t.Fatalf("%q, %q, %q", first, second, again)
			}
			if want := fmt.Sprintf("1 %v 127.0.0.1", one.LocalAddr()); first[0] != want || first[2] != want || again[0] != want {
				t.Errorf("%q, %q; want %q", first, again, want)
			}
			if want := fmt.Sprintf("2 %v 127.0.0.1", two.LocalAddr()); second[0] != want || second[2] != want {
				t.Errorf("%q, want %q", second, want)
			}
			// The clients' connections end, and those to the endpoint with them.
			one.Close()
			two.Close()
			awaitQuiet(t, p)

			// Many at once.
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					c := client2(t)
					var streams sync.WaitGroup
					for range 8 {
						streams.Go(func() {
							var from atomic.Value
							trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { from.Store(got.Conn.LocalAddr().String()) }}
							req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", "http://"+address(t, p)+"/slow", nil)
							resp, err := c.Do(req)
							if err != nil {
								t.Error(err)
								return
							}
							defer resp.Body.Close()
							content, _ := io.ReadAll(resp.Body)
							if part := strings.Fields(string(content)); len(part) != 3 || part[1] != from.Load() {
								t.Errorf("%q for %v", content, from.Load())
							}
						})
					}
					streams.Wait()
					c.CloseIdleConnections()
				})
			}
			group.Wait()
			awaitQuiet(t, p)
		})
	}
}

// Where the policy comes and goes, connections that were made before are not used.
func TestProxyProtocolSwitched(t *testing.T) {
	l := introducedBackend(t, nil)
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).introduced("a", "V1", "http1", nil, l.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)
	c := dial(t, address(t, p))
	defer c.Close()
	if got := asks(t, c, "", 1, ""); len(got) != 1 || !strings.HasPrefix(got[0], "1 ") {
		t.Fatalf("%q", got)
	}
	w.introduced("a", "V2", "http1", nil, l.Addr().String()).apply(t, p)
	if got := asks(t, c, "", 2, ""); len(got) != 2 || !strings.HasPrefix(got[0], "2 ") || got[1] != got[0] {
		t.Errorf("after the change: %q, want a second connection", got)
	}
}

// introducedEcho is a TCP server that sends back all it gets, and hands out the
// headers of its connections.
func introducedEcho(t testing.TB) (address string, headers <-chan *proxyproto.Header) {
	l := listenIntroduced(t)
	t.Cleanup(func() { l.Close() })
	got := make(chan *proxyproto.Header, 64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got <- c.(*introducedConn).header
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String(), got
}

func TestProxyProtocolOutTCP(t *testing.T) {
	for _, version := range []string{"V1", "V2"} {
		addr, headers := introducedEcho(t)
		p := start(t, dataplane.Options{})
		w := &world{}
		w.port(tcpPort(target("", "a"))).introduced("a", version, "http1", nil, addr).apply(t, p)
		large := strings.Repeat("0123456789abcdef", 1<<16)
		c := dial(t, address(t, p))
		from, to := c.LocalAddr().String(), c.RemoteAddr().String()
		if got, err := talk(t, c, large); err != nil || got != large {
			t.Fatalf("%s: %d bytes, %v", version, len(got), err)
		}
		if h := <-headers; fmt.Sprintf("V%d", h.Version) != version || h.Source.String() != from || h.Destination.String() != to || len(h.TLVs) > 0 {
			t.Errorf("%s: %+v, want from %s to %s", version, h, from, to)
		}
	}
}

// Two Headgates one behind the other: what the first one was told, and what it
// has seen itself, reaches what is behind the second.
func TestProxyProtocolChain(t *testing.T) {
	addr, headers := introducedEcho(t)
	inner := start(t, dataplane.Options{})
	w := &world{}
	w.port(behind(tcpPort(target("", "a")), false, loopback)).introduced("a", "V2", "http1", nil, addr).apply(t, inner)

	outer := start(t, dataplane.Options{})
	secure := selfSigned(t, 8, "end.example.com")
	w = &world{}
	w.port(behind(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: "end", Port: 443, Protocol: "TLS", Hostname: "end.example.com", TLS: secure, Targets: []*snapshot.Target{target("end.example.com", "inner")}},
		{Key: "pass", Port: 443, Protocol: "TLS", Hostname: "pass.example.com", Targets: []*snapshot.Target{target("pass.example.com", "inner")}},
	}}, false, loopback)).introduced("inner", "V2", "http1", nil, address(t, inner)).apply(t, outer)

	told := proxyproto.TLVs(nil).With(proxyproto.UniqueID, []byte("id-1")).With(0xea, []byte("\x01vpce-1")).
		With(proxyproto.Authority, []byte("told.example.com")).With(proxyproto.ALPN, []byte("told"))
	for _, tt := range []struct {
		name, authority, alpn, ssl string
	}{
		// TLS that ends here is nearer than what was told of TLS before.
		{"end.example.com", "end.example.com", "", "TLSv1.3"},
		{"pass.example.com", "pass.example.com", "told", ""},
	} {
		nc := dial(t, address(t, outer))
		_, _ = io.WriteString(nc, header("203.0.113.7:4000", told))
		if tt.ssl != "" {
			c := tls.Client(nc, &tls.Config{ServerName: tt.name, InsecureSkipVerify: true})
			if got, err := talk(t, c, "hi"); err != nil || got != "hi" {
				t.Errorf("%s: %q, %v", tt.name, got, err)
			}
		} else {
			// The echo is no TLS server: it sends the ClientHello back.
			_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
			_ = tls.Client(nc, &tls.Config{ServerName: tt.name, InsecureSkipVerify: true}).HandshakeContext(context.Background())
			nc.Close()
		}
		h := <-headers
		if h.Source.String() != "203.0.113.7:4000" || h.Destination.String() != "198.51.100.1:443" {
			t.Errorf("%s: from %v to %v", tt.name, h.Source, h.Destination)
		}
		get := func(kind byte) string { v, _ := h.TLVs.Get(kind); return string(v) }
		if get(proxyproto.UniqueID) != "id-1" || get(0xea) != "\x01vpce-1" || get(proxyproto.Authority) != tt.authority || get(proxyproto.ALPN) != tt.alpn {
			t.Errorf("%s: TLVs %q", tt.name, h.TLVs)
		}
		if ssl, _ := proxyproto.ParseSSL([]byte(get(proxyproto.SSL))); ssl.Version != tt.ssl {
			t.Errorf("%s: %+v, want version %s", tt.name, ssl, tt.ssl)
		}
	}
}

// IPHash goes by the client that the header names.
func TestProxyProtocolIPHash(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(behind(tcpPort(target("", "both")), false, loopback)).cluster("both", echo(t, "a", nil), echo(t, "b", nil))
	w.snap.Clusters = w.snap.Clusters.With("both", &snapshot.Cluster{Key: "both", Protocol: "http1", Balance: snapshot.Balance{Algorithm: "IPHash"}})
	w.apply(t, p)
	seen := map[string]bool{}
	for i := range 16 {
		first := ""
		for range 3 {
			c := dial(t, address(t, p))
			_, _ = io.WriteString(c, header(fmt.Sprintf("203.0.113.%d:4000", i), nil))
			got, err := talk(t, c, "")
			if err != nil || first != "" && got != first {
				t.Fatalf("client %d: %q then %q, %v", i, first, got, err)
			}
			first = got
		}
		seen[first] = true
	}
	if len(seen) != 2 {
		t.Errorf("all clients went to %v", seen)
	}
}
