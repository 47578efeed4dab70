package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/headgate/headgate/dataplane/exchange"
)

// parts is content that comes in parts. Without more, all is there at once.
type parts struct {
	data [][]byte
	more chan []byte // closed at the end
	err  error       // at the end, in place of io.EOF

	once   sync.Once
	closed chan struct{}
}

func (p *parts) Ready() bool { return p.more == nil || len(p.data) > 0 }

func (p *parts) Next() ([]byte, error) {
	if len(p.data) > 0 {
		next := p.data[0]
		p.data = p.data[1:]
		return next, nil
	}
	if p.more != nil {
		select {
		case next, ok := <-p.more:
			if ok {
				return next, nil
			}
		case <-p.closed:
			return nil, errors.New("closed")
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	return nil, io.EOF
}

func (p *parts) Close() {
	if p.closed != nil {
		p.once.Do(func() { close(p.closed) })
	}
}

func live() *parts { return &parts{more: make(chan []byte), closed: make(chan struct{})} }

// pull reads a body as codecs do.
func pull(b exchange.Body) ([]byte, error) {
	var all []byte
	for {
		p, err := b.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p...)
	}
}

func decoder(t testing.TB, name string, r io.Reader) io.Reader {
	t.Helper()
	switch name {
	case "gzip":
		d, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return d
	case "br":
		return brotli.NewReader(r)
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)) // RFC 9659
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func sample(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"name":"product %d"},`, b.Len(), random.IntN(1000))
	}
	return b.Bytes()[:n]
}

func noise(n int) []byte {
	random := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	cut := func(b []byte, n int) (all [][]byte) {
		for len(b) > n {
			all, b = append(all, b[:n]), b[n:]
		}
		return append(all, b)
	}
	contents := map[string][][]byte{
		"nothing": nil, "empty parts": {nil, nil}, "a byte": {{'x'}}, "short": cut([]byte("hello, hello, hello"), 3),
		"a large part": {sample(1 << 20)}, "many parts": cut(sample(300_000), 1021), "noise": cut(noise(300_000), 4096), "one noise": {noise(1 << 20)},
	}
	for _, name := range codingNames[1:] {
		for _, level := range levelNames {
			f, es := build(t, func(c *Config) { c.Level = level })
			for what, data := range contents {
				for range 2 { // the second time with the same encoder
					ex := exchangeOf(&parts{data: data}, name)
					f.Response(ex)
					if got := ex.Response.Fields.Value(exchange.KeyContentEncoding); got != name {
						t.Fatalf("%s: encoded as %q", name, got)
					}
					encoded, err := pull(ex.Response.Body)
					if err != nil {
						t.Fatal(err)
					}
					if n := len(ex.Response.Body.(*body).rest); n != 0 {
						t.Errorf("%d bytes are left", n)
					}
					decoded, err := io.ReadAll(decoder(t, name, bytes.NewReader(encoded)))
					if err != nil || !bytes.Equal(decoded, bytes.Join(data, nil)) {
						t.Errorf("%s, %s, %s: %d bytes come back: %v", name, level, what, len(decoded), err)
					}
					if _, err := ex.Response.Body.Next(); err != io.EOF {
						t.Errorf("behind the end: %v", err)
					}
					ex.Response.Body.Close()
					if n := es.inUse.Load(); n != 0 {
						t.Fatalf("%s, %s: %d bytes are still in use", name, what, n)
					}
				}
			}
		}
	}
}

// TestStreams decodes each part before the next one comes.
func TestStreams(t *testing.T) {
	for _, name := range codingNames[1:] {
		f, _ := build(t)
		source := live()
		ex := exchangeOf(source, name)
		ex.Response.Fields.Set("Content-Type", "text/event-stream")
		f.Response(ex)
		b := ex.Response.Body
		if b.Ready() {
			t.Errorf("%s: ready before anything came", name)
		}
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() { // as a codec: it writes before it would wait
			var gathered []byte
			for {
				if !b.Ready() && len(gathered) > 0 {
					w.Write(gathered)
					gathered = gathered[:0]
				}
				p, err := b.Next()
				if err != nil {
					w.Write(gathered)
					w.Close()
					ended <- err
					return
				}
				gathered = append(gathered, p...)
			}
		}()
		var d io.Reader
		for i := range 10 {
			event := fmt.Sprintf("data: %d\n\n", i)
			source.more <- []byte(event)
			if d == nil {
				d = decoder(t, name, r)
			}
			got := make([]byte, len(event))
			if _, err := io.ReadFull(d, got); err != nil || string(got) != event {
				t.Fatalf("%s: %q, %v", name, got, err)
			}
		}
		close(source.more)
		if rest, err := io.ReadAll(d); len(rest) > 0 || err != nil {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
		if err := <-ended; err != io.EOF {
			t.Error(err)
		}
	}
}

// TestReadyKeepsItsWord: what is ready does not wait.
func TestReadyKeepsItsWord(t *testing.T) {
	f, _ := build(t)
	source := live()
	source.data = [][]byte{[]byte("a"), nil, []byte("b"), nil}
	ex := exchangeOf(source, "br")
	f.Response(ex)
	for n := 0; ex.Response.Body.Ready(); n++ {
		if _, err := ex.Response.Body.Next(); err != nil || n > 10 {
			t.Fatal(n, err)
		}
	}
	ex.Response.Body.Close()
}

func TestFailsWithItsSource(t *testing.T) {
	f, es := build(t)
	broken := errors.New("broken")
	ex := exchangeOf(&parts{data: [][]byte{sample(100_000)}, err: broken}, "gzip")
	f.Response(ex)
	if _, err := pull(ex.Response.Body); err != broken {
		t.Errorf("%v", err)
	}
	if _, err := ex.Response.Body.Next(); err != broken {
		t.Errorf("again: %v", err)
	}
	ex.Response.Body.Close()
	if n := es.inUse.Load(); n != 0 {
		t.Errorf("%d bytes are still in use", n)
	}
}

// TestClose closes at every stage, also while another goroutine waits in Next.
func TestClose(t *testing.T) {
	f, es := build(t)
	for _, name := range codingNames[1:] {
		for range 50 {
			source := live()
			ex := exchangeOf(source, name)
			f.Response(ex)
			b := ex.Response.Body
			done := make(chan error)
			go func() {
				_, err := pull(b)
				done <- err
			}()
			source.more <- []byte("some")
			b.Close()
			if err := <-done; err == nil {
				t.Fatal("what was closed came to its end")
			}
			b.Close()
			if _, err := b.Next(); err == nil {
				t.Fatal("there is more after the end")
			}
		}
		ex := exchangeOf(&parts{data: [][]byte{sample(100)}}, name)
		f.Response(ex)
		ex.Response.Body.Close() // before the first Next
		if _, err := ex.Response.Body.Next(); err != errClosed {
			t.Errorf("%v", err)
		}
	}
	if n := es.inUse.Load(); n != 0 {
		t.Errorf("%d bytes are still in use", n)
	}
}

// TestCloseLeavesWhatWasReturned: the last part may still be on its way when
// another exchange gets the encoder.
func TestCloseLeavesWhatWasReturned(t *testing.T) {
	f, _ := build(t)
	first := exchangeOf(&parts{data: [][]byte{noise(40_000)}}, "gzip")
	f.Response(first)
	p, err := first.Response.Body.Next()
	if err != nil || len(p) == 0 {
		t.Fatal(len(p), err)
	}
	before := bytes.Clone(p)
	first.Response.Body.Close()
	for range 4 {
		other := exchangeOf(&parts{data: [][]byte{sample(400_000)}}, "gzip")
		f.Response(other)
		if _, err := pull(other.Response.Body); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(p, before) {
		t.Error("it was overwritten")
	}
}

// TestBuffersAreBounded: however much comes at once, little is held.
func TestBuffersAreBounded(t *testing.T) {
	for _, name := range codingNames[1:] {
		f, _ := build(t)
		ex := exchangeOf(&parts{data: [][]byte{noise(4 << 20)}}, name)
		f.Response(ex)
		for {
			p, err := ex.Response.Body.Next()
			if err == io.EOF {
				break
			}
			if len(p) > keepOutput {
				t.Fatalf("%s: %d bytes at once", name, len(p))
			}
		}
	}
}

// TestMemoryIsAccounted measures what encoders hold against what they say.
func TestMemoryIsAccounted(t *testing.T) {
	content := append(sample(512<<10), noise(256<<10)...)
	for c := gzipped; c < codings; c++ {
		for level := range levels {
			es := newEncoders()
			var before, after runtime.MemStats
			const n = 4
			var held [n]*body
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range held {
				held[i] = es.body(c, level, &parts{data: [][]byte{content}})
				for !held[i].ended {
					if _, err := held[i].Next(); err != nil {
						t.Fatal(err)
					}
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if got, most := (int64(after.HeapAlloc)-int64(before.HeapAlloc))/n, methods[c][level].memory; got > most || got < most/8 {
				t.Errorf("%s, %s: an encoder holds %d KiB, and says %d", codingNames[c], levelNames[level], got>>10, most>>10)
			} else {
				t.Logf("%s, %s: %d of %d KiB", codingNames[c], levelNames[level], got>>10, most>>10)
			}
			runtime.KeepAlive(held)
		}
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget at random under the race detector")
	}
	content := sample(100_000)
	for _, name := range codingNames[1:] {
		f, _ := build(t)
		source := &parts{}
		ex := exchangeOf(source, name)
		given := ex.Response.Fields
		data := make([][]byte, 1)
		// One for the body, at most one by the library, and what a collection
		// in between takes from the pool now and then.
		if n := testing.AllocsPerRun(200, func() {
			data[0] = content
			source.data = data
			ex.Response = exchange.Response{Status: 200, Length: -1, Body: source, Fields: append(ex.Response.Fields[:0], given...)}
			f.Response(ex)
			for {
				if _, err := ex.Response.Body.Next(); err != nil {
					break
				}
			}
			ex.Response.Body.Close()
			ex.Arena.Reset()
		}); n > 3 {
			t.Errorf("%s: %v allocations", name, n)
		}
		// What is not encoded costs nothing.
		ex.In.Fields[0].Value = "deflate, gzip;q=0"
		if n := testing.AllocsPerRun(200, func() {
			ex.Response = exchange.Response{Status: 200, Length: -1, Body: source, Fields: append(ex.Response.Fields[:0], given...)}
			f.Response(ex)
		}); n != 0 {
			t.Errorf("%s: %v allocations for nothing", name, n)
		}
	}
}

// TestConcurrently shares encoders among many responses.
func TestConcurrently(t *testing.T) {
	f, es := build(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 20 {
				name := codingNames[1+(i+n)%3]
				want := strings.Repeat(fmt.Sprintf("%d-%d ", i, n), 2000)
				ex := exchangeOf(&parts{data: [][]byte{[]byte(want)}}, name)
				f.Response(ex)
				got, err := pull(ex.Response.Body)
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := io.ReadAll(decoder(t, name, bytes.NewReader(got))); err != nil || string(text) != want {
					t.Errorf("%s: %v", name, err)
				}
				ex.Response.Body.Close()
			}
		})
	}
	all.Wait()
	if n := es.inUse.Load(); n != 0 {
		t.Errorf("%d bytes are still in use", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	content := sample(64 << 10)
	for _, name := range codingNames[1:] {
		for _, level := range levelNames {
			b.Run(name+"/"+level, func(b *testing.B) {
				f, _ := build(b, func(c *Config) { c.Level = level })
				b.SetBytes(int64(len(content)))
				b.ReportAllocs()
				for b.Loop() {
					ex := exchangeOf(&parts{data: [][]byte{content}}, name)
					f.Response(ex)
					for {
						if _, err := ex.Response.Body.Next(); err != nil {
							break
						}
					}
					ex.Response.Body.Close()
				}
			})
		}
	}
}
