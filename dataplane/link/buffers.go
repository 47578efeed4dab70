package link

import "sync"

// Buffers come in three sizes: for a request's head, for what is gathered to
// be written or is expected in answer to a request, and for content.
const (
	SmallBuffer  = 4 << 10
	MediumBuffer = 16 << 10
	LargeBuffer  = 64 << 10
)

var (
	smallBuffers  = sync.Pool{New: func() any { return new([SmallBuffer]byte) }}
	mediumBuffers = sync.Pool{New: func() any { return new([MediumBuffer]byte) }}
	largeBuffers  = sync.Pool{New: func() any { return new([LargeBuffer]byte) }}
)

// TakeBuffer returns a buffer of at least n bytes, with its length at its capacity.
func TakeBuffer(n int) []byte {
	switch {
	case n <= SmallBuffer:
		return smallBuffers.Get().(*[SmallBuffer]byte)[:]
	case n <= MediumBuffer:
		return mediumBuffers.Get().(*[MediumBuffer]byte)[:]
	case n <= LargeBuffer:
		return largeBuffers.Get().(*[LargeBuffer]byte)[:]
	}
	return make([]byte, n)
}

// GiveBuffer takes a buffer back; those of odd sizes are left to the collector.
func GiveBuffer(b []byte) {
	b = b[:cap(b)]
	switch len(b) {
	case SmallBuffer:
		smallBuffers.Put((*[SmallBuffer]byte)(b))
	case MediumBuffer:
		mediumBuffers.Put((*[MediumBuffer]byte)(b))
	case LargeBuffer:
		largeBuffers.Put((*[LargeBuffer]byte)(b))
	}
}

// Poison overwrites what no view may point at any more.
func Poison(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, garbage[:]):]
	}
}

var garbage = func() (g [SmallBuffer]byte) {
	for i := range g {
		g[i] = 0xdb
	}
	return g
}()
