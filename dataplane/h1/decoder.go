package h1

import (
	"bytes"
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/syntax"
)

// framing is how the end of a message's content is told, RFC 9112 section 6.
type framing uint8

const (
	framedNone framing = iota
	framedLength
	framedChunked
	framedClose // by the end of the connection; responses only
)

// decoder takes the framing off content. It never reads by itself: it says
// what it makes of the bytes that are there.
type decoder struct {
	in    *reader
	kind  framing
	phase chunkPhase
	// left counts the bytes still to come: of the content, or of the chunk.
	left int64
	// overhead counts what came beside the content: extensions and trailers.
	overhead, maxOverhead int
	fields                int // trailer lines
	maxFields             int
	trailers              exchange.Fields
	trailerBytes          []byte // the trailers' strings
	err                   error  // what ended the content; io.EOF if it was its end
}

type chunkPhase uint8

const (
	chunkSize chunkPhase = iota
	chunkData
	chunkEnd // the CRLF after the data
	chunkTrailer
)

func (d *decoder) reset(in *reader, kind framing, length int64, maxBytes, maxFields int) {
	*d = decoder{in: in, kind: kind, left: length, maxOverhead: maxBytes, maxFields: maxFields,
		trailers: d.trailers[:0], trailerBytes: d.trailerBytes[:0]}
	if kind == framedChunked {
		d.left = 0
	}
	if kind == framedNone || kind == framedLength && length == 0 {
		d.err = io.EOF
	}
}

// done reports whether the content ended as it should.
func (d *decoder) done() bool { return d.err == io.EOF }

// ready reports whether next would come to anything.
func (d *decoder) ready() bool {
	if d.err != nil {
		return true
	}
	d.advance()
	return d.err != nil || d.in.r < d.in.w && (d.kind != framedChunked || d.phase == chunkData)
}

// next returns content that has been read already. It returns nothing and no
// error if more must be read first.
func (d *decoder) next() ([]byte, error) {
	d.advance()
	if d.err != nil {
		return nil, d.err
	}
	if d.kind == framedChunked && d.phase != chunkData {
		return nil, nil
	}
	p := d.in.buffered()
	if len(p) == 0 {
		return nil, nil
	}
	if d.kind != framedClose {
		if int64(len(p)) > d.left {
			p = p[:d.left]
		}
		d.left -= int64(len(p))
		if d.left == 0 {
			if d.kind == framedLength {
				d.err = io.EOF
			} else {
				d.phase = chunkEnd
			}
		}
	}
	d.in.r += len(p)
	return p, nil
}

// want is how much room the next read should have.
func (d *decoder) want() int {
	if d.kind == framedLength || d.kind == framedChunked && d.phase == chunkData {
		return int(min(d.left, link.LargeBuffer))
	}
	if d.kind == framedClose {
		return link.SmallBuffer
	}
	return 1
}

// ended is told that the connection has ended.
func (d *decoder) ended() error {
	if d.kind == framedClose {
		d.err = io.EOF
	} else {
		d.err = errTruncated
	}
	return d.err
}

// advance reads as much of the chunks' framing as is there.
func (d *decoder) advance() {
	if d.kind != framedChunked {
		return
	}
	for d.err == nil && d.phase != chunkData {
		line, ok := d.takeLine()
		if !ok {
			return
		}
		switch d.phase {
		case chunkEnd:
			if len(line) != 0 {
				d.err = errChunk
			}
			d.phase = chunkSize
		case chunkSize:
			d.err = d.parseSize(line)
		case chunkTrailer:
			if len(line) == 0 {
				d.finishTrailers()
				return
			}
			d.err = d.keepTrailer(line)
		}
	}
}

// takeLine takes a line off the buffer, which must end with CRLF and not with LF alone.
func (d *decoder) takeLine() (line []byte, ok bool) {
	b := d.in.buffered()
	if d.phase == chunkEnd && len(b) > 0 && (b[0] != '\r' || len(b) > 1 && b[1] != '\n') {
		d.err = errChunk // without waiting for a line that may never end
		return nil, false
	}
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		if d.overhead+len(b) > d.maxOverhead {
			d.err = d.tooLong()
		}
		return nil, false
	}
	if i == 0 || b[i-1] != '\r' {
		d.err = errBareLF
		return nil, false
	}
	d.in.r += i + 1
	return b[:i-1], true
}

func (d *decoder) tooLong() error {
	if d.phase == chunkTrailer {
		return errHeadLong
	}
	return errChunkExt
}

// parseSize reads chunk-size [ chunk-ext ], RFC 9112 section 7.1. There is no
// white space before the extension, though BWS would allow it: it is what
// parsers disagree about. Extensions are checked and dropped, section 7.1.1.
func (d *decoder) parseSize(line []byte) error {
	var size int64
	i := 0
	for ; i < len(line); i++ {
		v := unhex(line[i])
		if v < 0 {
			break
		}
		if i == 15 { // 60 bits are enough, and cannot overflow
			return errChunk
		}
		size = size<<4 | int64(v)
	}
	if i == 0 {
		return errChunk
	}
	if ext := line[i:]; len(ext) > 0 {
		if ext[0] != ';' || !syntax.CleanValue(ext) {
			return errChunk
		}
		// A sender could make us read for ever without any content.
		if d.overhead += len(ext); d.overhead > d.maxOverhead {
			return errChunkExt
		}
	}
	d.left = size
	d.phase = chunkData
	if size == 0 {
		d.phase = chunkTrailer
	}
	return nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// keepTrailer checks a trailer line and keeps what may be forwarded. The
// buffer may move under it, so its bytes are copied; the strings are made when
// all of them are there.
func (d *decoder) keepTrailer(line []byte) error {
	d.overhead += len(line) + 2
	d.fields++
	if d.overhead > d.maxOverhead {
		return errHeadLong
	}
	if d.fields > d.maxFields {
		return errFieldMany
	}
	colon := 0
	for colon < len(line) && syntax.Classes[line[colon]]&syntax.TChar != 0 {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return errTrailer
	}
	value := syntax.TrimOWS(line[colon+1:])
	if !syntax.CleanValue(value) {
		return errTrailer
	}
	switch key := exchange.KeyOf(str(line[:colon])); {
	case key == exchange.KeyContentLength, key == exchange.KeyTransferEncoding, key == exchange.KeyHost:
		// Who merges trailers into the header would read another message.
		return errTrailer
	case !syntax.MayTrail(key):
		return nil
	}
	d.trailerBytes = append(d.trailerBytes, line[:colon]...)
	d.trailerBytes = append(d.trailerBytes, ':')
	d.trailerBytes = append(d.trailerBytes, value...)
	d.trailerBytes = append(d.trailerBytes, '\n')
	return nil
}

func (d *decoder) finishTrailers() {
	rest := d.trailerBytes
	for len(rest) > 0 {
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end]
		rest = rest[end+1:]
		colon := bytes.IndexByte(line, ':')
		d.trailers = append(d.trailers, exchange.NewField(str(line[:colon]), str(line[colon+1:])))
	}
	d.err = io.EOF
}
