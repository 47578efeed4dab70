package extauth

import (
	"errors"
	"io"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

const (
	// maxAnswer is the most content of an answer, in bytes. A denial's content
	// goes to the client, so it may be a page.
	maxAnswer = 256 << 10
	// keepBuffer is how large a buffer may be to be used again.
	keepBuffer = 64 << 10
	// maxTries is how often a question is sent in all. Asking twice does no harm.
	maxTries = 2
)

// call is one question: an exchange of its own, on the goroutine that serves
// the client's.
type call struct {
	ex      exchange.Exchange
	content content
	turn    uint64
	lease   exchange.Lease
	// message is what a gRPC call sends, answer the content that came back.
	message, answer []byte
}

// send sends the question and reads all of the answer. It ends early if the
// client goes.
func (c *call) send(ex *exchange.Exchange, to policy.Upstream, deadline time.Time) error {
	c.ex.Conn, c.ex.ClientIP, c.ex.Route = ex.Conn, ex.ClientIP, ex.Route
	c.ex.Start, c.ex.Deadline = ex.Start, deadline
	c.ex.In.Method, c.ex.In.Proto, c.ex.In.Scheme = c.ex.Out.Method, exchange.HTTP11, c.ex.Out.Scheme
	c.turn = c.ex.Turn()
	if !ex.Await(c) {
		return errUnavailable
	}
	err := c.exchange(to)
	ex.Await(nil)
	return err
}

// Close implements exchange.Closer: the client has gone.
func (c *call) Close() { c.ex.Abandon(c.turn) }

func (c *call) exchange(to policy.Upstream) error {
	for tries := 1; ; tries++ {
		lease, err := to.RoundTrip(&c.ex)
		if err == nil {
			c.lease = lease
			return c.read()
		}
		var up *exchange.UpstreamError
		if !errors.As(err, &up) {
			return errUnavailable // the client has gone
		}
		if up.Reason == "malformed_response" {
			return errMalformed
		}
		if up.Stage != exchange.Stale || tries == maxTries {
			return errUnavailable
		}
		c.content.read = false
	}
}

// read reads the answer's content.
func (c *call) read() error {
	body := c.ex.Response.Body
	if body == nil {
		return nil
	}
	for {
		part, err := body.Next()
		c.answer = append(c.answer, part...)
		switch {
		case len(c.answer) > maxAnswer:
			return errMalformed
		case err == io.EOF:
			return nil
		case err != nil && c.ex.Response.Status != 200 && c.ex.Response.Status < 500:
			return errMalformed // it has refused, whatever is missing of why
		case err != nil:
			return errUnavailable
		}
	}
}

// end gives everything back, also the call.
func (c *call) end() {
	if body := c.ex.Response.Body; body != nil {
		body.Close()
	}
	if tunnel := c.ex.Response.Tunnel; tunnel != nil {
		_ = tunnel.Close()
	}
	if c.lease != nil {
		c.lease.Release()
		c.lease = nil
	}
	c.ex.Reset()
	c.ex.Conn = nil
	c.content = content{}
	if cap(c.message) > keepBuffer {
		c.message = nil
	}
	if cap(c.answer) > keepBuffer {
		c.answer = nil
	}
	c.message, c.answer = c.message[:0], c.answer[:0]
	calls.Put(c)
}

// holds makes the call's request have content.
func (c *call) holds(bytes []byte) {
	c.content.bytes = bytes
	c.ex.Out.Body, c.ex.Out.Length = &c.content, int64(len(bytes))
}

// content is content that is all there.
type content struct {
	bytes []byte
	read  bool
}

func (b *content) Next() ([]byte, error) {
	if b.read || len(b.bytes) == 0 {
		return nil, io.EOF
	}
	b.read = true
	return b.bytes, nil
}

func (b *content) Ready() bool { return true }

// Close does nothing: it may come while another goroutine is in Next.
func (b *content) Close() {}
