package h3

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
	t := st.ex.Response.Tunnel
	defer t.Close()
	st.beginResponse(&st.ex.Response, (*requestBody)(st))
	if err := st.flush(); err != nil {
		return err
	}
	if !st.ex.Await(section.TunnelCloser{Tunnel: t}) {
		return exchange.ErrAbandoned
	}
	defer st.ex.Await(nil)
	up := section.NewUpward((*requestBody)(st), t)
	pool.Start(up)
	err := st.carryDown(t)
	if err != nil {
		(*requestBody)(st).Close()
	}
	return errors.Join(err, <-up.Done)
}

// maxFrameHeader is the longest header of a frame of a buffer's length.
const maxFrameHeader = 1 + 4

// carryDown carries what the upstream sends.
func (st *stream) carryDown(t exchange.Tunnel) error {
	buf := link.TakeBuffer(link.MediumBuffer)
	defer link.GiveBuffer(buf)
	for {
		n, err := t.Read(buf[maxFrameHeader:])
		if n > 0 {
			var header [maxFrameHeader]byte
			h := appendFrameHeader(header[:0], frameData, int64(n))
			start := maxFrameHeader - len(h)
			copy(buf[start:], h)
			if err := st.write(buf[start : maxFrameHeader+n]); err != nil {
				return err
			}
			st.ex.Sent += int64(n)
			st.timer.Read(st.tunnelTimeout()) // it is not silent
		}
		if err == io.EOF {
			return st.endResponse()
		}
		if err != nil {
			return err
		}
	}
}
