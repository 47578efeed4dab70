package listener

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a codec that answers each line with what the connection is.
type echo struct {
	nc      net.Conn
	info    *exchange.Conn
	clients []*snapshot.Client
	drained chan struct{}
	once    sync.Once
}

func newEcho(nc net.Conn, info *exchange.Conn, clients []*snapshot.Client) Session {
	return &echo{nc: nc, info: info, clients: clients, drained: make(chan struct{})}
}

func (e *echo) Serve() {
	defer e.nc.Close()
	r := bufio.NewReader(e.nc)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if line == "panic\n" {
			panic("a bug")
		}
		listener := "-"
		if e.info.TLS != nil {
			listener = e.info.TLS.Listener + "," + e.info.TLS.ServerName + "," + e.info.TLS.ALPN
		}
		fmt.Fprintf(e.nc, "%v %s %d %s", e.info.Port, listener, len(e.clients), line)
		select {
		case <-e.drained:
			return
		default:
		}
	}
}

func (e *echo) Drain() {
	e.once.Do(func() {
		close(e.drained)
		e.nc.SetReadDeadline(time.Now())
	})
}
func (e *echo) Close() error { return e.nc.Close() }

func newSet(t *testing.T, edit ...func(*Options)) *Set {
	opts := Options{
		Addresses: []string{"127.0.0.1"}, Codecs: []Codec{{ALPN: "http/1.1", New: newEcho}},
		Metrics: observe.NewMetrics(""), RetryInterval: 10 * time.Millisecond,
	}
	for _, e := range edit {
		e(&opts)
	}
	s := NewSet(opts)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
	})
	return s
}

func portOf(key string, listeners ...*snapshot.Listener) *snapshot.Port {
	if listeners == nil {
		listeners = []*snapshot.Listener{{Key: "l"}}
	}
	return &snapshot.Port{Key: key, Transport: "tcp", Listeners: listeners}
}

// addressOf is where a port listens.
func addressOf(t *testing.T, s *Set, key string) string {
	t.Helper()
	for _, st := range s.Statuses() {
		if st.Port == key {
			if st.Err != nil {
				t.Fatal(st.Err)
			}
			return st.Address
		}
	}
	t.Fatalf("no port %s", key)
	return ""
}

// caller is a client's connection.
type caller struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, address string) *caller {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return caller{}.on(t, c)
}

func (caller) on(t *testing.T, c net.Conn) *caller {
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(9 * time.Second)) // a handshake may take 10 s
	return &caller{c, bufio.NewReader(c)}
}

func (c *caller) say(line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	answer, err := c.r.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// authority signs certificates for tests.
type authority struct {
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	roots *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &authority{key, cert, roots}
}

func (a *authority) issue(t *testing.T, serial int64, names ...string) *snapshot.TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: names, NotAfter: time.Now().Add(time.Hour),
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.TLS{Certificates: []*snapshot.Certificate{{
		Source: snapshot.Ref{Kind: "Secret", Namespace: "shop", Name: "cert"},
		Chain:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}}}
}

func (a *authority) dial(t *testing.T, address, name string) (*caller, error) {
	c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: a.roots, ServerName: name, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		return nil, err
	}
	return caller{}.on(t, c), nil
}

func (c *caller) serial() int64 {
	return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestSocketsOutliveChanges(t *testing.T) {
	s := newSet(t)
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1"), portOf("tcp/2")}); err != nil {
		t.Fatal(err)
	}
	address := addressOf(t, s, "tcp/1")
	one, two := dial(t, address), dial(t, addressOf(t, s, "tcp/2"))
	for _, c := range []*caller{one, two} {
		if _, err := c.say("hello"); err != nil {
			t.Fatal(err)
		}
	}
	// One stays with other listeners, the other goes.
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "x"}, &snapshot.Listener{Key: "y"})}); err != nil {
		t.Fatal(err)
	}
	if addressOf(t, s, "tcp/1") != address {
		t.Error("the socket was bound anew")
	}
	if got, err := one.say("hello"); err != nil || got != "tcp/1 - 1 hello" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := dial(t, address).say("hello"); err != nil || got != "tcp/1 - 2 hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := two.r.ReadByte(); err != io.EOF {
		t.Errorf("a drained connection: %v", err)
	}
	if _, err := net.Dial("tcp", two.RemoteAddr().String()); err == nil {
		t.Error("a removed port accepts")
	}
}

func TestConnectionLimit(t *testing.T) {
	s := newSet(t, func(o *Options) { o.MaxConnections = 1 })
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1")}); err != nil {
		t.Fatal(err)
	}
	first, second := dial(t, addressOf(t, s, "tcp/1")), dial(t, addressOf(t, s, "tcp/1"))
	if _, err := first.say("hello"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(second, "waits")
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.r.ReadByte(); err == nil {
		t.Fatal("a second connection was served")
	}
	_ = second.SetReadDeadline(time.Now().Add(9 * time.Second))
	first.Close()
	if got, err := second.r.ReadString('\n'); err != nil || got != "tcp/1 - 1 waits\n" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestPanicEndsOneConnection(t *testing.T) {
	s := newSet(t)
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1")}); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, addressOf(t, s, "tcp/1")).say("panic"); err == nil {
		t.Error("the connection goes on")
	}
	if _, err := dial(t, addressOf(t, s, "tcp/1")).say("hello"); err != nil {
		t.Error(err)
	}
}

func TestShutdown(t *testing.T) {
	stubborn := make(chan Session, 1)
	s := newSet(t, func(o *Options) {
		o.Codecs[0].New = func(nc net.Conn, info *exchange.Conn, _ []*snapshot.Client) Session {
			c := &busy{nc: nc, closed: make(chan bool)}
			stubborn <- c
			return c
		}
	})
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1")}); err != nil {
		t.Fatal(err)
	}
	dial(t, addressOf(t, s, "tcp/1"))
	<-stubborn
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := s.Apply(nil); !errors.Is(err, ErrShutdown) {
		t.Errorf("Apply afterwards: %v", err)
	}
}

// A session that does not even notice that its connection was closed must not
// hold Shutdown: it may wait for an upstream that is silent for minutes.
func TestShutdownLeavesTheStuckBehind(t *testing.T) {
	began, end := make(chan bool), make(chan bool)
	s := newSet(t, func(o *Options) {
		o.Codecs[0].New = func(nc net.Conn, info *exchange.Conn, _ []*snapshot.Client) Session {
			return &stuck{nc, began, end}
		}
	})
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1")}); err != nil {
		t.Fatal(err)
	}
	dial(t, addressOf(t, s, "tcp/1"))
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	returned := make(chan error)
	go func() { returned <- s.Shutdown(ctx) }()
	select {
	case err := <-returned:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Shutdown still waits")
	}
	close(end)
}

type stuck struct {
	nc         net.Conn
	began, end chan bool
}

func (s *stuck) Serve()       { close(s.began); <-s.end }
func (s *stuck) Drain()       {}
func (s *stuck) Close() error { return s.nc.Close() }

// busy does not drain.
type busy struct {
	nc     net.Conn
	closed chan bool
	once   sync.Once
}

func (b *busy) Serve()       { <-b.closed }
func (b *busy) Drain()       {}
func (b *busy) Close() error { b.once.Do(func() { close(b.closed) }); return b.nc.Close() }

func TestBindIsTriedAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSet(t)
	blocked := portOf("tcp/1")
	blocked.Number = uint16(taken.Addr().(*net.TCPAddr).Port)
	if err := s.Apply([]*snapshot.Port{blocked, portOf("tcp/2")}); err == nil || !strings.Contains(err.Error(), "port tcp/1") {
		t.Errorf("the error does not name the port: %v", err)
	}
	if _, err := dial(t, addressOf(t, s, "tcp/2")).say("hello"); err != nil {
		t.Errorf("the other port: %v", err)
	}
	taken.Close()
	for end := time.Now().Add(20 * time.Second); s.Statuses()[0].Err != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(s.Statuses())
		}
	}
	if _, err := dial(t, addressOf(t, s, "tcp/1")).say("hello"); err != nil {
		t.Error(err)
	}
}

func TestUnknownTransport(t *testing.T) {
	s := newSet(t)
	if err := s.Apply([]*snapshot.Port{{Key: "sctp/53", Transport: "sctp"}}); err == nil || !strings.Contains(err.Error(), "sctp/53") {
		t.Errorf("%v", err)
	}
}

func TestSNI(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	listeners := []*snapshot.Listener{
		{Key: "exact", Hostname: "shop.example.com", TLS: a.issue(t, 1, "shop.example.com")},
		{Key: "wild", Hostname: "*.example.com", TLS: a.issue(t, 2, "*.example.com", "a.b.example.com", "shop.example.com")},
	}
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1", listeners...)}); err != nil {
		t.Fatal(err)
	}
	address := addressOf(t, s, "tcp/1")
	for _, tt := range []struct {
		name   string
		serial int64
		want   string
	}{
		{"shop.example.com", 1, "exact,shop.example.com"},
		{"Shop.Example.COM", 1, "exact,shop.example.com"},
		{"x.example.com", 2, "wild,x.example.com"},
		{"a.b.example.com", 2, "wild,a.b.example.com"},
	} {
		c, err := a.dial(t, address, tt.name)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got, err := c.say("hello"); err != nil || got != "tcp/1 "+tt.want+",http/1.1 1 hello" || c.serial() != tt.serial {
			t.Errorf("%s: certificate %d, %q, %v", tt.name, c.serial(), got, err)
		}
	}
	for _, name := range []string{"example.org", "example.com", "127.0.0.1"} { // an address is no SNI
		if _, err := a.dial(t, address, name); err == nil {
			t.Errorf("%s: a handshake for nobody succeeded", name)
		}
	}
	plain := dial(t, address)
	if got, err := plain.say("GET / HTTP/1.1\r\n\r"); err != nil || !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("HTTP on the TLS port: %q, %v", got, err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	a, s := newAuthority(t), newSet(t, func(o *Options) { o.HandshakeTimeout = 20 * time.Millisecond })
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", TLS: a.issue(t, 1, "x")})}); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, addressOf(t, s, "tcp/1")).r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestCertificateSwap swaps certificates while clients shake hands.
func TestCertificateSwap(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	swap := func(config *snapshot.TLS) error {
		return s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", Hostname: "x.example", TLS: config})})
	}
	if err := swap(a.issue(t, 1, "x.example")); err != nil {
		t.Fatal(err)
	}
	address := addressOf(t, s, "tcp/1")
	old, err := a.dial(t, address, "x.example")
	if err != nil {
		t.Fatal(err)
	}

	var current atomic.Int64
	current.Store(1)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := current.Load()
				c, err := a.dial(t, address, "x.example")
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				if _, err := c.say("hello"); err != nil || c.serial() < least {
					t.Errorf("certificate %d after %d, %v", c.serial(), least, err)
				}
				c.Close()
			}
		})
	}
	for serial := int64(2); serial <= 50; serial++ {
		if err := swap(a.issue(t, serial, "x.example")); err != nil {
			t.Error(err)
		}
		current.Store(serial)
	}
	close(stop)
	clients.Wait()

	// A certificate that cannot be used leaves the one from before.
	err = swap(&snapshot.TLS{Certificates: []*snapshot.Certificate{{Source: snapshot.Ref{Kind: "Secret", Namespace: "shop", Name: "bad"}}}})
	if err == nil || !strings.Contains(err.Error(), "Secret shop/bad") {
		t.Errorf("%v", err)
	}
	if c, err := a.dial(t, address, "x.example"); err != nil || c.serial() != 50 {
		t.Errorf("after a bad certificate: %v", err)
	}
	if _, err := old.say("still here"); err != nil || old.serial() != 1 {
		t.Errorf("a connection from before: %v", err)
	}
}

// A listener that is left with no certificate was denied the one that it had:
// the Secret is gone, or the ReferenceGrant is.
func TestWithdrawnCertificate(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	apply := func(config *snapshot.TLS) error {
		return s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", Hostname: "x.example", TLS: config})})
	}
	if err := apply(a.issue(t, 1, "x.example")); err != nil {
		t.Fatal(err)
	}
	address := addressOf(t, s, "tcp/1")
	c, err := a.dial(t, address, "x.example")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := apply(&snapshot.TLS{}); err != nil {
		t.Errorf("what status says already is an error: %v", err)
	}
	if c, err := a.dial(t, address, "x.example"); err == nil {
		_ = c.Close()
		t.Error("a withdrawn certificate is still served")
	}
}
