package h2

import (
	"errors"
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/section"
)

// tunnel answers CONNECT, and if that succeeded carries bytes both ways until
// both directions have ended or one has failed.
func (st *stream) tunnel() error {
	if !section.Upgrade(&st.ex) {
		return st.respond()
	}
	c, r := st.c, &st.ex.Response
	t := r.Tunnel
	defer t.Close()
	c.mu.Lock()
	if st.err != nil {
		defer c.mu.Unlock()
		return st.err
	}
	st.appendHead(r, (*requestBody)(st), false)
	c.flush()
	c.mu.Unlock()
	if !st.ex.Await(tunnelCloser{t}) {
		return exchange.ErrAbandoned
	}
	defer st.ex.Await(nil)

	up := &upward{st: st, t: t, done: make(chan error, 1)}
	pool.Start(up)
	err := st.carryDown(t)
	return errors.Join(err, <-up.done)
}

// tunnelCloser is a tunnel as what an exchange waits for.
type tunnelCloser struct{ t exchange.Tunnel }

func (c tunnelCloser) Close() { _ = c.t.Close() }

// upward carries what the client sends.
type upward struct {
	st   *stream
	t    exchange.Tunnel
	done chan error
}

// Run implements link.Task.
func (u *upward) Run() {
	err := u.carry()
	if err != nil {
		_ = u.t.Close()
	}
	u.done <- err
}

func (u *upward) carry() error {
	for {
		u.st.c.mu.Lock()
		p, err := u.st.pull()
		u.st.c.mu.Unlock()
		if err == io.EOF {
			return u.t.CloseWrite()
		}
		if err != nil {
			return err
		}
		if _, err := u.t.Write(p); err != nil {
			return err
		}
	}
}

// carryDown carries what the upstream sends.
func (st *stream) carryDown(t exchange.Tunnel) error {
	c := st.c
	buf := link.TakeBuffer(link.MediumBuffer)
	defer link.GiveBuffer(buf)
	for {
		n, err := t.Read(buf)
		c.mu.Lock()
		if n > 0 {
			if err := st.write(buf[:n], false); err != nil {
				st.failBody(errReset)
				c.mu.Unlock()
				_ = t.Close()
				return err
			}
			c.flush()
			if st.timed {
				st.timer.Read(c.opts.TunnelTimeout) // it is not silent
			}
		}
		if err == io.EOF {
			c.out = appendData(c.out, st.id, nil, true)
			err = st.flushEnd()
			c.mu.Unlock()
			return err
		}
		if err != nil {
			st.failBody(errReset)
			c.mu.Unlock()
			return err
		}
		c.mu.Unlock()
	}
}
