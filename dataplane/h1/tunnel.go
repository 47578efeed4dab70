package h1

import (
	"cmp"
	"errors"
	"io"
	"net"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// tunnel accepts the upgrade (or CONNECT) and carries bytes both ways until
// both directions have ended, or one has failed.
func (s *ServerConn) tunnel(ex *exchange.Exchange) error {
	r, w := &ex.Response, &s.work.writer
	defer r.Tunnel.Close()
	w.begin()
	w.out = appendStatus(w.out, r.Status, r.Reason)
	w.out = appendFields(w.out, r.Fields)
	if r.Status == 101 {
		protocol := r.Fields.Value(exchange.KeyUpgrade)
		if protocol == "" {
			protocol = ex.In.Upgrade
		}
		w.out = append(w.out, "Connection: upgrade\r\n"...)
		w.out = appendField(w.out, "Upgrade", protocol)
	}
	w.out = append(w.out, '\r', '\n')
	if err := w.flush(); err != nil {
		return err
	}
	w.release()
	if early := s.work.in.buffered(); len(early) > 0 {
		if _, err := r.Tunnel.Write(early); err != nil {
			return err
		}
		s.work.in.r = s.work.in.w
	}

	up := make(chan error, 1)
	go func() { up <- s.carryUp(r.Tunnel) }()
	err := s.carryDown(r.Tunnel)
	return errors.Join(err, <-up)
}

// carryUp carries what the client sends.
func (s *ServerConn) carryUp(t exchange.Tunnel) error {
	var in source
	in.open(&s.conn)
	err := carry(t, in.next, in.drop, func() error { return s.awake() })
	if err == nil {
		err = t.CloseWrite()
	}
	if err != nil {
		_ = t.Close()
		_ = s.NC.Close()
	}
	return err
}

// carryDown carries what the upstream sends.
func (s *ServerConn) carryDown(t exchange.Tunnel) error {
	var err error
	down := writerFunc(func(p []byte) (int, error) { return len(p), s.work.writer.write(p) })
	if from, ok := t.(*clientTunnel); ok {
		err = carry(down, from.next, from.in.drop, func() error { return s.awake() })
	} else {
		buf := link.TakeBuffer(link.MediumBuffer)
		err = carry(down, func() ([]byte, error) {
			n, err := t.Read(buf)
			if n > 0 {
				err = nil
			}
			return buf[:n], err
		}, func() {}, s.awake)
		link.GiveBuffer(buf)
	}
	if err == nil && !link.CloseWrite(s.NC) {
		err = s.NC.Close()
	}
	if err != nil {
		_ = t.Close()
		_ = s.NC.Close()
	}
	return err
}

// awake postpones the end of a silent tunnel. Both directions call it.
func (s *ServerConn) awake() error {
	if !s.DL.Read(cmp.Or(s.work.ex.Timeouts.Tunnel, s.opts.TunnelTimeout)) {
		return errTimeout
	}
	return nil
}

// carry copies until the end of what next gives, and lets go of the buffer
// after each piece.
func carry(to io.Writer, next func() ([]byte, error), drop func(), awake func() error) error {
	for {
		if err := awake(); err != nil {
			return err
		}
		p, err := next()
		if err == nil {
			_, err = to.Write(p)
		}
		drop()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// source reads from a connection and holds no buffer while it waits, if the
// connection is a plain socket: tunnels are many, and silent most of the time.
type source struct {
	link.Awaiter
	buf []byte
}

func (in *source) open(l *conn) { in.Init(l, in.takeRoom, in.drop) }

func (in *source) takeRoom() []byte {
	if in.buf == nil {
		in.buf = link.TakeBuffer(link.MediumBuffer)
	}
	return in.buf
}

func (in *source) drop() {
	if in.buf != nil && in.Raw != nil {
		link.GiveBuffer(in.buf)
		in.buf = nil
	}
}

func (in *source) next() ([]byte, error) {
	if in.Raw != nil {
		n, err := in.Await()
		return in.buf[:n], err
	}
	if in.buf == nil {
		in.buf = make([]byte, link.SmallBuffer)
	}
	n, err := in.NC.Read(in.buf)
	if n > 0 {
		err = nil
	}
	return in.buf[:n], err
}

// clientTunnel is the upstream's side of a tunnel.
type clientTunnel struct {
	c           *ClientConn
	idleTimeout time.Duration
	in          source
	early       []byte // came behind the head
}

func newClientTunnel(c *ClientConn, early []byte) *clientTunnel {
	t := &clientTunnel{c: c, idleTimeout: cmp.Or(c.ex.Timeouts.Tunnel, c.opts.TunnelTimeout), early: append([]byte(nil), early...)}
	t.in.open(&c.conn)
	return t
}

func (t *clientTunnel) next() ([]byte, error) {
	if len(t.early) > 0 {
		p := t.early
		t.early = nil
		return p, nil
	}
	if !t.c.DL.Read(t.idleTimeout) {
		return nil, errTimeout
	}
	return t.in.next()
}

// Read implements exchange.Tunnel.
func (t *clientTunnel) Read(p []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(p, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	if !t.c.DL.Read(t.idleTimeout) {
		return 0, errTimeout
	}
	return t.c.NC.Read(p)
}

// Write implements exchange.Tunnel.
func (t *clientTunnel) Write(p []byte) (int, error) {
	t.c.DL.Read(t.idleTimeout)
	if err := t.c.writer.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite implements exchange.Tunnel.
func (t *clientTunnel) CloseWrite() error {
	if !link.CloseWrite(t.c.NC) {
		return t.c.NC.Close()
	}
	return nil
}

// Close implements exchange.Tunnel.
func (t *clientTunnel) Close() error {
	err := t.c.NC.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
