package h2

import (
	"cmp"
	"io"
	"time"

	"github.com/headgate/headgate/dataplane/link"
)

// requestBody is a stream as its request's content. The goroutine that pulls
// may be another than the one that serves.
type requestBody stream

// Ready implements exchange.Body.
func (b *requestBody) Ready() bool {
	st := (*stream)(b)
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return st.inbox.unread() || st.remoteClosed || st.err != nil || st.bodyErr != nil || st.bodyClosed
}

// Next implements exchange.Body. Its errors are *exchange.ClientError.
func (b *requestBody) Next() ([]byte, error) {
	st := (*stream)(b)
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	p, err := st.pull()
	if err == io.EOF && len(st.trailers) > 0 {
		st.ex.In.Trailers = append(st.ex.In.Trailers, st.trailers...)
		st.ex.Out.Trailers = append(st.ex.Out.Trailers, st.trailers...)
		st.trailers = st.trailers[:0]
	}
	return p, err
}

// pull returns the next content, and gives what it returned before back to the
// client's windows. mu is held.
func (st *stream) pull() ([]byte, error) {
	c := st.c
	waited := false
	for {
		if c.opts.Poison {
			link.Poison(st.view)
			st.view = nil
		}
		p := st.inbox.take()
		if st.lent > 0 && st.err == nil {
			c.giveConn(st.lent)
			c.giveStream(st, st.lent)
			st.lent = 0
		}
		switch {
		case st.bodyClosed:
			return nil, errBodyClosed
		case st.bodyErr != nil:
			return nil, st.bodyErr
		case p != nil:
			st.lent, st.view = len(p), p
			return p, nil
		case st.remoteClosed:
			return nil, io.EOF
		case st.err != nil:
			return nil, st.err
		}
		if waited {
			st.timer.Read(0)
		}
		st.informContinue()
		c.flush()
		if st.inbox.unread() || st.remoteClosed || st.err != nil || st.bodyClosed || st.bodyErr != nil || st.watch() {
			continue
		}
		limit := c.opts.BodyTimeout
		if st.tunnels || st.ex.In.IsGRPC() {
			// A call's messages come when there are any, as a tunnel's bytes do.
			limit = st.tunnelTimeout()
		}
		if !st.timer.Read(limit) {
			st.failBody(errBodySlow)
			continue
		}
		waited = true
		st.readable.Wait()
		st.timer.Read(0)
	}
}

// tunnelTimeout is how long a tunnel may be silent both ways.
func (st *stream) tunnelTimeout() time.Duration {
	return cmp.Or(st.ex.Timeouts.Tunnel, st.c.opts.TunnelTimeout)
}

// failBody makes the content end with an error. mu is held.
func (st *stream) failBody(err error) {
	if st.bodyErr == nil {
		st.bodyErr = err
		st.readable.Broadcast()
	}
}

// informContinue asks for the content, if the client waits for that. mu is held.
func (st *stream) informContinue() {
	c := st.c
	if !st.ex.In.ExpectContinue || st.answered || st.received > 0 || st.informed {
		return
	}
	st.informed = true
	start := len(c.out)
	c.out = endHeaders(appendStatus(c.enc.begin(beginHeaders(c.out)), 100), start, st.id, false, minFrameSize)
}

// Close implements exchange.Body.
func (b *requestBody) Close() {
	st := (*stream)(b)
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.bodyClosed {
		return
	}
	st.bodyClosed = true
	st.readable.Broadcast()
}
