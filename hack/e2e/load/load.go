// Package load keeps asking an address, over connections that are kept and over
// new ones, and writes down every request that fails: when, at what, and why.
//
// It is a client that does nothing for its server's sake: no request is sent
// twice, but those that HTTP/2 says were never looked at (RFC 9113 section 8.7).
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what is asked, and how. Address and Host are required.
type Options struct {
	// Address is where to connect to, host:port.
	Address string
	// Host is the request's host, and the server's name in TLS.
	Host string
	// Method is GET if empty. A POST has content.
	Method string
	// Path is / if empty.
	Path string
	// TLS is nil for connections without. Its NextProtos are set by HTTP2.
	TLS *tls.Config
	// HTTP2 is over TLS, or by prior knowledge without.
	HTTP2 bool
	// Connections is how many ask at once, each over one connection; 1 if 0.
	Connections int
	// Fresh opens a new connection for each request.
	Fresh bool
	// Pause is between a response and the next request of the same connection.
	Pause time.Duration
	// Timeout bounds each of connecting and asking; 0 means 10 s.
	Timeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Method == "" {
		o.Method = "GET"
	}
	if o.Path == "" {
		o.Path = "/"
	}
	o.Connections = max(o.Connections, 1)
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
		o.TLS.ServerName = o.Host
		o.TLS.NextProtos = []string{"http/1.1"}
		if o.HTTP2 {
			o.TLS.NextProtos = []string{"h2"}
		}
	}
	return o
}

// Stage is how far a request had come when it failed.
type Stage string

const (
	Connect  Stage = "connect"  // nothing was sent
	Exchange Stage = "exchange" // sent, and no whole response came
	Response Stage = "response" // a whole response came, and not the right one
	Idle     Stage = "idle"     // no request was under way
)

// Failure is a request that failed.
type Failure struct {
	At    time.Time // when it had
	Stage Stage
	Cause string
}

func (f Failure) String() string {
	return fmt.Sprintf("%s %s: %s", f.At.Format("15:04:05.000"), f.Stage, f.Cause)
}

// Report is what came of it all.
type Report struct {
	Requests int // that had their answer
	Failures []Failure
	// Connections counts those that were opened. Announced of them ended after
	// the server had said that they would (Connection: close, GOAWAY).
	Connections, Announced int
	// Cut are those that the server ended without a word, between two requests.
	Cut []Failure
	// By counts the answers of each backend.
	By map[string]int
	// Slowest is the longest that an answer took.
	Slowest time.Duration
}

// Failed counts the failures of a stage.
func (r Report) Failed(stage Stage) int {
	n := 0
	for _, f := range r.Failures {
		if f.Stage == stage {
			n++
		}
	}
	return n
}

func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests answered by %d backends, the slowest in %v; %d connections, %d closed as announced, %d cut; %d requests failed",
		r.Requests, len(r.By), r.Slowest.Round(time.Millisecond), r.Connections, r.Announced, len(r.Cut), len(r.Failures))
	for _, all := range [][]Failure{r.Failures, r.Cut} {
		for i, f := range all {
			if i == 10 {
				fmt.Fprintf(&b, "\n  and %d more", len(all)-i)
				break
			}
			fmt.Fprintf(&b, "\n  %s", f)
		}
	}
	return b.String()
}

// Load is a load that runs. Its methods are safe for concurrent use.
type Load struct {
	opts Options
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex
	report Report
}

// client asks over one connection at a time.
type client interface {
	// ask sends one request and returns the content of its answer, which must
	// be a 200. An error is a *failed.
	ask(ctx context.Context) (body string, err error)
	// idle waits for at most d, and takes note if the server ends the connection.
	idle(d time.Duration, stop <-chan struct{})
	close()
}

// failed is an error with its stage.
type failed struct {
	stage Stage
	error
}

// Start begins. Stop must be called.
func Start(opts Options) *Load {
	l := &Load{opts: opts.withDefaults(), stop: make(chan struct{})}
	l.report.By = map[string]int{}
	for i := range l.opts.Connections {
		l.wg.Go(func() {
			// Not all in step.
			select {
			case <-time.After(time.Duration(i) * l.opts.Pause / time.Duration(l.opts.Connections)):
			case <-l.stop:
			}
			l.run()
		})
	}
	return l
}

func (l *Load) run() {
	var c client
	if l.opts.HTTP2 {
		c = newHTTP2(l)
	} else {
		c = &http1{load: l}
	}
	defer func() { c.close() }()
	for !l.stopped() {
		began := time.Now()
		// A request that has begun is seen through.
		ctx, cancel := context.WithTimeout(context.Background(), l.opts.Timeout)
		body, err := c.ask(ctx)
		cancel()
		l.note(body, err, time.Since(began))
		if l.opts.Fresh {
			c.close()
		}
		pause := l.opts.Pause
		if err != nil {
			pause = max(pause, 10*time.Millisecond)
		}
		c.idle(pause, l.stop)
	}
}

func (l *Load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *Load) note(body string, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.report.Requests++
		l.report.By[strings.TrimSpace(body)]++
		l.report.Slowest = max(l.report.Slowest, took)
		return
	}
	f := Failure{At: time.Now(), Stage: Exchange, Cause: err.Error()}
	var staged *failed
	if errors.As(err, &staged) {
		f.Stage = staged.stage
	}
	l.report.Failures = append(l.report.Failures, f)
}

// dial opens a connection, with TLS where that is asked for.
func (l *Load) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.opts.Address)
	if err == nil && l.opts.TLS != nil {
		secure := tls.Client(conn, l.opts.TLS)
		if err = secure.HandshakeContext(ctx); err != nil {
			conn.Close()
		}
		conn = secure
	}
	if err != nil {
		return nil, &failed{Connect, err}
	}
	l.count(func(r *Report) { r.Connections++ })
	return conn, nil
}

// cut takes note of a connection that ended without a word.
func (l *Load) cut(cause error) {
	l.count(func(r *Report) { r.Cut = append(r.Cut, Failure{time.Now(), Idle, cause.Error()}) })
}

func (l *Load) count(f func(*Report)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.report)
}

// Report returns what there is so far.
func (l *Load) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Failures, r.Cut = slices.Clone(r.Failures), slices.Clone(r.Cut)
	r.By = map[string]int{}
	for name, n := range l.report.By {
		r.By[name] = n
	}
	return r
}

// Stop lets the requests finish that have begun, and returns what came of all.
// It may be called again.
func (l *Load) Stop() Report {
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
	return l.Report()
}
