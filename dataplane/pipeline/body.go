package pipeline

import (
	"errors"
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
)

// keepBuffer is how large a buffer may be to stay with an exchange.
const keepBuffer = 64 << 10

// heldBody is content that was read to its end before filters ran.
type heldBody struct {
	content []byte
	read    bool
}

func (b *heldBody) Next() ([]byte, error) {
	if b.read || len(b.content) == 0 {
		return nil, io.EOF
	}
	b.read = true
	return b.content, nil
}

func (b *heldBody) Ready() bool { return true }

// Close does nothing: it may come while another goroutine is in Next.
func (b *heldBody) Close() {}

// rewind makes the content be there again, after a filter has read it.
func (b *heldBody) rewind() { b.read = false }

// reuse returns the body for the next exchange.
func (b *heldBody) reuse() heldBody {
	if cap(b.content) > keepBuffer {
		return heldBody{}
	}
	return heldBody{content: b.content[:0]}
}

// hold reads the request's content into memory, up to limit bytes. It reports
// false if it has answered instead.
func (st *state) hold(ex *exchange.Exchange, limit int64) bool {
	body := ex.Out.Body
	switch {
	case body == nil:
		return true
	case body == exchange.Body(&st.held): // an earlier filter's wish
		if int64(len(st.held.content)) > limit {
			tooLarge(ex)
			return false
		}
		return true
	case ex.Out.Length > limit:
		tooLarge(ex) // before a byte of it is asked for, RFC 9110 section 10.1.1
		return false
	}
	for {
		part, err := body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			client := &exchange.ClientError{Status: http400, Reason: "content_unreadable", Err: err}
			errors.As(err, &client)
			failClient(ex, client)
			return false
		}
		if int64(len(st.held.content)+len(part)) > limit {
			tooLarge(ex)
			return false
		}
		st.held.content = append(st.held.content, part...)
	}
	ex.Out.Body, ex.Out.ExpectContinue = &st.held, false
	if len(ex.Out.Trailers) == 0 {
		ex.Out.Length = int64(len(st.held.content))
	}
	return true
}

// limitedBody is content of unknown length under a listener's bound.
type limitedBody struct {
	exchange.Body
	left int64
}

func (b *limitedBody) Next() ([]byte, error) {
	part, err := b.Body.Next()
	if b.left -= int64(len(part)); b.left < 0 {
		return nil, &exchange.ClientError{
			Status: http413, Reason: "content_too_large",
			Err: errors.New("the request's content is larger than its listener takes"),
		}
	}
	return part, err
}

// admits keeps the bounds that the listener sets its clients. It reports false
// if it has answered.
func (l *listener) admits(ex *exchange.Exchange, st *state) bool {
	if l.headers > 0 && len(ex.In.Fields) > l.headers {
		ex.Answer(http431, "too_many_fields", "The request has more header fields than this listener takes.\n")
		return false
	}
	if l.headerBytes > 0 {
		in := &ex.In
		size := len(in.Method) + len(in.Path) + len(in.Query) + len(in.Authority)
		for i := range in.Fields {
			size += len(in.Fields[i].Name) + len(in.Fields[i].Value) + len(": \r\n")
		}
		if size > l.headerBytes {
			ex.Answer(http431, "fields_too_large", "The request's header section is larger than this listener takes.\n")
			return false
		}
	}
	if l.bodyBytes != 0 && ex.In.Body != nil {
		limit := max(l.bodyBytes, 0)
		if ex.In.Length > limit {
			tooLarge(ex)
			return false
		}
		if ex.In.Length < 0 {
			st.limited = limitedBody{Body: ex.In.Body, left: limit}
			ex.Out.Body = &st.limited
		}
	}
	return true
}
