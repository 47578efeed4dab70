package h2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// What is encoded reads the same in another's decoder, whatever the tables' sizes.
func TestEncoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var e encoder
	d := hpack.NewDecoder(4096, nil)
	for i := range 5000 {
		if i%97 == 96 {
			n := uint32(r.IntN(6000))
			e.setTableSize(n)
			if r.IntN(2) == 0 {
				n = uint32(r.IntN(6000))
				e.setTableSize(n)
			}
			d.SetAllowedMaxDynamicTableSize(max(n, 4096))
		}
		if i%61 == 60 {
			e.forget()
		}
		b := e.begin(nil)
		b = appendStatus(b, 200+r.IntN(300))
		want := ""
		for range r.IntN(12) {
			f := exchange.NewField(fmt.Sprintf("X-%d", r.IntN(30)), strings.Repeat("v", r.IntN(40)))
			if r.IntN(4) == 0 {
				f = exchange.NewField([]string{"Content-Type", "Set-Cookie", "Server", "ETag"}[r.IntN(4)], fmt.Sprint(r.IntN(20)))
			}
			b = e.appendField(b, &f)
			want += strings.ToLower(f.Name) + "=" + f.Value + "\n"
		}
		fields, err := d.DecodeFull(b)
		if err != nil {
			t.Fatal(i, err)
		}
		got := ""
		for _, f := range fields[1:] {
			got += f.Name + "=" + f.Value + "\n"
			if strings.HasPrefix(f.Name, "set-cookie") && !f.Sensitive {
				t.Error("a cookie that may be indexed")
			}
		}
		if got != want {
			t.Fatalf("%d:\n%s\nwant\n%s", i, got, want)
		}
	}
	e = encoder{}
	f := exchange.NewField("Server", "test")
	for i, want := range []int{6, 5, 1, 1} {
		if b := e.appendField(nil, &f); len(b) != want {
			t.Errorf("time %d: %d bytes, want %d", i, len(b), want)
		}
	}
}

func TestEncoderKeepsLinesApart(t *testing.T) {
	var e encoder
	b := e.begin(nil)
	for _, f := range []exchange.Field{
		{Name: "a b", Value: "dropped"}, {Name: "", Value: "dropped"}, {Name: ":status", Value: "dropped"},
		{Name: "X-A", Value: "1\r\nset-cookie: x\x00"},
	} {
		b = e.appendField(b, &f)
	}
	fields, err := hpack.NewDecoder(4096, nil).DecodeFull(b)
	if err != nil || len(fields) != 1 || fields[0].Name != "x-a" || fields[0].Value != "1  set-cookie: x " {
		t.Errorf("%q %v", fields, err)
	}
}

// A block that is larger than a frame continues in others.
func TestEndHeaders(t *testing.T) {
	for _, size := range []int{0, 1, 16383, 16384, 16385, 40000, 49152} {
		block := make([]byte, size)
		for i := range block {
			block[i] = byte(i)
		}
		b := beginHeaders([]byte("before"))
		b = append(b, block...)
		b = endHeaders(b, len("before"), 7, true, minFrameSize)
		f := framer{buf: b[len("before"):], limit: minFrameSize}
		f.w = len(f.buf)
		var got []byte
		for first := true; ; first = false {
			h, p, ok, err := f.next()
			if err != nil || !ok {
				t.Fatal(size, ok, err)
			}
			if (h.kind == frameHeaders) != first || h.stream != 7 || first != (h.kind == frameHeaders && h.flags.has(flagEndStream)) {
				t.Fatalf("%d: %+v", size, h)
			}
			if got = append(got, p...); h.flags.has(flagEndHeaders) {
				break
			}
		}
		if !slices.Equal(got, block) || f.r != f.w {
			t.Errorf("%d: %d bytes came out", size, len(got))
		}
	}
}

// decode decodes a block of name, value pairs.
func decode(t *testing.T, kind section.Kind, pairs ...string) (section.Section, exchange.Fields) {
	t.Helper()
	var b strings.Builder
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	var fields exchange.Fields
	d := decoder{Reader: section.Reader{MaxBytes: 1000, MaxCount: 20}}
	d.begin(kind, &fields, &exchange.Arena{})
	block := b.String()
	for i := range len(block) {
		d.pieces = 0
		if err := d.add([]byte(block[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	return d.Section, fields
}

func TestDecoderFields(t *testing.T) {
	block, fields := decode(t, section.Request, ":method", "GET", "cookie", "a=1", "x", "y", "cookie", "b=2", "cookie", "c=3", "te", "trailers", "content-length", "3")
	if block.Malformed != "" || block.Method != "GET" || block.Length != 3 || len(fields) != 3 || fields[0].Value != "a=1; b=2; c=3" {
		t.Errorf("%+v %q", block, fields)
	}
	for want, cases := range map[string][][]string{
		"field_name":              {{"", "x"}, {"A", "x"}, {"Host", "x"}, {"a b", "x"}, {"a:", "x"}, {"é", "x"}},
		"field_value":             {{"a", "\r"}, {"a", "\n"}, {"a", "\x00"}, {"a", "\x7f"}, {"a", " x"}, {"a", "x\t"}, {":path", "\n"}},
		"pseudo_field_place":      {{"a", "b", ":method", "GET"}},
		"pseudo_field":            {{":status", "200"}, {":x", ""}, {":", ""}, {":Method", "GET"}},
		"pseudo_field_repeated":   {{":path", "/", ":path", "/"}},
		"connection_field":        {{"connection", "close"}, {"keep-alive", ""}, {"proxy-connection", ""}, {"transfer-encoding", "chunked"}, {"upgrade", "h2c"}},
		"te":                      {{"te", "gzip"}, {"te", "trailers, deflate"}},
		"content_length":          {{"content-length", ""}, {"content-length", "-1"}, {"content-length", "1,1"}},
		"content_length_repeated": {{"content-length", "1", "content-length", "1"}},
	} {
		for _, c := range cases {
			if block, _ := decode(t, section.Request, c...); block.Malformed != want {
				t.Errorf("%q: %q, want %q", c, block.Malformed, want)
			}
		}
	}
	if block, _ := decode(t, section.Response, ":status", "099"); block.Malformed != "status" {
		t.Error(block)
	}
	if block, _ := decode(t, section.Trailers, ":status", "200"); block.Malformed != "pseudo_field_place" {
		t.Error(block)
	}
	if block, fields := decode(t, section.Trailers, "authorization", "x", "grpc-status", "0"); block.Malformed != "" || len(fields) != 1 {
		t.Error(block, fields)
	}
	if block, _ := decode(t, section.Request, "a", strings.Repeat("x", 1000)); !block.TooLarge {
		t.Error("a list that is too large is taken")
	}
}

// Bombs: what is small on the wire and large in memory, and what never ends.
func TestDecoderBounds(t *testing.T) {
	var b strings.Builder
	enc := hpack.NewEncoder(&b)
	_ = enc.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("x", 900)})
	for range 100 {
		_ = enc.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("x", 900)})
	}
	bomb := b.String()
	b.Reset()
	enc = hpack.NewEncoder(&b)
	for i := range 200 {
		_ = enc.WriteField(hpack.HeaderField{Name: "cookie", Value: fmt.Sprint(i % 10)})
	}
	cookies := b.String()
	for want, block := range map[*connError]string{
		errHeaderBomb:  bomb,
		errHeaderFlood: strings.Repeat("\x00\x01a\x01b", 500),
		errCompression: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		var fields exchange.Fields
		d := decoder{Reader: section.Reader{MaxBytes: 1000, MaxCount: 20}}
		d.begin(section.Request, &fields, &exchange.Arena{})
		if err := d.add([]byte(block)); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	d := decoder{Reader: section.Reader{MaxBytes: 1000, MaxCount: 20}}
	var fields exchange.Fields
	d.begin(section.Request, &fields, &exchange.Arena{})
	var err *connError
	for i := 0; err == nil && i < 1000; i++ {
		err = d.add(nil)
	}
	if err != errContinuations {
		t.Errorf("empty frames: %v", err)
	}
	d = decoder{Reader: section.Reader{MaxBytes: 1000, MaxCount: 20}}
	d.begin(section.Request, &fields, &exchange.Arena{})
	if err := d.add([]byte(cookies)); err != errHeaderBomb {
		t.Errorf("tiny cookies: %v", err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0x82, 0x86, 0x84, 0x41, 0x01, 'a'}, uint8(0))
	f.Add([]byte("\x40\x01a\x01b\xbe\xbe\x20\x3f\xe1\x1f"), uint8(1))
	f.Add([]byte{0x60, 0x02, 'a', '='}, uint8(2))
	f.Fuzz(func(t *testing.T, block []byte, kind uint8) {
		d := decoder{Reader: section.Reader{MaxBytes: 500, MaxCount: 10}}
		var fields exchange.Fields
		d.begin(section.Kind(kind%3), &fields, &exchange.Arena{})
		if d.add(block) != nil || d.end() != nil || d.Malformed != "" {
			return
		}
		for _, f := range fields {
			if !section.ValidName(f.Name) || f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") || f.Key == exchange.KeyHost ||
				f.Key == exchange.KeyContentLength || f.Key == exchange.KeyTransferEncoding || f.Key == exchange.KeyConnection {
				t.Errorf("%q", f)
			}
		}
		if len(fields) > 10 {
			t.Errorf("%d fields", len(fields))
		}
		// What was taken can be sent, and reads the same.
		var e encoder
		b := e.begin(nil)
		for i := range fields {
			b = e.appendField(b, &fields[i])
		}
		got, err := hpack.NewDecoder(4096, nil).DecodeFull(b)
		if err != nil || len(got) != len(fields) {
			t.Fatal(err, got, fields)
		}
		for i := range got {
			if got[i].Name != fields[i].Name || got[i].Value != fields[i].Value {
				t.Errorf("%q became %q", fields[i], got[i])
			}
		}
	})
}

func FuzzFramer(f *testing.F) {
	f.Add(appendData(appendSettings(nil, setting{settingMaxFrameSize, 1 << 14}), 1, []byte("x"), true), uint8(3))
	f.Add(appendGoAway(appendPing(appendWindowUpdate(appendRSTStream(nil, 3, Cancel), 0, 1), true, [8]byte{}), 7, NoError, "why"), uint8(1))
	f.Add([]byte("\x00\x00\x04\x00\x08\x00\x00\x00\x01\x05abc"), uint8(9))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		// However the bytes come, the same frames come out.
		cut := func(piece int) (out string) {
			fr := framer{buf: in, limit: minFrameSize}
			for {
				h, p, ok, err := fr.next()
				switch {
				case err != nil:
					return out + err.Error()
				case ok:
					if len(p) != int(h.length) {
						t.Fatal(h, len(p))
					}
					p, err := h.unpad(p)
					out += fmt.Sprintf("%+v %q %v\n", h, p, err)
				case fr.w == len(in):
					return out
				default:
					if fr.missing() <= 0 {
						t.Fatal("nothing is missing, and no frame is there")
					}
					fr.w = min(fr.w+piece, len(in))
				}
			}
		}
		if a, b := cut(len(in)+1), cut(int(piece)+1); a != b {
			t.Errorf("%s, in pieces\n%s", a, b)
		}
	})
}
