package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// maxContent is how much of a response is read.
const maxContent = 64 << 10

// userAgent says who asks.
const userAgent = "Headgate-HealthCheck"

// Conn is a connection to an endpoint, or a connected socket of UDP, over which it is
// asked: once, or by HTTP and gRPC again and again. It is not safe for concurrent use.
type Conn struct {
	nc    net.Conn
	muxed bool
	// One of these is made with the first request.
	http1 *h1.ClientConn
	http2 *h2.ClientConn
	// open says that the last check has left the connection as one that can have another.
	open bool
}

// NewConn takes a connection over, which speaks HTTP/2 or HTTP/1.1.
func NewConn(nc net.Conn, http2 bool) *Conn { return &Conn{nc: nc, muxed: http2} }

// ErrStale says that nothing is known of the endpoint but that it had closed a
// connection over which it was asked before.
var ErrStale = errors.New("the connection had ended")

// Ask asks the endpoint, which is called by authority where the settings have no
// host. The error is why the check fails, or ErrStale.
func (c *Conn) Ask(ctx context.Context, authority string, settings *snapshot.HealthCheck) error {
	again := c.open
	c.open = false
	// Its end is all the patience there is: whatever is done with the
	// connection fails then.
	inTime := context.AfterFunc(ctx, func() { c.nc.Close() })
	var why error
	switch {
	case settings.HTTP != nil:
		why = c.askHTTP(authority, settings)
	case settings.GRPC != nil:
		why = c.askGRPC(authority, settings.GRPC)
	case settings.TCP != nil:
		why = askTCP(c.nc, settings.TCP)
	case settings.UDP != nil:
		why = askUDP(c.nc, settings.UDP)
	}
	if !inTime() {
		c.open = false
	}
	var failed *exchange.UpstreamError
	switch {
	case why != nil && ctx.Err() != nil:
		return errSilent
	case errors.As(why, &failed):
		if again && (failed.Stage == exchange.Stale || failed.Unsent) {
			return ErrStale
		}
		return fmt.Errorf("%s: %w", failed.Reason, failed.Err)
	}
	return why
}

// Open reports whether the endpoint can be asked over the connection again: by HTTP or gRPC,
// after a check that has passed.
func (c *Conn) Open() bool { return c.open }

// Close closes the connection.
func (c *Conn) Close() {
	if c.http2 != nil {
		c.http2.Drain() // says goodbye, with no stream left
		c.http2.Close()
	}
	if c.http1 != nil {
		c.http1.Close()
	}
	c.nc.Close()
}

var errSilent = errors.New("no answer in time")

func (c *Conn) askHTTP(authority string, settings *snapshot.HealthCheck) error {
	q := settings.HTTP
	ex := request(cmp.Or(q.Method, "GET"), cmp.Or(q.Host, authority))
	out := &ex.Out
	out.Path, out.Query, out.HasQuery = strings.Cut(cmp.Or(q.Path, "/"), "?")
	for _, f := range q.Headers {
		out.Fields.Set(f.Name, f.Value)
	}
	return c.trip(ex, func() error {
		status := ex.Response.Status
		if !accepts(q.Statuses, status) {
			return fmt.Errorf("status %d", status)
		}
		if q.BodyContains != "" {
			if err := contains(ex.Response.Body, q.BodyContains); err != nil {
				return err
			}
		}
		// It is not what is in it that counts, but what is there already is
		// taken: who closes on unread content resets the connection. Who is to
		// ask again takes all of it.
		for n, body := 0, ex.Response.Body; body != nil && n < maxContent && (settings.ReuseConnection || body.Ready()); {
			p, err := body.Next()
			if err != nil {
				break
			}
			n += len(p)
		}
		return nil
	})
}

func accepts(ranges []snapshot.StatusRange, status int) bool {
	if len(ranges) == 0 {
		return status >= 200 && status < 400
	}
	return slices.ContainsFunc(ranges, func(r snapshot.StatusRange) bool { return r.From <= status && status <= r.To })
}

// request begins a request.
func request(method, authority string) *exchange.Exchange {
	ex := &exchange.Exchange{Client: exchange.Nobody{}}
	ex.Out = exchange.Request{
		Method: method, Scheme: "http", Authority: authority, Proto: exchange.HTTP11,
		Fields: exchange.Fields{{Key: exchange.KeyUserAgent, Name: "User-Agent", Value: userAgent}},
	}
	return ex
}

// trip sends a request, and calls answered while the response can be read.
func (c *Conn) trip(ex *exchange.Exchange, answered func() error) error {
	if c.muxed {
		return c.tripHTTP2(ex, answered)
	}
	if c.http1 == nil {
		c.http1 = h1.NewClientConn(c.nc, nil)
	}
	err := c.http1.RoundTrip(ex)
	if err == nil {
		err = answered()
	}
	c.open = c.http1.Finish() && err == nil
	return err
}

func (c *Conn) tripHTTP2(ex *exchange.Exchange, answered func() error) error {
	begin := c.http2 == nil
	if begin {
		c.http2 = h2.NewClientConn(c.nc, nil)
	}
	s := c.http2.Open()
	if s == nil { // it takes no more
		return &exchange.UpstreamError{Stage: exchange.Stale, Reason: "closed", Err: ErrStale}
	}
	if begin {
		c.http2.Start(nil)
	}
	err := s.RoundTrip(ex)
	if err == nil {
		err = answered()
	}
	s.Finish()
	c.open = err == nil && c.http2.Load().Usable
	return err
}

// readAll reads a response's content, which must be short.
func readAll(body exchange.Body) ([]byte, error) {
	var content []byte
	for body != nil {
		p, err := body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if content = append(content, p...); len(content) > maxContent {
			return nil, errors.New("the answer is too long")
		}
	}
	return content, nil
}
