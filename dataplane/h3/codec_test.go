package h3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/quic-go/qpack"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The static table is another's too.
func TestStaticTable(t *testing.T) {
	for i, want := range staticTable {
		f, err := qpack.NewDecoder().Decode(section.AppendInt([]byte{0, 0}, 0xc0, 6, uint64(i)))()
		if err != nil || f.Name != want.name || f.Value != want.value {
			t.Errorf("%d: %q %v, want %q", i, f, err, want)
		}
	}
	if _, err := qpack.NewDecoder().Decode(section.AppendInt([]byte{0, 0}, 0xc0, 6, uint64(len(staticTable))))(); err == nil {
		t.Error("there are more entries")
	}
}

// lines decodes with another's decoder.
func lines(b []byte) (got string, err error) {
	decode := qpack.NewDecoder().Decode(b)
	for {
		f, err := decode()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got += f.Name + "=" + f.Value + "\n"
	}
}

// What is encoded reads the same in another's decoder, and in ours.
func TestEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		status := 200 + r.IntN(300)
		b := appendStatus(beginSection(nil), status)
		want := fmt.Sprintf(":status=%d\n", status)
		for range r.IntN(12) {
			f := exchange.NewField(fmt.Sprintf("X-%d", r.IntN(30)), strings.Repeat("v", r.IntN(40)))
			switch r.IntN(4) {
			case 0:
				f = exchange.NewField([]string{"Content-Type", "Set-Cookie", "Server", "ETag"}[r.IntN(4)], fmt.Sprint(r.IntN(20)))
			case 1:
				l := staticTable[r.IntN(len(staticTable))]
				if l.name[0] == ':' {
					continue
				}
				f = exchange.NewField(strings.ToUpper(l.name), l.value)
			}
			b = appendField(b, &f)
			want += strings.ToLower(f.Name) + "=" + f.Value + "\n"
		}
		if got, err := lines(b); err != nil || got != want {
			t.Fatalf("%v\n%s\nwant\n%s", err, got, want)
		}
		var fields exchange.Fields
		d := decoder{Reader: section.Reader{MaxBytes: 1 << 20, MaxCount: 100}}
		if err := d.decode(b, section.Response, &fields, new(exchange.Arena)); err != nil || d.Status != status {
			t.Fatal(err, d.Status)
		}
	}
	for want, f := range map[int]exchange.Field{
		1: exchange.NewField("Vary", "accept-encoding"),
		2: exchange.NewField("Content-Type", "text/html; charset=utf-8"[:0]),
	} {
		if b := appendField(nil, &f); len(b) > want+1 {
			t.Errorf("%v takes %d bytes", f, len(b))
		}
	}
	// Never to be indexed by who forwards it.
	for _, name := range []string{"Cookie", "Set-Cookie", "Authorization"} {
		f := exchange.NewField(name, "")
		if b := appendField(nil, &f); b[0]&0x70 != 0x70 {
			t.Errorf("%s: %x", name, b)
		}
	}
}

func TestEncodeKeepsLinesApart(t *testing.T) {
	b := beginSection(nil)
	for _, f := range []exchange.Field{
		{Name: "a b", Value: "dropped"}, {Name: "", Value: "dropped"}, {Name: ":status", Value: "dropped"},
		{Name: "X-A", Value: "1\r\nset-cookie: x\x00"},
	} {
		b = appendField(b, &f)
	}
	if got, err := lines(b); err != nil || got != "x-a=1  set-cookie: x \n" {
		t.Errorf("%q %v", got, err)
	}
}

func TestReadInt(t *testing.T) {
	for _, tt := range []struct {
		in   string
		bits uint
		n    uint64
		rest int
		ok   bool
	}{
		{"\x1e", 5, 30, 0, true}, {"\x1f\x9a\x0a", 5, 1337, 0, true}, {"\x2a!", 8, 42, 1, true},
		{"", 5, 0, 0, false}, {"\x1f", 5, 0, 0, false}, {"\x1f\x80", 5, 0, 0, false},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 8, 0, 0, false},
		{"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x3f", 8, 63<<56 + 255, 0, true},
		{"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x40", 8, 0, 0, false},
		{"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 8, 0, 0, false},
	} {
		n, rest, ok := readInt([]byte(tt.in), tt.bits)
		if ok != tt.ok || ok && (n != tt.n || len(rest) != tt.rest) {
			t.Errorf("%x: %d %d %v", tt.in, n, len(rest), ok)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0, 0, 0xd1, 0xd7, 0x50, 1, 'a', 0xc1}, uint8(0))
	f.Add([]byte("\x00\x00\x23abc\x03def"), uint8(1))
	f.Add([]byte("\x00\x00\x51\x81\x1f\xff\x80"), uint8(2))
	f.Add([]byte{0, 0, 0x55, 3, 'a', '=', 'b', 0x55, 1, 'c'}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		d := decoder{Reader: section.Reader{MaxBytes: 500, MaxCount: 10}}
		var fields exchange.Fields
		var arena exchange.Arena
		err := d.decode(b, section.Kind(kind%3), &fields, &arena)
		// Where both read all of it, they read the same. The other one takes less
		// (no base) and more (a base below 0).
		theirs, theirErr := lines(b)
		if err != nil && theirErr == nil && b[1]&0x80 == 0 {
			t.Fatalf("%x: we fail, they read %q", b, theirs)
		}
		if err != nil || d.Malformed != "" || d.TooLarge {
			return
		}
		if theirErr != nil && b[1] == 0 {
			t.Fatalf("%x: they fail with %v", b, theirErr)
		}
		for _, f := range fields {
			if !section.ValidName(f.Name) || f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") || f.Key == exchange.KeyHost ||
				f.Key == exchange.KeyContentLength || f.Key == exchange.KeyTransferEncoding || f.Key == exchange.KeyConnection {
				t.Errorf("%q", f)
			}
			if theirErr == nil && f.Key != exchange.KeyCookie && !strings.Contains("\n"+theirs, "\n"+f.Name+"="+f.Value+"\n") {
				t.Errorf("%q is not in %q", f, theirs)
			}
		}
		if len(fields) > 10 {
			t.Errorf("%d fields", len(fields))
		}
		// What was taken can be sent, and reads the same.
		b, want := beginSection(nil), ""
		for i := range fields {
			b = appendField(b, &fields[i])
			want += fields[i].Name + "=" + fields[i].Value + "\n"
		}
		if got, err := lines(b); err != nil || got != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	})
}

// Frames read the same in whatever pieces they come.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x05hello\x01\x02\x00\x00"))
	f.Add([]byte("\x40\x21\x40\x03abc\x07\x01\x00"))
	f.Add([]byte("\x04\x04\x06\x40\x40\x00\x80"))
	read := func(from io.Reader) string {
		in := reader{from: from}
		defer in.release()
		var out strings.Builder
		for {
			h, err := in.header()
			fmt.Fprintf(&out, "%x %d %v|", h.kind, h.length, err)
			if err != nil {
				return out.String()
			}
			if h.length > 0 && h.length < 100 {
				if err := in.need(int(h.length)); err == nil {
					fmt.Fprintf(&out, "%x", in.buffered()[:h.length])
				}
			}
			if err := in.skip(h.length); err != nil {
				fmt.Fprint(&out, err)
				return out.String()
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := read(bytes.NewReader(b))
		if pieces := read(iotest.OneByteReader(bytes.NewReader(b))); pieces != whole {
			t.Errorf("%s\nin pieces\n%s", whole, pieces)
		}
		if together := read(iotest.DataErrReader(bytes.NewReader(b))); together != whole {
			t.Errorf("%s\nwith its end\n%s", whole, together)
		}
		_ = checkSettings(b)
	})
}

func TestReader(t *testing.T) {
	in := reader{from: strings.NewReader("\x00\x05hello\x21")}
	if h, err := in.header(); err != nil || h.kind != frameData || h.length != 5 {
		t.Error(h, err)
	}
	if err := in.skip(5); err != nil {
		t.Error(err)
	}
	if _, err := in.header(); !errors.Is(err, errCutOff) {
		t.Error(err)
	}
	in.release()
	in.from = strings.NewReader(strings.Repeat("x", 100_000))
	if err := in.need(70_000); err != nil || in.w < 70_000 {
		t.Error(err)
	}
	in.release()
}
