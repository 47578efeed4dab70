package h3

import (
	"errors"
	"io"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/section"
	"github.com/headgate/headgate/dataplane/syntax"
)

// takeOut returns the empty buffer in which a response is gathered.
func (st *stream) takeOut() []byte {
	if st.out == nil {
		st.out = link.TakeBuffer(link.SmallBuffer)
	}
	return st.out[:0]
}

// respond sends ex.Response.
func (st *stream) respond() error {
	ex := &st.ex
	r := &ex.Response
	if r.Status < 200 || r.Status > 599 {
		ex.Answer(500, "no_response", "")
	}
	body := r.Body
	if section.Bodiless(ex.In.Method, r.Status) {
		body = nil
	}
	st.beginResponse(r, body)
	if body != nil {
		if err := st.sendContent(r, body); err != nil {
			return err
		}
		if len(r.Trailers) > 0 {
			st.appendTrailers(r.Trailers)
		}
	}
	return st.endResponse()
}

// beginResponse gathers the header section.
func (st *stream) beginResponse(r *exchange.Response, body exchange.Body) {
	st.writing.Lock()
	st.answered = true
	st.writing.Unlock()
	out := appendStatus(beginSection(beginHeaders(st.takeOut())), r.Status)
	dated := false
	for i := range r.Fields {
		f := &r.Fields[i]
		if section.Unsent[f.Key] {
			continue
		}
		dated = dated || f.Key == exchange.KeyDate
		out = appendField(out, f)
	}
	if !dated {
		out = appendField(out, section.Date())
	}
	if n := section.Length(r, st.ex.In.Method, body); n >= 0 {
		out = appendLength(out, n)
	}
	st.out = endHeaders(out, 0)
}

// sendContent sends the content: as one frame if its length is known, else as
// it comes.
func (st *stream) sendContent(r *exchange.Response, body exchange.Body) error {
	left := r.Length
	if left > 0 {
		st.out = appendFrameHeader(st.out, frameData, left)
	}
	if !st.ex.Await(body) {
		return exchange.ErrAbandoned
	}
	defer st.ex.Await(nil)
	for {
		if !body.Ready() {
			if err := st.flush(); err != nil {
				return err
			}
		}
		p, err := body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if len(p) == 0 {
			continue
		}
		if left < 0 {
			st.out = appendFrameHeader(st.out, frameData, int64(len(p)))
		} else if left -= int64(len(p)); left < 0 {
			return errContentLong
		}
		if err := st.add(p); err != nil {
			return err
		}
		st.ex.Sent += int64(len(p))
	}
	if left > 0 {
		return errContentShort
	}
	return nil
}

// appendTrailers gathers a trailer section, or nothing if nothing of it may be sent.
func (st *stream) appendTrailers(trailers exchange.Fields) {
	start := len(st.out)
	out := beginSection(beginHeaders(st.out))
	empty := len(out)
	for i := range trailers {
		if f := &trailers[i]; syntax.MayTrail(f.Key) && !section.Unsent[f.Key] {
			out = appendField(out, f)
		}
	}
	if len(out) > empty {
		st.out = endHeaders(out, start)
	}
}

// add sends content, of which a little may stay gathered.
func (st *stream) add(p []byte) error {
	room := cap(st.out) - len(st.out)
	if len(p) <= room {
		st.out = append(st.out, p...)
		return nil
	}
	if room > 0 && len(st.out) > 0 {
		// So that what was gathered does not make a packet of its own.
		st.out = append(st.out, p[:room]...)
		p = p[room:]
	}
	if err := st.flush(); err != nil {
		return err
	}
	if len(p) <= cap(st.out) {
		st.out = append(st.out, p...)
		return nil
	}
	return st.write(p)
}

// flush writes what is gathered.
func (st *stream) flush() error {
	if len(st.out) == 0 {
		return nil
	}
	err := st.write(st.out)
	st.out = st.out[:0]
	return err
}

// write returns when the client's windows let the bytes pass. WriteTimeout is
// for a buffer of them, however many there are.
func (st *stream) write(p []byte) error {
	for len(p) > 0 {
		if !st.timer.Write(st.c.opts.WriteTimeout) {
			return errNotRead
		}
		n, err := st.str.Write(p[:min(len(p), link.LargeBuffer)])
		st.timer.Write(0)
		if err != nil {
			return st.unwritten(err)
		}
		p = p[n:]
	}
	return nil
}

// unwritten tells why writing failed.
func (st *stream) unwritten(err error) error {
	var reset *quic.StreamError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		st.c.provoke()
		return errNotRead
	case errors.As(err, &reset) && reset.Remote:
		st.c.reset()
		return errReset
	case errors.As(err, &reset):
		return errMalformed // by who pulls the content
	}
	return errConnLost
}

// endResponse ends our side of the stream.
func (st *stream) endResponse() error {
	if err := st.flush(); err != nil {
		return err
	}
	if err := st.str.Close(); err != nil {
		st.c.reset()
		return errReset
	}
	st.responded = true
	return nil
}

// Inform implements exchange.Client.
func (st *stream) Inform(status int, fields exchange.Fields) error {
	if status < 100 || status > 199 || status == 101 {
		return nil
	}
	return st.inform(status, fields)
}

// inform sends an interim response, from whichever goroutine.
func (st *stream) inform(status int, fields exchange.Fields) error {
	st.writing.Lock()
	defer st.writing.Unlock()
	if st.answered {
		return nil
	}
	out := appendStatus(beginSection(beginHeaders(link.TakeBuffer(link.SmallBuffer)[:0])), status)
	for i := range fields {
		if f := &fields[i]; !section.Unsent[f.Key] {
			out = appendField(out, f)
		}
	}
	out = endHeaders(out, 0)
	err := st.write(out)
	link.GiveBuffer(out)
	return err
}
