package pipeline

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
)

const (
	// mirrorContent is the most content that is copied for a mirror.
	mirrorContent = 64 << 10
	// mirrorTimeout bounds a copy's exchange where its rule has no timeout.
	mirrorTimeout = 30 * time.Second
)

// mirror sends copies of the request to the backend's mirrors. A copy is a request
// of its own on a goroutine of its own, made now and sent when the original's
// content, if any, has been read by the backend: so that the original neither
// waits nor fails for it. Where the copies in flight are as many as may be, or
// the content is too large, there is no copy. What both are answered is compared
// in metrics.
func (p *Pipeline) mirror(ex *exchange.Exchange, st *state) {
	if ex.Out.Upgrade != "" {
		return
	}
	var tee *teeBody
	for i := range st.backend.mirrors {
		m := &st.backend.mirrors[i]
		if m.cluster == nil || !m.sampled() {
			continue
		}
		if ex.Out.Length > mirrorContent {
			m.metrics.Dropped()
			continue
		}
		if p.mirrored.Add(1) > int64(p.opts.MaxMirrors) {
			p.mirrored.Add(-1)
			m.metrics.Dropped()
			continue
		}
		c := newCopy(ex, m, st.rule)
		st.copies = append(st.copies, c)
		if ex.Out.Body == nil {
			p.launch(c, nil)
			continue
		}
		if tee == nil {
			tee = &teeBody{Body: ex.Out.Body, p: p, length: ex.Out.Length}
			ex.Out.Body = tee
		}
		tee.copies = append(tee.copies, c)
	}
}

// copied is a request for a mirror.
type copied struct {
	ex      *exchange.Exchange
	to      *mirror
	timeout time.Duration
	began   time.Time // the request that it is of

	// Who has his reply last, of the two, compares them.
	primary, mirror observe.Reply
	replies         atomic.Int32
}

func newCopy(ex *exchange.Exchange, to *mirror, r *rule) *copied {
	timeout := r.requestTimeout
	if timeout == 0 {
		timeout = mirrorTimeout
	}
	return &copied{ex: duplicate(ex), to: to, timeout: timeout, began: time.Now()}
}

// duplicate returns an exchange with the same request, as it is sent, and without
// its content and trailers. Nothing of it is the original's, so that it may
// outlive that. Nobody is there for interim responses.
func duplicate(ex *exchange.Exchange) *exchange.Exchange {
	dup := &exchange.Exchange{Conn: ex.Conn, Client: exchange.Nobody{}, ClientIP: ex.ClientIP, Route: ex.Route}
	own := func(s string) string { return dup.Arena.Concat(s) }
	from, out := &ex.Out, &dup.Out
	*out = exchange.Request{
		Method: own(from.Method), Scheme: own(from.Scheme), Authority: own(from.Authority), Host: own(from.Host),
		Path: own(from.Path), Query: own(from.Query), HasQuery: from.HasQuery, Proto: from.Proto, Length: from.Length,
		Fields: make(exchange.Fields, len(from.Fields)),
	}
	for i, f := range ex.Out.Fields {
		out.Fields[i] = exchange.Field{Key: f.Key, Name: own(f.Name), Value: own(f.Value)}
	}
	dup.In.Method, dup.In.Proto, dup.In.Scheme = out.Method, ex.In.Proto, out.Scheme
	dup.RequestID, dup.Path = own(ex.RequestID), out.Path
	dup.Consumer = exchange.Consumer{Name: own(ex.Consumer.Name), Method: own(ex.Consumer.Method), Claims: ex.Consumer.Claims}
	for _, c := range ex.NewCookies {
		dup.NewCookies = append(dup.NewCookies, exchange.NewCookie{Name: c.Name, Value: own(c.Value), SetCookie: own(c.SetCookie)})
	}
	return dup
}

// answered says what the request that it is of was answered, before filters have
// changed that.
func (c *copied) answered(ex *exchange.Exchange, err error) {
	if err == nil && !ex.Response.Local { // else by a fallback
		c.primary = observe.Reply{Status: ex.Response.Status, Length: ex.Response.Length, Took: time.Since(c.began)}
	}
	c.replied()
}

func (c *copied) replied() {
	if c.replies.Add(1) == 2 {
		c.to.metrics.Compared(c.primary, c.mirror)
	}
}

func (p *Pipeline) launch(c *copied, content []byte) {
	p.copies.Add(1)
	go func() {
		defer p.copies.Done()
		defer p.mirrored.Add(-1)
		c.send(content)
	}()
}

func (c *copied) send(content []byte) {
	defer c.replied()
	ex := c.ex
	ex.Start = time.Now()
	ex.Deadline = ex.Start.Add(c.timeout)
	if content != nil {
		ex.Out.Body, ex.Out.Length = &heldBody{content: content}, int64(len(content))
	}
	lease, err := c.to.cluster.RoundTrip(ex)
	if err != nil {
		return
	}
	c.mirror = observe.Reply{Status: ex.Response.Status, Length: ex.Response.Length, Took: time.Since(ex.Start)}
	// Read to its end, so that the connection can be used again.
	for body := ex.Response.Body; body != nil; {
		if _, err := body.Next(); err != nil {
			if err != io.EOF {
				c.mirror.Status = 0
			}
			break
		}
	}
	closeBody(ex.Response.Body)
	if ex.Response.Tunnel != nil {
		_ = ex.Response.Tunnel.Close()
	}
	lease.Release()
}

// Wait waits for the mirrored and hedged requests in flight, until ctx ends.
func (p *Pipeline) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		p.copies.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// teeBody keeps what passes through it, and launches the copies with it at the
// content's end. Next belongs to one goroutine; Close may come from another.
type teeBody struct {
	exchange.Body
	p       *Pipeline
	length  int64 // as Request.Length
	copies  []*copied
	content []byte
	over    atomic.Bool // the copies were launched or dropped
}

func (b *teeBody) Next() ([]byte, error) {
	part, err := b.Body.Next()
	if b.over.Load() {
		return part, err
	}
	if err == nil && len(b.content)+len(part) <= mirrorContent {
		b.content = append(b.content, part...)
	} else if err != io.EOF {
		b.drop()
		return part, err
	}
	// Who knows the length may not ask for the end.
	if (err == io.EOF || int64(len(b.content)) == b.length) && b.end() {
		for _, c := range b.copies {
			b.p.launch(c, b.content[:len(b.content):len(b.content)])
		}
	}
	return part, err
}

func (b *teeBody) Close() {
	b.drop()
	b.Body.Close()
}

func (b *teeBody) end() bool { return b.over.CompareAndSwap(false, true) }

func (b *teeBody) drop() {
	if !b.end() {
		return
	}
	b.p.mirrored.Add(-int64(len(b.copies)))
	for _, c := range b.copies {
		c.to.metrics.Dropped()
	}
}
