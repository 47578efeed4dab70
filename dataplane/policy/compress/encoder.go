package compress

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/headgate/headgate/dataplane/exchange"
)

// compressor is what the three libraries have in common.
type compressor interface {
	io.Writer
	// Flush writes all that is needed to decode what was written so far.
	Flush() error
	// Close ends the content; Reset makes it ready for another.
	Close() error
	Reset(io.Writer)
}

// The levels, by effort.
const (
	fast = iota
	balanced
	best
	levels
)

var levelNames = [levels]string{fast: "Fast", balanced: "Balanced", best: "Best"}

// method is how a coding is made at a level.
type method struct {
	// memory is what an encoder and its buffer hold at most, in bytes.
	memory int64
	create func() compressor
}

// Windows are small: what is served is mostly below 64 KiB, and the memory is
// needed once for each response that is being sent.
var methods = [codings][levels]method{
	gzipped: {
		fast:     {1 << 20, newGzip(1)},
		balanced: {3 << 19, newGzip(5)},
		best:     {2 << 20, newGzip(8)},
	},
	brotlied: {
		fast:     {1 << 20, newBrotli(1, 16)},
		balanced: {5 << 19, newBrotli(4, 16)},
		best:     {4 << 20, newBrotli(6, 16)},
	},
	zstandard: {
		fast:     {1 << 20, newZstd(zstd.SpeedFastest)},
		balanced: {2 << 20, newZstd(zstd.SpeedDefault)},
		best:     {5 << 20, newZstd(zstd.SpeedBetterCompression)},
	},
}

func newGzip(level int) func() compressor {
	return func() compressor {
		w, err := gzip.NewWriterLevel(io.Discard, level)
		if err != nil {
			panic(err) // the level is out of bounds, and it is ours
		}
		return w
	}
}

func newBrotli(quality, window int) func() compressor {
	return func() compressor {
		return brotli.NewWriterOptions(io.Discard, brotli.WriterOptions{Quality: quality, LGWin: window})
	}
}

func newZstd(level zstd.EncoderLevel) func() compressor {
	return func() compressor {
		w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(level), zstd.WithWindowSize(64<<10),
			zstd.WithEncoderConcurrency(1), // no goroutines
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			panic(err) // the options are out of bounds, and they are ours
		}
		return w
	}
}

// memoryBudget is how much all encoders in use may hold, in bytes. Beyond it
// responses are sent as they are: many slow clients must not fill the memory.
const memoryBudget = 256 << 20

// encoders are the process's encoders. Safe for concurrent use.
type encoders struct {
	inUse atomic.Int64 // bytes
	pools [codings][levels]sync.Pool
}

func newEncoders() *encoders { return &encoders{} }

// encoder is a compressor and what it has made.
type encoder struct {
	compressor
	out []byte
}

// Write takes what the compressor makes.
func (o *output) Write(p []byte) (int, error) {
	o.out = append(o.out, p...)
	return len(p), nil
}

// output is the encoder as the compressor sees it.
type output encoder

func (es *encoders) take(c coding, level int) *encoder {
	e, ok := es.pools[c][level].Get().(*encoder)
	if !ok {
		e = &encoder{compressor: methods[c][level].create()}
	}
	e.Reset((*output)(e))
	return e
}

// body returns an encoding body; nil if there is no memory for it.
func (es *encoders) body(c coding, level int, from exchange.Body) *body {
	memory := methods[c][level].memory
	if es.inUse.Add(memory) > memoryBudget {
		es.inUse.Add(-memory)
		return nil
	}
	return &body{from: from, encoders: es, coding: c, level: level}
}
