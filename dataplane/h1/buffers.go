package h1

import "sync"

// Buffers come in three sizes: for a request's head, for what is gathered to
// be written or is expected in answer to a request, and for content.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 16 << 10
	largeBuffer  = 32 << 10
)

var (
	smallBuffers  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	mediumBuffers = sync.Pool{New: func() any { return new([mediumBuffer]byte) }}
	largeBuffers  = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// takeBuffer returns a buffer of at least n bytes, with its length at its capacity.
func takeBuffer(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case n <= mediumBuffer:
		return mediumBuffers.Get().(*[mediumBuffer]byte)[:]
	case n <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:]
	}
	return make([]byte, n)
}

// giveBuffer takes a buffer back; those of odd sizes are left to the collector.
func giveBuffer(b []byte) {
	b = b[:cap(b)]
	switch len(b) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(b))
	case mediumBuffer:
		mediumBuffers.Put((*[mediumBuffer]byte)(b))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(b))
	}
}

// poison overwrites what no view may point at any more.
func poison(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, garbage[:]):]
	}
}

var garbage = func() (g [smallBuffer]byte) {
	for i := range g {
		g[i] = 0xdb
	}
	return g
}()
