package health

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// askTCP sends and then reads until what is expected has come, as far as there
// is something to send and to expect.
func askTCP(nc net.Conn, q *snapshot.SendExpect) error {
	if len(q.Send) > 0 {
		if _, err := nc.Write(q.Send); err != nil {
			return err
		}
	}
	if len(q.Expect) == 0 {
		return nil
	}
	s := search{want: q.Expect}
	var buf [1024]byte
	for {
		n, err := nc.Read(buf[:])
		switch {
		case s.found(buf[:n]):
			return nil
		case err == io.EOF, s.read >= maxContent:
			return s.missing()
		case err != nil:
			return err
		}
	}
}

// maxDatagram is the most that a datagram of UDP has.
const maxDatagram = 1<<16 - 1

// askUDP sends a datagram, and judges by the first that comes back: what is
// lost, the thresholds forgive.
func askUDP(nc net.Conn, q *snapshot.SendExpect) error {
	if _, err := nc.Write(q.Send); err != nil {
		return err
	}
	buf := make([]byte, maxDatagram)
	n, err := nc.Read(buf)
	if err != nil {
		return err
	}
	if s := (search{want: q.Expect}); !s.found(buf[:n]) {
		return s.missing()
	}
	return nil
}

// contains reads content until what is wanted has come.
func contains(body exchange.Body, want string) error {
	s := search{want: []byte(want)}
	for body != nil && s.read < maxContent {
		p, err := body.Next()
		switch {
		case s.found(p):
			return nil
		case err == io.EOF:
			return s.missing()
		case err != nil:
			return err
		}
	}
	return s.missing()
}

// search looks for bytes in what comes in parts, of which it keeps no more than
// it needs.
type search struct {
	want []byte
	kept []byte
	read int
	// start is how it began, for who wonders.
	start []byte
}

// found adds a part, and reports whether all that was added contains what is wanted.
func (s *search) found(part []byte) bool {
	s.read += len(part)
	if room := maxStart - len(s.start); room > 0 {
		s.start = append(s.start, part[:min(room, len(part))]...)
	}
	s.kept = append(s.kept, part...)
	if bytes.Contains(s.kept, s.want) {
		return true
	}
	// Of what has come, only an end that is shorter can be its beginning.
	over := len(s.kept) - (len(s.want) - 1)
	if over > 0 {
		s.kept = append(s.kept[:0], s.kept[over:]...)
	}
	return false
}

// maxStart is how much of an answer is shown.
const maxStart = 64

func (s *search) missing() error {
	if s.read == 0 {
		return errors.New("the answer is empty")
	}
	return fmt.Errorf("the answer does not contain %q; it begins with %q", s.want, s.start)
}
