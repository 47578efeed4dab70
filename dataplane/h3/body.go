package h3

import (
	"cmp"
	"errors"
	"io"
	"os"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/section"
)

// requestBody is a stream as its request's content. The goroutine that pulls
// may be another than the one that serves.
type requestBody stream

// Ready implements exchange.Body. What QUIC has received and we have not read
// does not count, since nobody can tell whether there is any.
func (b *requestBody) Ready() bool {
	st := (*stream)(b)
	st.pulling.Lock()
	defer st.pulling.Unlock()
	return st.in.r < st.in.w || st.in.end || st.ended || st.bodyErr != nil || st.bodyClosed.Load()
}

// Next implements exchange.Body. Its errors are *exchange.ClientError.
func (b *requestBody) Next() ([]byte, error) {
	st := (*stream)(b)
	st.pulling.Lock()
	defer st.pulling.Unlock()
	p, err := st.pull()
	if err == io.EOF && len(st.trailers) > 0 {
		st.ex.In.Trailers = append(st.ex.In.Trailers, st.trailers...)
		st.ex.Out.Trailers = append(st.ex.Out.Trailers, st.trailers...)
		st.trailers = st.trailers[:0]
	}
	return p, err
}

// Close implements exchange.Body.
func (b *requestBody) Close() {
	st := (*stream)(b)
	if !st.bodyClosed.Swap(true) {
		_ = st.str.SetReadDeadline(link.LongAgo) // who is in Next returns
	}
}

// pull returns the next content. pulling is held.
func (st *stream) pull() ([]byte, error) {
	in := &st.in
	if st.c.opts.Poison {
		link.Poison(st.view)
		st.view = nil
	}
	for {
		switch {
		case st.bodyClosed.Load():
			return nil, errBodyClosed
		case st.bodyErr != nil:
			return nil, st.bodyErr
		case st.left > 0 && in.r < in.w:
			n := int(min(st.left, int64(in.w-in.r)))
			p := in.buf[in.r : in.r+n : in.r+n]
			in.r += n
			st.left -= int64(n)
			st.received.Add(int64(n))
			st.view = p
			return p, nil
		case st.ended:
			return nil, io.EOF
		}
		if in.r == in.w {
			st.wait()
		}
		if err := st.advance(); err != nil {
			st.bodyErr = st.explain(err)
		}
		st.timer.Read(0)
	}
}

// wait prepares for reading: the client may be late, or wait for us.
func (st *stream) wait() {
	limit := st.c.opts.BodyTimeout
	if st.tunnels || st.ex.In.IsGRPC() {
		// A call's messages come when there are any, as a tunnel's bytes do.
		limit = st.tunnelTimeout()
	}
	if !st.timer.Read(limit) {
		st.bodyErr = errBodySlow
		return
	}
	st.in.enlarge()
	if st.ex.In.ExpectContinue && !st.readsContinue.Swap(true) {
		_ = st.inform(100, nil)
	}
}

// tunnelTimeout is how long a tunnel may be silent both ways.
func (st *stream) tunnelTimeout() time.Duration {
	return cmp.Or(st.ex.Timeouts.Tunnel, st.c.opts.TunnelTimeout)
}

// advance reads up to the next content, or the end of it.
func (st *stream) advance() error {
	if st.bodyErr != nil {
		return st.bodyErr
	}
	if st.left > 0 {
		if err := st.in.fill(); err != io.EOF {
			return err
		}
		return errCutOff
	}
	h, err := st.in.header()
	if err == io.EOF {
		st.ended = true
		if st.declared >= 0 && st.received.Load() != st.declared {
			return st.broken("content_length")
		}
		return nil
	}
	if err != nil {
		return err
	}
	switch h.kind {
	case frameData:
		return st.takeData(h.length)
	case frameHeaders:
		return st.takeTrailers(h.length)
	}
	return st.other(h)
}

func (st *stream) takeData(length int64) error {
	switch {
	case st.trailed:
		return errFrameUnexpected // RFC 9114 section 4.1
	case st.declared >= 0 && length > st.declared-st.received.Load():
		return st.broken("content_length") // RFC 9114 section 4.1.2
	case st.c.opts.MaxBody > 0 && length > st.c.opts.MaxBody-st.received.Load():
		return errBodyLong
	case length == 0:
		return st.c.nothingErr(2)
	}
	st.left = length
	st.readsContinue.Store(true)
	return nil
}

func (st *stream) takeTrailers(length int64) error {
	if st.trailed || st.tunnels {
		return errFrameUnexpected // RFC 9114 sections 4.1 and 4.4
	}
	st.trailed = true
	if length > int64(2*st.c.opts.MaxHeaderBytes) {
		return st.broken("trailers_too_large")
	}
	if err := st.in.need(int(length)); err != nil {
		return err
	}
	if err := st.dec.decode(st.in.buffered()[:length], section.Trailers, &st.trailers, &st.trailerArena); err != nil {
		return err
	}
	st.in.r += int(length)
	switch {
	case st.dec.Malformed != "":
		return st.broken(st.dec.Malformed)
	case st.dec.TooLarge:
		return st.broken("trailers_too_large")
	}
	return nil
}

// broken ends the stream because its content is malformed.
func (st *stream) broken(reason string) error {
	st.breakOff(reason)
	return errMalformed
}

// explain tells why reading failed.
func (st *stream) explain(err error) error {
	var client *exchange.ClientError
	var bad *connError
	var reset *quic.StreamError
	switch {
	case errors.As(err, &client):
		return err
	case err == errCutOff:
		st.c.fail(errFrame)
		return errMalformed
	case errors.As(err, &bad):
		st.c.fail(bad)
		return errMalformed
	case errors.Is(err, os.ErrDeadlineExceeded):
		if st.bodyClosed.Load() {
			return errBodyClosed
		}
		return errBodySlow
	case errors.As(err, &reset):
		st.reset = true
		st.c.reset()
		return errReset
	}
	return errConnLost
}
