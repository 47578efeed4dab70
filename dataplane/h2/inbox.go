package h2

import "sync"

// inbox is the content that a stream has received and nobody has pulled yet.
// What bounds it is the stream's window. Who uses it holds the connection's lock.
type inbox struct {
	chunks []chunk
	lent   bool // what take returned of the first chunk is still in use
}

type chunk struct {
	buf  []byte
	r, w int
}

const (
	smallChunk = 4 << 10
	largeChunk = 16 << 10
)

var (
	smallChunks = sync.Pool{New: func() any { return new([smallChunk]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([largeChunk]byte) }}
)

func takeChunk(n int) []byte {
	if n <= smallChunk {
		return smallChunks.Get().(*[smallChunk]byte)[:]
	}
	return largeChunks.Get().(*[largeChunk]byte)[:]
}

func giveChunk(b []byte) {
	if len(b) == smallChunk {
		smallChunks.Put((*[smallChunk]byte)(b))
	} else {
		largeChunks.Put((*[largeChunk]byte)(b))
	}
}

// put copies p behind what is there.
func (in *inbox) put(p []byte) {
	for len(p) > 0 {
		last := len(in.chunks) - 1
		if last < 0 || in.chunks[last].w == len(in.chunks[last].buf) {
			// Much at once is likely to be followed by more.
			in.chunks = append(in.chunks, chunk{buf: takeChunk(len(p))})
			last++
		}
		k := &in.chunks[last]
		n := copy(k.buf[k.w:], p)
		k.w += n
		p = p[n:]
	}
}

// take returns the next bytes, which are valid until the following call; none
// if there are none now.
func (in *inbox) take() []byte {
	if in.lent {
		in.lent = false
		if k := &in.chunks[0]; k.r == k.w {
			giveChunk(k.buf)
			n := copy(in.chunks, in.chunks[1:])
			in.chunks[n] = chunk{}
			in.chunks = in.chunks[:n]
		}
	}
	if len(in.chunks) == 0 {
		return nil
	}
	k := &in.chunks[0]
	p := k.buf[k.r:k.w:k.w]
	k.r, in.lent = k.w, true
	return p
}

// unread reports whether take would return something.
func (in *inbox) unread() bool {
	return len(in.chunks) > 1 || len(in.chunks) == 1 && in.chunks[0].r < in.chunks[0].w
}

// release drops everything.
func (in *inbox) release() {
	for i := range in.chunks {
		giveChunk(in.chunks[i].buf)
		in.chunks[i] = chunk{}
	}
	in.chunks, in.lent = in.chunks[:0], false
}
