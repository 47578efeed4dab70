package h1

import (
	"errors"
	"io"
	"net"

	"github.com/headgate/headgate/dataplane/exchange"
)

var (
	errContentShort = errors.New("the response's content is shorter than its length")
	errContentLong  = errors.New("the response's content is longer than its length")
)

// respond sends ex.Response, and reports whether the connection can be kept.
func (s *ServerConn) respond(ex *exchange.Exchange) (keep bool, err error) {
	r := &ex.Response
	if r.Status < 200 || r.Status > 599 {
		ex.Answer(500, "no_response", "")
	}
	kind := framingOf(r, ex.In.Method, ex.In.Proto)
	keep = kind != framedClose && s.mayKeep(ex)

	w := &s.work.writer
	w.begin()
	w.out = appendStatus(w.out, r.Status, r.Reason)
	dated := false
	for i := range r.Fields {
		f := &r.Fields[i]
		if framed[f.Key] {
			continue
		}
		dated = dated || f.Key == exchange.KeyDate
		w.out = appendField(w.out, f.Name, f.Value)
	}
	if !dated {
		w.out = appendDate(w.out)
	}
	switch kind {
	case framedLength:
		w.out = appendLength(w.out, max(r.Length, 0))
	case framedChunked:
		w.out = append(w.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if !keep {
		w.out = append(w.out, "Connection: close\r\n"...)
	} else if ex.In.Proto == exchange.HTTP10 {
		w.out = append(w.out, "Connection: keep-alive\r\n"...)
	}
	w.out = append(w.out, '\r', '\n')

	if ex.In.ExpectContinue {
		s.interim.Lock()
		s.finalSent = true
		s.interim.Unlock()
	}
	if r.Body != nil && kind != framedNone && !bodiless(ex.In.Method, r.Status) {
		if err = exchange.ErrAbandoned; ex.Await(r.Body) {
			err = s.sendContent(ex, kind)
			ex.Await(nil)
		}
		if err != nil {
			s.cut(kind)
			return false, err
		}
	}
	return keep, w.flush()
}

// framingOf decides how the response is framed, RFC 9112 section 6.
func framingOf(r *exchange.Response, method string, proto exchange.Proto) framing {
	switch {
	case r.Status == 204 || method == "CONNECT" && r.Status < 300:
		return framedNone
	case r.Status == 304:
		if r.Length > 0 { // 0 is rather what nobody has set, RFC 9110 section 8.6
			return framedLength
		}
		return framedNone
	case method == "HEAD":
		if r.Length >= 0 {
			return framedLength
		}
		return framedNone
	case r.Body == nil:
		r.Length = 0
		return framedLength
	case r.Length >= 0:
		return framedLength
	case proto == exchange.HTTP10:
		return framedClose
	}
	return framedChunked
}

// bodiless reports whether a response has no content whatever it says.
func bodiless(method string, status int) bool {
	return method == "HEAD" || status == 204 || status == 304 || method == "CONNECT" && status < 300
}

// mayKeep decides whether the connection can carry another exchange, as far as
// that is known before the response is sent. The request's content may still
// be on its way, in another goroutine's hands.
func (s *ServerConn) mayKeep(ex *exchange.Exchange) bool {
	w := s.work
	switch {
	case !w.head.persistent, s.announced.Load(), s.opts.MaxRequests > 0 && s.requests >= s.opts.MaxRequests:
		return false
	case ex.In.Upgrade != "":
		// What came behind a refused upgrade may be of the other protocol.
		return w.in.r == w.in.w
	case w.body.complete.Load():
		return true
	case w.body.failed.Load(), ex.In.ExpectContinue:
		// Nobody can tell whether the client sends what it was not asked for.
		return false
	}
	return ex.In.Length <= drainLimit
}

// sendContent sends the response's content behind the head.
func (s *ServerConn) sendContent(ex *exchange.Exchange, kind framing) error {
	w, r := &s.work.writer, &ex.Response
	left := r.Length
	for {
		if !r.Body.Ready() {
			if err := w.flush(); err != nil {
				return err
			}
		}
		p, err := r.Body.Next()
		if err != nil {
			if err != io.EOF {
				_ = w.flush()
				return err
			}
			break
		}
		switch {
		case len(p) == 0:
			continue // an empty chunk would end the content
		case kind == framedChunked:
			err = w.addChunk(p)
		case kind == framedLength && int64(len(p)) > left:
			return errContentLong
		default:
			left -= int64(len(p))
			err = w.add(p, "")
		}
		if err != nil {
			return err
		}
		ex.Sent += int64(len(p))
	}
	switch {
	case kind == framedLength && left > 0:
		return errContentShort
	case kind == framedChunked:
		w.addTrailers(r.Trailers)
	}
	return nil
}

// cut ends the connection amid a response, so that the client cannot take what
// it got for all: where the end of the connection is the end of the content,
// that needs a reset.
func (s *ServerConn) cut(kind framing) {
	if c, ok := s.NC.(*net.TCPConn); ok && kind == framedClose {
		_ = c.SetLinger(0)
	}
}
