package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// v2 makes a header of version 2 from its thirteenth byte on, with the right length.
func v2(command, family byte, rest ...byte) string {
	b := append([]byte(signature), command, family, 0, 0)
	binary.BigEndian.PutUint16(b[14:], uint16(len(rest)))
	return string(append(b, rest...))
}

// v4 are the addresses of AF_INET.
var v4 = []byte{192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb}

func with(addresses []byte, tlvs TLVs) []byte { return append(bytes.Clone(addresses), tlvs...) }

// summed appends a checksum TLV that is right but for flip.
func summed(command, family byte, rest []byte, flip byte) string {
	rest = with(rest, TLVs(nil).With(checksum, make([]byte, 4)))
	header := []byte(v2(command, family, rest...))
	sum := crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(header[len(header)-4:], sum)
	header[len(header)-1] ^= flip
	return string(header)
}

var ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

func TestParse(t *testing.T) {
	ssl := (&SSLInfo{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256", Certificate: true, Verified: true, CommonName: "agent"}).Append(nil)
	all := TLVs(nil).With(ALPN, []byte("h2")).With(Authority, []byte("example.com")).With(SSL, ssl).
		With(UniqueID, bytes.Repeat([]byte{7}, 128)).With(NetNS, []byte("blue")).With(0xea, []byte("\x01vpce-08d2bf15fac5001c9"))
	sixes := append(append(bytes.Repeat([]byte{0x20}, 16), bytes.Repeat([]byte{0xfe}, 16)...), 0, 1, 0, 2)
	paths := make([]byte, 216)
	copy(paths, "/run/client\x00garbage")
	copy(paths[108:], strings.Repeat("x", 108))
	for _, tt := range []struct {
		name, in string
		want     Header
	}{
		// The examples of section 2.1.
		{"TCP4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
			Header{Version: 1, Source: ap("255.255.255.255:65535"), Destination: ap("255.255.255.255:65535")}},
		{"TCP6", "PROXY TCP6 " + ones + " " + ones + " 65535 65535\r\n",
			Header{Version: 1, Source: ap("[" + ones + "]:65535"), Destination: ap("[" + ones + "]:65535")}},
		{"UNKNOWN", "PROXY UNKNOWN\r\n", Header{Version: 1}},
		{"the longest line", "PROXY UNKNOWN " + ones + " " + ones + " 65535 65535\r\n", Header{Version: 1}},
		{"section 2.1's last", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
			Header{Version: 1, Source: ap("192.168.0.1:56324"), Destination: ap("192.168.0.11:443")}},
		{"port 0", "PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", Header{Version: 1, Source: ap("1.2.3.4:0"), Destination: ap("5.6.7.8:0")}},
		{"mapped", "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", Header{Version: 1, Source: ap("1.2.3.4:1"), Destination: ap("[::1]:2")}},

		{"LOCAL", v2(0x20, 0x00), Header{Version: 2, Local: true}},
		{"LOCAL with what is discarded", v2(0x20, 0xff, 1, 2, 3), Header{Version: 2, Local: true}},
		{"UNSPEC", v2(0x21, 0x00, 9, 9), Header{Version: 2}},
		{"INET", v2(0x21, 0x11, v4...), Header{Version: 2, Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443")}},
		{"INET, DGRAM", v2(0x21, 0x12, v4...), Header{Version: 2, Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443")}},
		{"INET6", v2(0x21, 0x21, sixes...), Header{Version: 2,
			Source:      ap("[2020:2020:2020:2020:2020:2020:2020:2020]:1"),
			Destination: ap("[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:2")}},
		{"UNIX", v2(0x21, 0x31, paths...), Header{Version: 2, SourcePath: "/run/client", DestinationPath: strings.Repeat("x", 108)}},
		{"TLVs", v2(0x21, 0x11, with(v4, all)...), Header{Version: 2, Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443"), TLVs: all}},
		{"padding", v2(0x21, 0x11, with(v4, TLVs(nil).With(padding, nil).With(padding, []byte("xx")))...),
			Header{Version: 2, Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443")}},
		{"checksum", summed(0x21, 0x11, with(v4, all), 0),
			Header{Version: 2, Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443"), TLVs: all}},
	} {
		got, err := Parse([]byte(tt.in))
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
			continue
		}
		if size, err := Size([]byte(tt.in + "GET / HTTP/1.1\r\n")); size != len(tt.in) || err != nil {
			t.Errorf("%s: Size %d, %v; want %d", tt.name, size, err, len(tt.in))
		}
		// Cut anywhere, it is neither whole nor wrong.
		for i := range len(tt.in) {
			if size, err := Size([]byte(tt.in[:i])); err != nil || size != 0 && size != len(tt.in) {
				t.Errorf("%s: Size of the first %d bytes is %d, %v", tt.name, i, size, err)
			}
			if h, err := Parse([]byte(tt.in[:i])); err == nil {
				t.Errorf("%s: the first %d bytes are %+v", tt.name, i, h)
			}
		}
	}
}

func TestParseMalformed(t *testing.T) {
	id := TLVs(nil).With(UniqueID, make([]byte, 129))
	twice := TLVs(nil).With(checksum, make([]byte, 4))
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"HTTP", "GET / HTTP/1.1\r\n", ErrNone},
		{"TLS", "\x16\x03\x01\x02\x00\x01", ErrNone},
		{"a method like it", "PROPFIND / HTTP/1.1\r\n", ErrNone},
		{"lower case", "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ErrNone},
		{"tab", "PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n", ErrNone},
		{"empty lines", "\r\n\r\nGET / HTTP/1.1\r\n", ErrNone},
		{"LF alone", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", errLine},
		{"CR alone", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rGET", errLine},
		{"CR CR LF", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n", errLine},
		{"CR within UNKNOWN", "PROXY UNKNOWN a\rb\r\n", errLine},
		{"too long", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", errLongLine},
		{"endless", "PROXY UNKNOWN " + strings.Repeat("x", 4000), errLongLine},
		{"two spaces", "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", errLine},
		{"space at the end", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", errLine},
		{"no family", "PROXY \r\n", errLine},
		{"unknown family", "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", errLine},
		{"UNKNOWN and more", "PROXY UNKNOWNS\r\n", errLine},
		{"a port missing", "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", errLine},
		{"a port too many", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", errLine},
		{"port with leading zero", "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", errLine},
		{"port 00", "PROXY TCP4 1.2.3.4 5.6.7.8 00 2\r\n", errLine},
		{"port too large", "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", errLine},
		{"signed port", "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", errLine},
		{"empty port", "PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n", errLine},
		{"address with leading zeros", "PROXY TCP4 001.2.3.4 5.6.7.8 1 2\r\n", errLine},
		{"short address", "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", errLine},
		{"IPv6 in TCP4", "PROXY TCP4 ::1 ::1 1 2\r\n", errLine},
		{"IPv4 in TCP6", "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", errLine},
		{"zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", errLine},
		{"brackets", "PROXY TCP6 [::1] ::1 1 2\r\n", errLine},

		{"version 1 in binary", signature + "\x11\x11\x00\x0c" + string(v4), errVersion},
		{"version 3", signature + "\x31\x11\x00\x0c" + string(v4), errVersion},
		{"unknown command", v2(0x22, 0x11, v4...), errCommand},
		{"unknown family", v2(0x21, 0x41, v4...), errFamily},
		{"unknown transport", v2(0x21, 0x13, v4...), errFamily},
		{"short INET", v2(0x21, 0x11, v4[:11]...), errLength},
		{"short INET6", v2(0x21, 0x21, v4...), errLength},
		{"short UNIX", v2(0x21, 0x31, make([]byte, 215)...), errLength},
		{"too long", signature + "\x21\x11\xff\xff", errSize},
		{"TLV cut off", v2(0x21, 0x11, with(v4, TLVs{ALPN, 0, 2, 'h'})...), errTLV},
		{"TLV without length", v2(0x21, 0x11, with(v4, TLVs{ALPN, 0})...), errTLV},
		{"UNIQUE_ID too long", v2(0x21, 0x11, with(v4, id)...), errTLV},
		{"SSL too short", v2(0x21, 0x11, with(v4, TLVs(nil).With(SSL, make([]byte, 4)))...), errTLV},
		{"TLV within SSL cut off", v2(0x21, 0x11, with(v4, TLVs(nil).With(SSL, []byte{1, 0, 0, 0, 0, 0x21, 0, 9, 'x'}))...), errTLV},
		{"wrong checksum", summed(0x21, 0x11, v4, 1), errChecksum},
		{"short checksum", v2(0x21, 0x11, with(v4, TLVs(nil).With(checksum, make([]byte, 3)))...), errTLV},
		{"two checksums", summed(0x21, 0x11, with(v4, twice), 0), errChecksum},
	} {
		if h, err := Parse([]byte(tt.in)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v; want %v", tt.name, h, err, tt.want)
		}
	}
}

func TestAppend(t *testing.T) {
	tlvs := TLVs(nil).With(Authority, []byte("example.com"))
	huge := tlvs.With(0xe0, make([]byte, MaxSize)).With(0xe1, []byte("x"))
	four, six := Header{Source: ap("192.0.2.1:56324"), Destination: ap("198.51.100.2:443")}, Header{Source: ap("[2001:db8::1]:1"), Destination: ap("[::1]:2")}
	mixed := Header{Source: ap("[2001:db8::1%x]:1"), Destination: ap("198.51.100.2:443"), TLVs: huge}
	local := Header{Local: true, Source: four.Source, Destination: four.Destination, TLVs: tlvs}
	as := func(h Header, version int) Header { h.Version = version; return h }
	for _, tt := range []struct {
		h    Header
		want string
	}{
		{as(four, 1), "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"},
		{as(six, 1), "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"},
		{as(mixed, 1), "PROXY TCP6 2001:db8::1 ::ffff:198.51.100.2 1 443\r\n"},
		{as(local, 1), "PROXY UNKNOWN\r\n"},
		{as(Header{}, 1), "PROXY UNKNOWN\r\n"},
		{as(four, 2), v2(0x21, 0x11, v4...)},
		{as(Header{Source: four.Source, Destination: four.Destination, TLVs: tlvs}, 2), v2(0x21, 0x11, with(v4, tlvs)...)},
		{as(mixed, 2), v2(0x21, 0x21, append(append(append([]byte("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"),
			"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x02\x00\x01\x01\xbb"...), tlvs...), "\xe1\x00\x01x"...)...)},
		{as(local, 2), v2(0x20, 0x00)},
		{as(Header{}, 2), v2(0x21, 0x00)},
	} {
		got := tt.h.Append([]byte("x"))
		if string(got) != "x"+tt.want {
			t.Errorf("%+v:\n%q, want\n%q", tt.h, got[1:], tt.want)
		}
		if _, err := Parse(got[1:]); err != nil {
			t.Errorf("%q: %v", got[1:], err)
		}
	}
}

func TestSSL(t *testing.T) {
	for _, want := range []SSLInfo{
		{},
		{Version: "TLSv1.2", Cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		{Certificate: true, CommonName: "x"},
		{Certificate: true, Verified: true, CommonName: "x"},
	} {
		if got, ok := ParseSSL(want.Append(nil)); !ok || got != want {
			t.Errorf("%+v, %v; want %+v", got, ok, want)
		}
	}
}

// pipe is a TCP connection with both its ends.
func pipe(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestRead wants every byte after a header to be there, however it comes.
func TestRead(t *testing.T) {
	long := v2(0x21, 0x11, with(v4, TLVs(nil).With(0xea, make([]byte, 5000)))...)
	for _, header := range []string{"PROXY UNKNOWN\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", v2(0x21, 0x11, v4...), v2(0x20, 0), long} {
		for _, piece := range []int{1, 7, 100, 1 << 20} {
			if piece == 1 && len(header) > 200 {
				continue
			}
			client, server := pipe(t)
			all := header + "PROXY the content\r\n"
			go func() {
				for rest := all; rest != ""; {
					n := min(piece, len(rest))
					_, _ = io.WriteString(client, rest[:n])
					rest = rest[n:]
				}
				_ = client.CloseWrite()
			}()
			h, rest, err := Read(server)
			if err != nil {
				t.Errorf("%.20q by %d: %v", header, piece, err)
				continue
			}
			want, _ := Parse([]byte(header))
			if !reflect.DeepEqual(h, want) {
				t.Errorf("%.20q by %d: %+v", header, piece, h)
			}
			after, err := io.ReadAll(server)
			if got := string(rest) + string(after); got != all[len(header):] || err != nil {
				t.Errorf("%.20q by %d: then %.40q, %v", header, piece, got, err)
			}
			client.Close()
			server.Close()
		}
	}
}

// TestReadNone wants every byte to be there if there was no header.
func TestReadNone(t *testing.T) {
	for _, all := range []string{"GET / HTTP/1.1\r\n\r\n", "PROPFIND / HTTP/1.1\r\n\r\n", "\r\n\r\n\x00\r\nGET / HTTP/1.1\r\n\r\n"} {
		for _, piece := range []int{1, 100} {
			client, server := pipe(t)
			go func() {
				for rest := all; rest != ""; {
					n := min(piece, len(rest))
					_, _ = io.WriteString(client, rest[:n])
					rest = rest[n:]
				}
				_ = client.CloseWrite()
			}()
			h, rest, err := Read(server)
			if !errors.Is(err, ErrNone) {
				t.Errorf("%q by %d: %+v, %v", all, piece, h, err)
			}
			after, err := io.ReadAll(server)
			if got := string(rest) + string(after); got != all || err != nil {
				t.Errorf("%q by %d: %q and %q, %v", all, piece, rest, after, err)
			}
		}
	}
}

func TestReadEnds(t *testing.T) {
	for sent, want := range map[string]error{
		"":                                 io.EOF,
		"PROXY TCP4 1.2.3.4":               io.ErrUnexpectedEOF,
		v2(0x21, 0x11)[:14]:                io.ErrUnexpectedEOF,
		signature + "\x21\x11\x00\x0c1234": io.ErrUnexpectedEOF,
	} {
		client, server := pipe(t)
		_, _ = io.WriteString(client, sent)
		_ = client.CloseWrite()
		if _, _, err := Read(server); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", sent, err, want)
		}
	}
	client, server := pipe(t)
	_, _ = io.WriteString(client, "PROXY TCP4 1.2.3.4")
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, _, err := Read(server); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("slow: %v", err)
	}
}

// FuzzParse wants what is read to be written and read again as the same, and
// Size to agree with itself and with Parse.
func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN x\r\n"))
	f.Add([]byte("PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n"))
	f.Add([]byte(v2(0x20, 0)))
	f.Add([]byte(v2(0x21, 0x11, with(v4, TLVs(nil).With(SSL, (&SSLInfo{Version: "TLSv1.3"}).Append(nil)).With(padding, nil))...)))
	f.Add([]byte(summed(0x21, 0x11, v4, 0)))
	f.Add([]byte(v2(0x21, 0x31, make([]byte, 216)...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, err := Size(b)
		for i := range min(len(b), 2*fixed) {
			if n, err := Size(b[:i]); err == nil && n != 0 && n != size {
				t.Fatalf("%d bytes are said to be %d, all are %d", i, n, size)
			} else if err != nil && size > 0 {
				t.Fatalf("%d bytes are wrong, all are right: %v", i, err)
			}
		}
		h, parseErr := Parse(b)
		if parseErr == nil && (err != nil || size == 0 || size > len(b)) {
			t.Fatalf("parsed, but Size says %d, %v", size, err)
		}
		if parseErr != nil {
			return
		}
		again, err := Parse(h.Append(nil))
		if err != nil {
			t.Fatalf("%+v was written as %q: %v", h, h.Append(nil), err)
		}
		h.SourcePath, h.DestinationPath = "", ""
		if !h.Source.IsValid() || !h.Destination.IsValid() {
			h.TLVs = nil
		}
		if h.Version == 1 {
			again.Local = h.Local
		}
		if !reflect.DeepEqual(h, again) {
			t.Fatalf("%+v became %+v", h, again)
		}
	})
}
