package compress

import (
	"errors"
	"io"
	"sync"

	"github.com/headgate/headgate/dataplane/exchange"
)

const (
	// step is how much is encoded at once, and enough to be handed on at once.
	step = 16 << 10
	// keepOutput is how large a buffer may be to stay with an encoder.
	keepOutput = 256 << 10
)

var errClosed = errors.New("compress: the content was closed")

// body is a body's content, encoded. What has come is flushed before it would
// wait for more: a client can decode it as soon as the upstream has sent it.
type body struct {
	from     exchange.Body
	encoders *encoders
	coding   coding
	level    int

	// These belong to who pulls.
	rest    []byte // of what was pulled last, still to be encoded
	pending bool   // encoded in part, but not flushed
	ended   bool   // all is encoded

	// Close may come from another goroutine while one is in Next. Who comes
	// last gives the encoder back.
	mu       sync.Mutex
	encoder  *encoder // nil before the first Next and after the last
	pulling  bool
	closed   bool
	released bool
	err      error // that Next returned last
}

// Ready implements exchange.Body.
func (b *body) Ready() bool { return len(b.rest) > 0 || b.pending || b.ended || b.from.Ready() }

// Next implements exchange.Body. What it returns may be empty.
func (b *body) Next() ([]byte, error) {
	e, err := b.begin()
	if err != nil {
		return nil, err
	}
	p, err := b.next(e)
	b.end(err)
	return p, err
}

func (b *body) begin() (*encoder, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err != nil:
		return nil, b.err
	case b.closed:
		return nil, errClosed
	case b.encoder == nil:
		b.encoder = b.encoders.take(b.coding, b.level)
	}
	b.pulling = true
	return b.encoder, nil
}

func (b *body) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pulling, b.err = false, err
	if err != nil || b.closed {
		b.release(err != nil)
	}
}

func (b *body) next(e *encoder) ([]byte, error) {
	e.out = e.out[:0]
	for len(e.out) < step {
		if b.ended {
			if len(e.out) > 0 {
				break
			}
			return nil, io.EOF
		}
		if len(b.rest) == 0 {
			if b.pending && !b.from.Ready() {
				b.pending = false
				if err := e.Flush(); err != nil {
					return nil, err
				}
				break
			}
			p, err := b.from.Next()
			if err == io.EOF {
				b.ended, b.pending = true, false
				if err := e.Close(); err != nil {
					return nil, err
				}
				continue
			}
			if err != nil {
				return nil, err
			}
			if len(p) == 0 {
				break // and Ready is asked before it is waited again
			}
			b.rest = p
		}
		n := min(len(b.rest), step)
		if _, err := e.Write(b.rest[:n]); err != nil {
			return nil, err
		}
		b.rest, b.pending = b.rest[n:], true
	}
	return e.out, nil
}

// Close implements exchange.Body.
func (b *body) Close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	if !b.pulling {
		b.release(false)
	}
	b.mu.Unlock()
	b.from.Close()
}

// release gives the encoder back. Its output stays behind unless nobody has
// it: what the last Next returned may still be on its way to the client. mu is held.
func (b *body) release(output bool) {
	if b.released {
		return
	}
	b.released = true
	if e := b.encoder; e != nil {
		if !output || cap(e.out) > keepOutput {
			e.out = nil
		}
		b.encoder = nil
		b.encoders.pools[b.coding][b.level].Put(e)
	}
	b.encoders.inUse.Add(-methods[b.coding][b.level].memory)
}
