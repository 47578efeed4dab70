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

// Ask asks an endpoint over a connection, or a connected socket of UDP, that was
// made for it, and closes it.
// The endpoint is spoken to in HTTP/2 or HTTP/1.1, and called by authority
// where the settings have no host. The error is why the check fails.
func Ask(ctx context.Context, nc net.Conn, http2 bool, authority string, settings *snapshot.HealthCheck) error {
	// Its end is all the patience there is: whatever is done with the
	// connection fails then.
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	var why error
	switch {
	case settings.HTTP != nil:
		why = askHTTP(nc, http2, authority, settings.HTTP)
	case settings.GRPC != nil:
		why = askGRPC(nc, authority, settings.GRPC)
	case settings.TCP != nil:
		why = askTCP(nc, settings.TCP)
	case settings.UDP != nil:
		why = askUDP(nc, settings.UDP)
	}
	var failed *exchange.UpstreamError
	switch {
	case why != nil && ctx.Err() != nil:
		return errSilent
	case errors.As(why, &failed):
		return fmt.Errorf("%s: %w", failed.Reason, failed.Err)
	}
	return why
}

var errSilent = errors.New("no answer in time")

func askHTTP(nc net.Conn, http2 bool, authority string, q *snapshot.HTTPHealthCheck) error {
	ex := request(cmp.Or(q.Method, "GET"), cmp.Or(q.Host, authority))
	out := &ex.Out
	out.Path, out.Query, out.HasQuery = strings.Cut(cmp.Or(q.Path, "/"), "?")
	for _, f := range q.Headers {
		out.Fields.Set(f.Name, f.Value)
	}
	trip := overHTTP1
	if http2 {
		trip = overHTTP2
	}
	return trip(nc, ex, func() error {
		status := ex.Response.Status
		if !accepts(q.Statuses, status) {
			return fmt.Errorf("status %d", status)
		}
		if q.BodyContains != "" {
			return contains(ex.Response.Body, q.BodyContains)
		}
		// It is not what is in it that counts, but what is there already is
		// taken: who closes on unread content resets the connection.
		for n, body := 0, ex.Response.Body; body != nil && n < maxContent && body.Ready(); {
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
	ex := &exchange.Exchange{Client: nobody{}}
	ex.Out = exchange.Request{
		Method: method, Scheme: "http", Authority: authority, Proto: exchange.HTTP11,
		Fields: exchange.Fields{{Key: exchange.KeyUserAgent, Name: "User-Agent", Value: userAgent}},
	}
	return ex
}

// overHTTP1 sends a request, and calls answered while the response can be read.
func overHTTP1(nc net.Conn, ex *exchange.Exchange, answered func() error) error {
	client := h1.NewClientConn(nc, nil)
	defer client.Close()
	defer client.Finish()
	if err := client.RoundTrip(ex); err != nil {
		return err
	}
	return answered()
}

// overHTTP2 is overHTTP1 for HTTP/2.
func overHTTP2(nc net.Conn, ex *exchange.Exchange, answered func() error) error {
	client := h2.NewClientConn(nc, nil)
	defer client.Close()
	s := client.Open()
	client.Start(nil)
	defer client.Drain() // says goodbye, with no stream left
	defer s.Finish()
	if err := s.RoundTrip(ex); err != nil {
		return err
	}
	return answered()
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

// nobody waits for interim responses.
type nobody struct{}

func (nobody) Inform(int, exchange.Fields) error { return nil }
