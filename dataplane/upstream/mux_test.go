package upstream

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// h2Backend is an endpoint that speaks HTTP/2.
type h2Backend struct {
	addr     netip.AddrPort
	server   *http.Server
	conns    atomic.Int64
	requests atomic.Int64
}

// newH2Backend starts an endpoint that takes so many streams on a connection.
// A nil h answers "ok".
func newH2Backend(t testing.TB, streams int, h http.HandlerFunc, certs ...tls.Certificate) *h2Backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &h2Backend{addr: netip.MustParseAddrPort(l.Addr().String())}
	b.serve(t, l, streams, h, certs...)
	return b
}

func (b *h2Backend) serve(t testing.TB, l net.Listener, streams int, h http.HandlerFunc, certs ...tls.Certificate) {
	b.server = &http.Server{
		Protocols: new(http.Protocols),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: streams},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.requests.Add(1)
			if h != nil {
				h(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "ok")
		}),
		ConnState: func(c net.Conn, s http.ConnState) {
			if s == http.StateNew {
				b.conns.Add(1)
			}
		},
	}
	b.server.Protocols.SetUnencryptedHTTP2(true)
	b.server.Protocols.SetHTTP1(true)
	if len(certs) > 0 {
		b.server.Protocols = new(http.Protocols)
		b.server.Protocols.SetHTTP2(true)
		b.server.Protocols.SetHTTP1(true)
		b.server.TLSConfig = &tls.Config{Certificates: certs}
		go b.server.ServeTLS(l, "", "")
	} else {
		go b.server.Serve(l)
	}
	t.Cleanup(func() { b.server.Close() })
}

func h2cfg() *snapshot.Cluster {
	return &snapshot.Cluster{Key: "Service/shop/web/80", Protocol: "h2c"}
}

func TestMux(t *testing.T) {
	a, b := newH2Backend(t, 100, nil), newH2Backend(t, 100, nil)
	c := newManagerFor(t, Options{}).NewCluster(h2cfg(), endpoints(a.addr, b.addr))
	for i := range 20 {
		method, body := "GET", ""
		if i%3 == 0 {
			method, body = "POST", "content"
		}
		if ex := send(t, c, method, body); ex.Upstream.Tries != 1 || ex.Upstream.Wait <= 0 || ex.Response.Proto != exchange.HTTP2 {
			t.Fatalf("%+v", ex.Upstream)
		}
	}
	for _, x := range []*h2Backend{a, b} {
		s := stateOf(t, c, x.addr)
		if x.requests.Load() != 10 || x.conns.Load() != 1 {
			t.Errorf("%d requests on %d connections, want 10 on 1", x.requests.Load(), x.conns.Load())
		}
		want := EndpointState{Address: x.addr.String(), Weight: 1, SharePercent: 100, State: "ready", Idle: 1, Connections: 1, Requests: 10, Connects: 1, Latency: s.Latency}
		if !reflect.DeepEqual(s, want) || s.Latency <= 0 {
			t.Errorf("got %+v\nwant %+v", s, want)
		}
	}
}

// sendMany makes exchanges at a time and wants all to succeed.
func sendMany(t *testing.T, c *Cluster, at, each int, method, body string) {
	t.Helper()
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for range each {
				ex := newExchange(method, body)
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Error(err)
					return
				}
				if got := finish(t, ex, lease); got != "ok" || ex.Response.Status != 200 {
					t.Errorf("%d %q", ex.Response.Status, got)
				}
			}
		})
	}
	wg.Wait()
}

// TestMuxMany has more exchanges at a time than a connection takes.
func TestMuxMany(t *testing.T) {
	for _, tt := range []struct {
		name             string
		streams, most    int
		at, minConns, to int64
	}{
		{"one connection takes them all", 100, 0, 50, 1, 1},
		{"more connections are opened", 4, 0, 40, 2, 40},
		{"they wait for the only connection", 2, 1, 20, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newH2Backend(t, tt.streams, nil)
			m := newManagerFor(t, Options{})
			m.maxMuxes = cmp.Or(tt.most, m.maxMuxes)
			c := m.NewCluster(h2cfg(), endpoints(b.addr))
			sendMany(t, c, int(tt.at), 20, "POST", "content")
			if n := b.conns.Load(); n < tt.minConns || n > tt.to {
				t.Errorf("%d connections, want %d to %d", n, tt.minConns, tt.to)
			}
			if s := stateOf(t, c, b.addr); s.InFlight != 0 || s.Requests != uint64(tt.at)*20 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestMuxOneDial sends many exchanges at once to where there is no connection yet.
func TestMuxOneDial(t *testing.T) {
	b := newH2Backend(t, 100, nil)
	begin := make(chan struct{})
	m := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		<-begin
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	c := m.NewCluster(h2cfg(), endpoints(b.addr))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { send(t, c, "GET", "") })
	}
	eventually(t, "all wait", func() bool { return stateOf(t, c, b.addr).InFlight == 50 })
	close(begin)
	wg.Wait()
	if n := b.conns.Load(); n != 1 {
		t.Errorf("%d connections for 50 exchanges, want 1", n)
	}
}

// TestMuxRefused has all who wait for a connection fail with it.
func TestMuxRefused(t *testing.T) {
	c := newManagerFor(t, Options{}).NewCluster(h2cfg(), endpoints(refusing(t)))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if up := fail(t, c, newExchange("GET", "")); up.Reason != "connect_refused" || up.Stage != exchange.Dialing {
				t.Errorf("%v", up)
			}
		})
	}
	wg.Wait()
}

// TestMuxQueueEnds bounds the wait for a stream.
func TestMuxQueueEnds(t *testing.T) {
	proceed := make(chan struct{})
	b := newH2Backend(t, 1, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-proceed
		io.WriteString(w, "ok")
	})
	m := newManagerFor(t, Options{})
	m.maxMuxes = 1
	c := m.NewCluster(h2cfg(), endpoints(b.addr))
	ex := newExchange("GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	late := newExchange("GET", "")
	late.TryDeadline = time.Now().Add(20 * time.Millisecond)
	if up := fail(t, c, late); up.Reason != "timeout" {
		t.Errorf("%v", up)
	}
	waits := make(chan struct{})
	go func() {
		defer close(waits)
		send(t, c, "GET", "")
	}()
	eventually(t, "it waits", func() bool { return stateOf(t, c, b.addr).InFlight == 2 })
	close(proceed)
	finish(t, ex, lease)
	<-waits
}

// TestMuxGoAway takes connections away while exchanges are made.
func TestMuxGoAway(t *testing.T) {
	b := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Header.Get("Last") != "" {
			w.Header().Set("Connection", "close") // GOAWAY, and what has come is answered
		}
		io.WriteString(w, "ok")
	})
	c := newManagerFor(t, Options{}).NewCluster(h2cfg(), endpoints(b.addr))
	stop := make(chan struct{})
	var away sync.WaitGroup
	away.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			ex := newExchange("GET", "")
			ex.Out.Fields.Add("Last", "1")
			lease, err := c.RoundTrip(ex)
			if err != nil {
				t.Error(err)
				return
			}
			finish(t, ex, lease)
		}
	})
	sendMany(t, c, 8, 200, "POST", "content")
	close(stop)
	away.Wait()
	if n := b.conns.Load(); n < 3 {
		t.Errorf("only %d connections: nothing was tested", n)
	}
	eventually(t, "the connections that went away are gone", func() bool { return stateOf(t, c, b.addr).Connections <= 1 })
}

// refusingPeer says that it has processed nothing, in one way or another.
func refusingPeer(t testing.TB, refuse func(f *http2.Framer, stream uint32)) (netip.AddrPort, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				if _, err := io.ReadFull(nc, make([]byte, len(h2.Preface))); err != nil {
					return
				}
				f := http2.NewFramer(nc, nc)
				f.WriteSettings()
				for {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					if h := frame.Header(); h.Type == http2.FrameHeaders {
						requests.Add(1)
						refuse(f, h.StreamID)
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return netip.MustParseAddrPort(l.Addr().String()), &requests
}

// TestMuxRefusedGoesElsewhere repeats what an endpoint has not processed,
// whatever its method and content.
func TestMuxRefusedGoesElsewhere(t *testing.T) {
	for how, refuse := range map[string]func(f *http2.Framer, stream uint32){
		"refused": func(f *http2.Framer, stream uint32) { f.WriteRSTStream(stream, http2.ErrCodeRefusedStream) },
		"goaway":  func(f *http2.Framer, stream uint32) { f.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		t.Run(how, func(t *testing.T) {
			bad, refused := refusingPeer(t, refuse)
			var got atomic.Value
			good := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
				content, _ := io.ReadAll(r.Body)
				got.Store(string(content))
				io.WriteString(w, "ok")
			})
			m := newManagerFor(t, Options{})
			c := m.NewCluster(h2cfg(), endpoints(bad, good.addr))
			for range 4 {
				send(t, c, "POST", "content")
				if got.Load() != "content" {
					t.Fatalf("the content was %q", got.Load())
				}
			}
			if refused.Load() == 0 {
				t.Error("nothing was refused")
			}
			only := m.NewCluster(h2cfg(), endpoints(bad))
			if up := fail(t, only, newExchange("POST", "content")); up.Reason != how {
				t.Errorf("%v", up)
			}
		})
	}
}

// TestMuxIdle closes connections that nobody uses.
func TestMuxIdle(t *testing.T) {
	b := newH2Backend(t, 100, nil)
	y := h2cfg()
	y.Pool.IdleTimeout = 20 * time.Millisecond
	m := newManagerFor(t, Options{SweepInterval: 5 * time.Millisecond})
	c := m.NewCluster(y, endpoints(b.addr))
	send(t, c, "GET", "")
	eventually(t, "the connection is closed", func() bool { return stateOf(t, c, b.addr).Connections == 0 })
	send(t, c, "GET", "")
}

// TestMuxEndpointGoes takes an endpoint away from under an exchange.
func TestMuxEndpointGoes(t *testing.T) {
	for _, how := range []string{"removed", "closed", "http1"} {
		t.Run(how, func(t *testing.T) {
			arrived, proceed := make(chan struct{}), make(chan struct{})
			b := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
				close(arrived)
				<-proceed
				io.WriteString(w, "ok")
			})
			open := make(chan net.Conn, 1)
			m := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, address)
				open <- nc
				return nc, err
			}})
			c := m.NewCluster(h2cfg(), endpoints(b.addr))
			done := make(chan struct{})
			go func() {
				defer close(done)
				send(t, c, "POST", "content")
			}()
			<-arrived
			switch how {
			case "removed":
				c.SetEndpoints(nil)
			case "closed":
				c.Close()
			case "http1":
				c.Update(cfg())
			}
			close(proceed)
			<-done
			nc := <-open
			eventually(t, "the connection is closed", func() bool { return nc.SetDeadline(time.Time{}) != nil })
		})
	}
}

func TestMuxTLS(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	settings := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	both := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proto", r.Proto)
		io.WriteString(w, "ok")
	}, cert)
	old := newTLSBackend(t, cert, ok)
	for _, tt := range []struct {
		protocol string
		to       netip.AddrPort
		want     exchange.Proto
		reason   string
	}{
		{"http1", both.addr, exchange.HTTP11, ""},
		{"h2c", both.addr, exchange.HTTP2, ""},
		{"alpn", both.addr, exchange.HTTP2, ""},
		{"http1", old.addr, exchange.HTTP11, ""},
		{"h2c", old.addr, 0, "protocol"},
		{"alpn", old.addr, exchange.HTTP11, ""},
	} {
		t.Run(fmt.Sprintf("%s %v", tt.protocol, tt.to == both.addr), func(t *testing.T) {
			y := h2cfg()
			y.Protocol, y.TLS = tt.protocol, settings
			c := newManagerFor(t, Options{}).NewCluster(y, endpoints(tt.to))
			if tt.reason != "" {
				if up := fail(t, c, newExchange("GET", "")); up.Reason != tt.reason && !strings.HasPrefix(up.Reason, "tls") {
					t.Errorf("%v", up)
				}
				return
			}
			for range 5 {
				if ex := send(t, c, "POST", "content"); ex.Response.Proto != tt.want {
					t.Errorf("%v, want %v", ex.Response.Proto, tt.want)
				}
			}
			if s := stateOf(t, c, tt.to); s.Connections != 1 || s.Connects != 1 {
				t.Errorf("%+v", s)
			}
			sendMany(t, c, 8, 20, "GET", "")
		})
	}
}

// TestMuxProtocolChanges switches the protocol while exchanges are made.
func TestMuxProtocolChanges(t *testing.T) {
	b := newH2Backend(t, 100, nil)
	c := newManagerFor(t, Options{}).NewCluster(h2cfg(), endpoints(b.addr))
	stop := make(chan struct{})
	var change sync.WaitGroup
	change.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			if i%2 == 0 {
				c.Update(cfg())
			} else {
				c.Update(h2cfg())
			}
		}
	})
	sendMany(t, c, 8, 200, "POST", "content")
	close(stop)
	change.Wait()
}

// TestMuxAllocates bounds what an exchange on a shared connection costs.
func TestMuxAllocates(t *testing.T) {
	peer := leanH2Peer(t)
	c := newManagerFor(t, Options{}).NewCluster(h2cfg(), endpoints(peer))
	ex := &exchange.Exchange{}
	for range 10 {
		muxRoundTrip(t, c, ex)
	}
	if n := testing.AllocsPerRun(500, func() { muxRoundTrip(t, c, ex) }); n > 2 {
		t.Errorf("%v allocations for an exchange, at most 2 are wanted", n)
	}
}

func muxRoundTrip(t testing.TB, c *Cluster, ex *exchange.Exchange) {
	fill(ex, "GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	for ex.Response.Body != nil {
		if _, err := ex.Response.Body.Next(); err != nil {
			break
		}
	}
	lease.Release()
}

// leanH2Peer answers every request of a connection alike, and allocates nothing for it.
func leanH2Peer(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		in := bufio.NewReaderSize(nc, 32<<10)
		if _, err := io.CopyN(io.Discard, in, int64(len(h2.Preface))); err != nil {
			return
		}
		nc.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})       // SETTINGS
		answer := []byte{0, 0, 1, 1, 4, 0, 0, 0, 0, 0x88, // HEADERS: 200
			0, 0, 2, 0, 1, 0, 0, 0, 0, 'o', 'k'} // DATA
		var head [9]byte
		var out []byte
		for {
			if in.Buffered() == 0 && len(out) > 0 {
				nc.Write(out)
				out = out[:0]
			}
			if _, err := io.ReadFull(in, head[:]); err != nil {
				return
			}
			in.Discard(int(head[0])<<16 | int(head[1])<<8 | int(head[2]))
			if head[3] == 1 {
				copy(answer[5:9], head[5:])
				copy(answer[15:19], head[5:])
				out = append(out, answer...)
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String())
}

func BenchmarkMux(b *testing.B) {
	peer := leanH2Peer(b) // which ends after the manager has closed its connection
	c := newManagerFor(b, Options{}).NewCluster(h2cfg(), endpoints(peer))
	b.Run("1", func(b *testing.B) {
		ex := &exchange.Exchange{}
		b.ReportAllocs()
		for b.Loop() {
			muxRoundTrip(b, c, ex)
		}
	})
	b.Run("32", func(b *testing.B) {
		b.SetParallelism(16)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ex := &exchange.Exchange{}
			for pb.Next() {
				muxRoundTrip(b, c, ex)
			}
		})
	})
}
