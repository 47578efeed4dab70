package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// A fault is something that goes wrong between Headgate and an endpoint. What
// clients see of each stands in docs/faults.md, which is the table of this test.
type fault struct {
	// name is the row's in the table.
	name string
	// timeout is a rule's timeouts.backendRequest; of TCP, how long nothing may
	// move. 0 is none, and an hour.
	timeout time.Duration
	// silence is how long an endpoint may be silent where there is no timeout;
	// 0 leaves the defaults.
	silence time.Duration
	// at is when it happens: "dial", "accept", "request" (the endpoint has it, and
	// has not answered), "response" (a quarter is sent), "end" (the endpoint has
	// closed), or "again": amid the second request of a connection.
	at string
	// unanswered says that connecting comes to nothing, full that it does because
	// the kernel drops the attempt, answers that the endpoint answers all the same.
	unanswered, full, answers bool
	// do is what happens to the connection with Headgate, the other one is the
	// endpoint's own. What it leaves open stays open.
	do func(with, endpoint *net.TCPConn)
}

const (
	faultContent = 256 << 10   // bytes of a whole response
	soon         = time.Second // when what never comes is too late
	later        = 5 * soon    // when what is to come has come, on a busy machine too
	moment       = 50 * time.Millisecond
)

var faults = []fault{
	{name: "none", at: "end", do: closeNow},
	{name: "connection refused", at: "dial"},
	{name: "connection attempt unanswered", at: "dial", unanswered: true},
	{name: "listen queue full", at: "dial", full: true},
	{name: "accepted, then silent", at: "accept", timeout: soon, do: nothing},
	{name: "the same, without `backendRequest`", at: "accept", silence: later, do: nothing},
	{name: "garbage", at: "accept", do: garbage},
	{name: "reset, with the request unanswered", at: "request", do: reset},
	{name: "closed, with the request unanswered", at: "request", do: closeNow},
	{name: "latency", at: "request", answers: true, do: late(moment)},
	{name: "latency beyond `backendRequest`", at: "request", timeout: soon, do: nothing},
	{name: "silent on a connection in use", at: "again", timeout: soon},
	{name: "reset amid the response", at: "response", do: reset},
	{name: "closed amid the response", at: "response", do: closeNow},
	{name: "silent amid the response", at: "response", timeout: later, do: nothing},
	{name: "silent amid it, without `backendRequest`", at: "response", silence: later, do: nothing},
	{name: "little bandwidth", at: "response", do: drip(16<<10, time.Millisecond)},
	{name: "too little bandwidth for `backendRequest`", at: "response", timeout: later, do: drip(512, 100*time.Millisecond)},
	{name: "never closed", at: "end", timeout: later, do: nothing},
}

func nothing(_, _ *net.TCPConn) {}

func reset(with, _ *net.TCPConn) {
	_ = with.SetLinger(0)
	_ = with.Close()
}

// garbage answers whatever it hears.
func garbage(with, _ *net.TCPConn) {
	if _, err := with.Read(make([]byte, 1)); err == nil {
		_, _ = io.WriteString(with, "who are you?\r\n\r\n")
	}
}

func closeNow(with, _ *net.TCPConn) { _ = with.CloseWrite() }

func late(d time.Duration) func(with, endpoint *net.TCPConn) {
	return func(_, _ *net.TCPConn) { time.Sleep(d) }
}

func drip(size int64, pause time.Duration) func(with, endpoint *net.TCPConn) {
	return func(with, endpoint *net.TCPConn) {
		for {
			_, err := io.CopyN(with, endpoint, size)
			if err == io.EOF {
				closeNow(with, endpoint)
			}
			if err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// faulty is the way to an endpoint, with a fault.
type faulty struct {
	fault
	addr, endpoint string
	// arrived says that the endpoint has a request, goOn that it may answer, over
	// that the test is.
	arrived, goOn, over chan bool
	// silenced drops all bytes, both ways.
	silenced atomic.Bool
	// come is called when the fault is next.
	come func()
	// begun says that the client sees a response.
	begun chan bool

	mu    sync.Mutex
	conns []net.Conn
}

// newFaulty makes a way to an endpoint that serve starts.
func newFaulty(t testing.TB, f fault, come func(), serve func(*faulty) (addr string)) *faulty {
	p := &faulty{fault: f, come: come, begun: make(chan bool), arrived: make(chan bool, 8), goOn: make(chan bool), over: make(chan bool)}
	p.endpoint = serve(p)
	if f.at == "dial" {
		if p.addr = closed(t); f.full {
			p.addr = fullQueue(t)
		}
		return p
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.keep(c)
			group.Go(func() { p.pass(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		close(p.over)
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		group.Wait()
	})
	return p
}

// keep keeps c open until the test ends.
func (p *faulty) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
}

// pass passes bytes on between Headgate and the endpoint.
func (p *faulty) pass(with *net.TCPConn) {
	if p.at == "accept" {
		p.come()
		p.do(with, nil)
		return
	}
	c, err := net.Dial("tcp", p.endpoint)
	if err != nil {
		return
	}
	p.keep(c)
	endpoint := c.(*net.TCPConn)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		_, _ = io.Copy(unless{&p.silenced, endpoint}, with)
		_ = endpoint.CloseWrite()
	})
	switch p.at {
	case "request":
		group.Go(func() {
			select {
			case <-p.arrived:
				p.come()
				p.do(with, endpoint)
				if p.answers {
					close(p.goOn)
				}
			case <-p.over:
			}
		})
	case "response":
		if _, err := io.CopyN(with, endpoint, faultContent/4); err == nil {
			p.come()
			// An endpoint that breaks off right behind the head of its response may be answered for.
			select {
			case <-p.begun:
			case <-p.over:
			}
			p.do(with, endpoint)
		}
		return
	}
	_, err = io.Copy(unless{&p.silenced, with}, endpoint)
	switch {
	case err != nil:
	case p.at == "end":
		p.come()
		p.do(with, endpoint)
	default:
		closeNow(with, endpoint)
	}
}

// unless drops what is written once it is told to.
type unless struct {
	silenced *atomic.Bool
	to       io.Writer
}

func (u unless) Write(b []byte) (int, error) {
	if u.silenced.Load() {
		return len(b), nil
	}
	return u.to.Write(b)
}

// hold is called by the endpoint when it has a request, and returns when that may
// be answered.
func (p *faulty) hold() {
	if p.at != "request" {
		return
	}
	p.arrived <- true
	select {
	case <-p.goOn:
	case <-p.over:
	}
}

// answer is what endpoints that speak HTTP say, of gRPC one message.
func (p *faulty) answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	p.hold()
	content := bytes.Repeat([]byte{'x'}, faultContent)
	if r.Header.Get("Content-Type") == "application/grpc" {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		binary.BigEndian.PutUint32(content[1:], faultContent-5)
		content[0] = 0
		defer w.Header().Set("Grpc-Status", "0")
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(faultContent))
		if r.ProtoMajor == 1 && p.at == "end" {
			w.Header().Set("Connection", "close")
		}
	}
	_, _ = w.Write(content)
}

// answerTCP takes a byte for a request.
func (p *faulty) answerTCP(c net.Conn) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return
	}
	p.hold()
	_, _ = c.Write(bytes.Repeat([]byte{'x'}, faultContent))
	_, _ = io.Copy(io.Discard, c) // to the client's end
}

// protocolTo is a column of the table: how endpoints are spoken to, and by whom.
type protocolTo struct {
	name  string
	serve func(t testing.TB, p *faulty) (addr string)
	world func(addr string) *world
	// ask calls begun when there is a response.
	ask func(t testing.TB, addr string, begun func()) (seen string)
}

// protocolsTo are all of them, with a certificate for those that speak TLS.
func protocolsTo(t *testing.T) []protocolTo {
	secure := selfSigned(t, 1, "web.internal")
	verify := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: secure.Certificates[0].Chain}
	certificate := pair(t, secure)
	h1World := func(addr string) *world { return (&world{}).port(plain()).cluster("a", addr) }
	h2World := func(addr string) *world { return (&world{}).port(plain()).h2cCluster("a", addr) }
	return []protocolTo{
		{"HTTP/1.1", func(t testing.TB, p *faulty) string { return h1Backend(t, p.answer) }, h1World, askHTTP(client, "")},
		{"HTTP/1.1 in TLS", func(t testing.TB, p *faulty) string {
			s := httptest.NewUnstartedServer(http.HandlerFunc(p.answer))
			s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		}, func(addr string) *world {
			return (&world{}).port(plain()).secureCluster("a", "http1", addr, verify)
		}, askHTTP(client, "")},
		{"HTTP/2", func(t testing.TB, p *faulty) string { return h2cBackend(t, p.answer) }, h2World, askHTTP(client2, "")},
		{"gRPC", func(t testing.TB, p *faulty) string { return h2cBackend(t, p.answer) }, h2World, askHTTP(client2, "application/grpc")},
		{"TCP", serveTCP, func(addr string) *world {
			return (&world{}).port(tcpPort(target("", "a"))).cluster("a", addr)
		}, askTCP},
	}
}

// serveTCP answers connections on which it has got a byte.
func serveTCP(t testing.TB, p *faulty) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.answerTCP(c)
		}
	}()
	return ln.Addr().String()
}

// askHTTP makes a request and says in words what comes back.
func askHTTP(with func(testing.TB) *http.Client, contentType string) func(t testing.TB, addr string, begun func()) string {
	return func(t testing.TB, addr string, begun func()) string {
		req, err := http.NewRequest("POST", "http://"+addr+"/", strings.NewReader("content"))
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		const reset = "INTERNAL_ERROR; received from peer"
		broken := "200"
		if contentType != "" {
			broken = "INTERNAL"
		}
		broken += ", cut off"
		resp, err := with(t).Do(req)
		begun()
		switch {
		case err == nil:
		case strings.Contains(err.Error(), reset):
			return broken // it broke off before the head was on its way
		default:
			return err.Error()
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		seen := strconv.Itoa(resp.StatusCode)
		code := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
		if names := map[string]string{"0": "OK", "4": "DEADLINE_EXCEEDED", "13": "INTERNAL", "14": "UNAVAILABLE"}; contentType != "" && err == nil {
			seen = names[code]
		}
		switch {
		case err == nil && resp.StatusCode == 200 && len(content) != faultContent && code == "":
			return fmt.Sprintf("%s, %d bytes", seen, len(content))
		case err == nil:
			return seen
		case resp.StatusCode == 200 && resp.ProtoMajor == 1 && errors.Is(err, io.ErrUnexpectedEOF),
			resp.StatusCode == 200 && resp.ProtoMajor == 2 && strings.Contains(err.Error(), reset):
			return broken
		}
		return seen + ", " + err.Error()
	}
}

// askTCP sends a byte and its end, and says in words what comes back.
func askTCP(t testing.TB, addr string, begun func()) (seen string) {
	begun() // it has no head that could be held back
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "nothing, reset"
	}
	content, err := talk(t, c, "x")
	switch len(content) {
	case 0:
		seen = "nothing"
	case faultContent:
		seen = "all"
	default:
		seen = "a part"
	}
	switch {
	case err == nil:
		return seen + ", closed"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), len(content) == 0 && errors.Is(err, syscall.ENOTCONN):
		return seen + ", reset"
	}
	return seen + ", " + err.Error()
}

// TestFaults holds the table in docs/faults.md. All of it happens at once, since
// most of it is waiting; but few at a time come to their fault, which is work, and
// which would take them beyond their timeouts if all did.
func TestFaults(t *testing.T) {
	want := faultsTable(t)
	working := make(chan bool, 4)
	var group sync.WaitGroup
	defer group.Wait()
	for _, to := range protocolsTo(t) {
		for _, f := range faults {
			cell, ok := want[f.name+"|"+to.name]
			if !ok {
				t.Errorf("docs/faults.md does not say what %s does to %s", f.name, to.name)
			}
			if cell == "–" {
				continue
			}
			group.Go(func() {
				working <- true
				come := sync.OnceFunc(func() { <-working })
				defer come()
				t.Run(to.name+", "+f.name, func(t *testing.T) {
					if got := f.seen(t, to, come); got != cell {
						t.Errorf("got %s, want %s", got, cell)
					}
				})
			})
		}
	}
}

// seen is what a client sees of the fault, and the reason in the access log. It
// calls come when the fault is next.
func (f fault) seen(t *testing.T, by protocolTo, come func()) string {
	way := newFaulty(t, f, come, func(p *faulty) string { return by.serve(t, p) })
	var opts dataplane.Options
	if f.silence > 0 {
		opts.Upstream.HTTP2 = &h2.ClientOptions{PingInterval: f.silence / 2, PingTimeout: f.silence / 2}
	}
	if f.unanswered {
		opts.Upstream.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	p, log, _ := watched(t, opts)
	w := by.world(way.addr)
	cluster, _ := w.snap.Clusters.Get("a")
	cluster.ConnectTimeout, cluster.Timeouts.Idle = f.silence, f.silence
	if f.unanswered || f.full {
		cluster.ConnectTimeout = moment
	}
	if by.name == "TCP" {
		w.snap.Ports[0].Listeners[0].Client = &snapshot.Client{IdleTimeout: f.timeout}
	}
	begun := sync.OnceFunc(func() { close(way.begun) })
	lines := 1
	if f.at == "again" {
		w.host(gateway, "*", to("/", "a")).apply(t, p)
		if seen := by.ask(t, address(t, p), begun); !strings.HasPrefix(seen, "200") && seen != "OK" {
			return "at first " + seen
		}
		come()
		way.silenced.Store(true)
		lines++
	}
	r := to("/", "a")
	r.Rule.BackendTimeout = f.timeout
	w.host(gateway, "*", r).apply(t, p)
	seen := by.ask(t, address(t, p), begun)
	if reason := log.await(t, lines).Reason; reason != "" {
		seen += ", `" + reason + "`"
	}
	return seen
}

// faultsTable reads docs/faults.md: what stands in the row of a fault and the
// column of a protocol, with "|" between their names.
func faultsTable(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	cells := map[string]string{}
	var head []string
	for line := range strings.Lines(string(text)) {
		row := strings.Split(strings.Trim(line, "| \n"), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			head = nil
		case head == nil:
			head = row
		case len(row) == len(head):
			for i, cell := range row {
				cells[row[0]+"|"+head[i]] = cell
			}
		}
	}
	return cells
}
