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
	if !st.ex.Await(section.TunnelCloser{Tunnel: t}) {
		return exchange.ErrAbandoned
	}
	defer st.ex.Await(nil)

	up := section.NewUpward((*requestBody)(st), t)
	pool.Start(up)
	err := st.carryDown(t)
	return errors.Join(err, <-up.Done)
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
				st.timer.Read(st.tunnelTimeout()) // it is not silent
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
