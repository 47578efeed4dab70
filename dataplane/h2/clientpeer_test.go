package h2_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// upstreamPeer is a server that does as the test says, frame by frame.
type upstreamPeer struct {
	mute   atomic.Bool // does not answer PINGs
	t      testing.TB
	nc     net.Conn
	f      *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	frames chan any // *got, or an error at the end
}

// got is a frame that the client sent.
type got struct {
	http2.FrameHeader
	payload []byte
	fields  map[string]string // of HEADERS
}

// newPeer starts a peer that has sent its SETTINGS, and the client of it.
func newPeer(t testing.TB, opts *h2.ClientOptions, settings ...http2.Setting) (*upstreamPeer, *h2.ClientConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := &upstreamPeer{t: t, frames: make(chan any, 1<<12)}
	if p.nc, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	p.f = http2.NewFramer(p.nc, p.nc)
	p.f.AllowIllegalReads, p.f.AllowIllegalWrites = true, true
	p.enc = hpack.NewEncoder(&p.block)
	c := h2.NewClientConn(nc, opts)
	c.Start(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.read()
	}()
	t.Cleanup(func() {
		c.Close()
		p.nc.Close()
		<-done
	})
	if err := p.f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	p.want(http2.FrameSettings) // its own
	for p.want(http2.FrameSettings).Flags&http2.FlagSettingsAck == 0 {
		t.Fatal("no acknowledgement of SETTINGS")
	}
	return p, c
}

func (p *upstreamPeer) read() {
	if _, err := io.ReadFull(p.nc, make([]byte, len(h2.Preface))); err != nil {
		p.frames <- err
		return
	}
	fields := map[string]string{}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) { fields[f.Name] = f.Value })
	f := http2.NewFramer(p.nc, p.nc) // p.f is the test's
	f.AllowIllegalReads = true
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			p.frames <- err
			return
		}
		g := &got{FrameHeader: frame.Header()}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			g.payload = bytes.Clone(frame.Data())
		case *http2.HeadersFrame:
			fields = map[string]string{}
			if _, err := dec.Write(frame.HeaderBlockFragment()); err != nil {
				p.t.Errorf("a field block that can't be decoded: %v", err)
			}
			g.fields = fields
		case *http2.RSTStreamFrame:
			g.payload = []byte(frame.ErrCode.String())
		case *http2.GoAwayFrame:
			g.payload = []byte(frame.ErrCode.String())
		case *http2.PingFrame:
			if !frame.IsAck() && frame.Data != [8]byte{'a', 'l', 'i', 'v', 'e'} && !p.mute.Load() {
				f.WritePing(true, frame.Data)
			}
			g.payload = bytes.Clone(frame.Data[:])
		case *http2.WindowUpdateFrame:
			g.payload = []byte{byte(frame.Increment >> 24), byte(frame.Increment >> 16), byte(frame.Increment >> 8), byte(frame.Increment)}
		}
		p.frames <- g
	}
}

// next returns the next frame that is none of the connection's business.
func (p *upstreamPeer) want(kind http2.FrameType) *got {
	p.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case f := <-p.frames:
			switch f := f.(type) {
			case error:
				p.t.Fatalf("the client has ended the connection, %v was awaited: %v", kind, f)
			case *got:
				if f.Type == kind {
					return f
				}
				if f.Type != http2.FrameWindowUpdate && f.Type != http2.FramePing && f.Type != http2.FrameSettings {
					p.t.Fatalf("%v came, %v was awaited", f, kind)
				}
			}
		case <-timeout:
			p.t.Fatalf("%v did not come", kind)
		}
	}
}

// ends waits for the end of the connection and returns GOAWAY's code.
func (p *upstreamPeer) ends() (code string) {
	p.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case f := <-p.frames:
			switch f := f.(type) {
			case error:
				return code
			case *got:
				if f.Type == http2.FrameGoAway {
					code = string(f.payload)
				}
			}
		case <-timeout:
			p.t.Fatal("the connection did not end")
		}
	}
}

// headers sends HEADERS with fields "name: value".
func (p *upstreamPeer) headers(stream uint32, end bool, lines ...string) {
	p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.encode(lines...), EndHeaders: true, EndStream: end})
}

func (p *upstreamPeer) encode(lines ...string) []byte {
	p.block.Reset()
	for _, line := range lines {
		name, value, _ := strings.Cut(line[1:], ": ")
		p.enc.WriteField(hpack.HeaderField{Name: line[:1] + name, Value: value})
	}
	return p.block.Bytes()
}

// call is an exchange in progress.
type call struct {
	ex  *exchange.Exchange
	s   *h2.ClientStream
	err chan error
}

func start(t testing.TB, c *h2.ClientConn, ex *exchange.Exchange) *call {
	t.Helper()
	k := &call{ex: ex, s: open(t, c), err: make(chan error, 1)}
	go func() { k.err <- k.s.RoundTrip(ex) }()
	return k
}

func (k *call) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-k.err:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the round trip did not end")
		return nil
	}
}

// fails waits for the round trip to fail upstream, and finishes.
func (k *call) fails(t testing.TB) *exchange.UpstreamError {
	t.Helper()
	err := k.wait(t)
	k.s.Finish()
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		t.Fatalf("got %v, status %d; want an upstream error", err, k.ex.Response.Status)
	}
	return up
}

// succeeds waits for the response and returns its content.
func (k *call) succeeds(t testing.TB) string {
	t.Helper()
	if err := k.wait(t); err != nil {
		t.Fatal(err)
	}
	text, err := readAll(k.ex)
	if err != nil {
		t.Fatal(err)
	}
	k.s.Finish()
	return text
}

// works makes an exchange to see that the connection is well.
func works(t testing.TB, p *upstreamPeer, c *h2.ClientConn) {
	t.Helper()
	k := start(t, c, request("GET", "/works"))
	h := p.want(http2.FrameHeaders)
	p.headers(h.StreamID, false, ":status: 200")
	p.f.WriteData(h.StreamID, true, []byte("ok"))
	if text := k.succeeds(t); text != "ok" {
		t.Errorf("%q", text)
	}
}

func TestClientInterim(t *testing.T) {
	p, c := newPeer(t, nil)
	ex := request("GET", "/")
	k := start(t, c, ex)
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 103", "link: a")
	p.headers(id, false, ":status: 100")
	p.headers(id, false, ":status: 102")
	p.headers(id, true, ":status: 200")
	k.succeeds(t)
	if got := ex.Client.(*informed).got; len(got) != 2 || !strings.HasPrefix(got[0], "103") || !strings.HasPrefix(got[1], "102") {
		t.Errorf("%q", got)
	}
	k = start(t, c, request("GET", "/"))
	id = p.want(http2.FrameHeaders).StreamID
	for range 65 {
		p.headers(id, false, ":status: 103")
	}
	if up := k.fails(t); up.Reason != "malformed_response" {
		t.Errorf("%+v", up)
	}
}

// TestClientExpect holds content back until the peer asks for it, has answered,
// or has been silent for long enough.
func TestClientExpect(t *testing.T) {
	expecting := func() (*exchange.Exchange, *pieces) {
		ex := request("PUT", "/")
		b := body(ex, "", "content")
		ex.Out.Body, ex.Out.Length, ex.Out.ExpectContinue = b, 7, true
		return ex, b
	}
	p, c := newPeer(t, &h2.ClientOptions{ContinueTimeout: 10 * time.Second})
	t.Run("asked for", func(t *testing.T) {
		ex, b := expecting()
		k := start(t, c, ex)
		h := p.want(http2.FrameHeaders)
		if h.fields["expect"] != "100-continue" {
			t.Errorf("%v", h.fields)
		}
		b.resume() // what is there now is held back all the same
		p.headers(h.StreamID, false, ":status: 100")
		if d := p.want(http2.FrameData); string(d.payload) != "content" {
			t.Errorf("%q", d.payload)
		}
		p.headers(h.StreamID, true, ":status: 200")
		k.succeeds(t)
	})
	t.Run("refused", func(t *testing.T) {
		ex, _ := expecting()
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, true, ":status: 417")
		k.succeeds(t)
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "NO_ERROR" {
			t.Errorf("%s", rst.payload)
		}
	})
	works(t, p, c)
	p, c = newPeer(t, &h2.ClientOptions{ContinueTimeout: 10 * time.Millisecond})
	t.Run("silence", func(t *testing.T) {
		ex, b := expecting()
		b.resume()
		b.paused = true
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		b.resume()
		if d := p.want(http2.FrameData); string(d.payload) != "content" {
			t.Errorf("%q", d.payload)
		}
		p.headers(id, true, ":status: 200")
		k.succeeds(t)
	})
}

func TestClientDeadlines(t *testing.T) {
	p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	t.Run("head", func(t *testing.T) {
		ex := request("GET", "/")
		ex.TryDeadline = time.Now().Add(500 * time.Millisecond) // the request is sent by then
		ex.Deadline = ex.TryDeadline.Add(time.Hour)
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		if up := k.fails(t); up.Reason != "timeout" || up.Stage != exchange.Sending {
			t.Errorf("%+v", up)
		}
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
	})
	works(t, p, c) // once the peer has seen the reset
	t.Run("content", func(t *testing.T) {
		ex := request("GET", "/")
		ex.Deadline = time.Now().Add(2 * time.Second) // the head has come by then
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200")
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		text, err := readAll(ex)
		var up *exchange.UpstreamError
		if text != "some" || !errors.As(err, &up) || up.Reason != "timeout" || up.Stage != exchange.Receiving {
			t.Errorf("%q %v", text, err)
		}
		k.s.Finish()
		p.want(http2.FrameRSTStream)
	})
	works(t, p, c)
	t.Run("silence", func(t *testing.T) {
		p, c := newPeer(t, &h2.ClientOptions{ReadTimeout: 100 * time.Millisecond})
		k := start(t, c, request("GET", "/"))
		p.want(http2.FrameHeaders)
		if up := k.fails(t); up.Reason != "timeout" {
			t.Errorf("%+v", up)
		}
		p.want(http2.FrameRSTStream)
	})
}

// TestClientAborts ends streams whose clients are gone.
func TestClientAborts(t *testing.T) {
	p, c := newPeer(t, nil)
	t.Run("while sending", func(t *testing.T) {
		ex := request("PUT", "/")
		b := body(ex, "con", "", "tent")
		gone := &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: io.ErrUnexpectedEOF}
		b.list, b.err = b.list[:2], gone
		ex.Out.Body, ex.Out.Length = b, 7
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		p.want(http2.FrameData)
		b.resume()
		err := k.wait(t)
		var client *exchange.ClientError
		if !errors.As(err, &client) || client != gone {
			t.Errorf("%v", err)
		}
		k.s.Finish()
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
	})
	t.Run("too short", func(t *testing.T) {
		ex := request("PUT", "/")
		ex.Out.Body, ex.Out.Length = body(ex, "con"), 7
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		var client *exchange.ClientError
		if err := k.wait(t); !errors.As(err, &client) {
			t.Errorf("%v", err)
		}
		k.s.Finish()
		p.want(http2.FrameData)
		p.want(http2.FrameRSTStream)
	})
	t.Run("while receiving", func(t *testing.T) {
		k := start(t, c, request("GET", "/"))
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200")
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		k.ex.Response.Body.Close()
		k.s.Finish()
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
		p.f.WriteData(id, false, []byte("more")) // was on its way
		p.headers(id, true, "x: y")
	})
	works(t, p, c)
}

// TestClientEarlyResponse answers before it has all of the request.
func TestClientEarlyResponse(t *testing.T) {
	p, c := newPeer(t, nil)
	for name, reset := range map[string]bool{"and resets": true, "and leaves it to the client": false} {
		t.Run(name, func(t *testing.T) {
			ex := request("PUT", "/")
			b := body(ex, "con", "", "tent")
			ex.Out.Body, ex.Out.Length = b, -1
			k := start(t, c, ex)
			id := p.want(http2.FrameHeaders).StreamID
			p.want(http2.FrameData)
			p.headers(id, false, ":status: 403")
			p.f.WriteData(id, true, []byte("no"))
			if reset {
				p.f.WriteRSTStream(id, http2.ErrCodeNo)
			}
			if text := k.succeeds(t); text != "no" || ex.Response.Status != 403 {
				t.Errorf("%d %q", ex.Response.Status, text)
			}
			if !reset {
				if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "NO_ERROR" {
					t.Errorf("%s", rst.payload)
				}
			}
			works(t, p, c)
		})
	}
}

func TestClientPeerResets(t *testing.T) {
	p, c := newPeer(t, nil)
	k := start(t, c, request("GET", "/"))
	p.f.WriteRSTStream(p.want(http2.FrameHeaders).StreamID, http2.ErrCodeInternal)
	if up := k.fails(t); up.Reason != "reset" || up.Stage != exchange.Sending || up.Unsent {
		t.Errorf("%+v", up)
	}
	k = start(t, c, request("GET", "/"))
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 200")
	p.f.WriteData(id, false, []byte("some"))
	p.f.WriteRSTStream(id, http2.ErrCodeInternal)
	if err := k.wait(t); err != nil {
		t.Fatal(err)
	}
	text, err := readAll(k.ex)
	var up *exchange.UpstreamError
	if text != "some" || !errors.As(err, &up) || up.Reason != "reset" || up.Stage != exchange.Receiving {
		t.Errorf("%q %v", text, err)
	}
	k.s.Finish()
	works(t, p, c)
}

// TestClientLost cuts the connection.
func TestClientLost(t *testing.T) {
	p, c := newPeer(t, nil)
	k := start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	p.nc.Close()
	if up := k.fails(t); up.Stage != exchange.Sending || up.Unsent {
		t.Errorf("the first exchange: %+v", up)
	}
	for _, head := range []string{"content-length: 9", "x: unknown length"} {
		p, c = newPeer(t, nil)
		k = start(t, c, request("GET", "/"))
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200", head)
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		p.nc.Close()
		text, err := readAll(k.ex)
		var up *exchange.UpstreamError
		if text != "some" || !errors.As(err, &up) || up.Stage != exchange.Receiving || up.Reason != "closed" {
			t.Errorf("%s: %q %v", head, text, err)
		}
		k.s.Finish()
	}
	p, c = newPeer(t, nil)
	works(t, p, c)
	k = start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	p.nc.Close()
	if up := k.fails(t); up.Stage != exchange.Stale || up.Unsent {
		t.Errorf("a later exchange: %+v", up)
	}
	if !c.Load().Ended {
		t.Error("it has not ended")
	}
}

// TestClientPings gives up a peer that shows no sign of life, and no other.
func TestClientPings(t *testing.T) {
	p, c := newPeer(t, &h2.ClientOptions{PingInterval: 100 * time.Millisecond, PingTimeout: time.Minute})
	k := start(t, c, request("GET", "/"))
	id := p.want(http2.FrameHeaders).StreamID
	for range 5 {
		ping := p.want(http2.FramePing)
		p.f.WritePing(true, [8]byte(ping.payload))
	}
	p.headers(id, true, ":status: 200")
	k.succeeds(t)

	p, c = newPeer(t, &h2.ClientOptions{PingInterval: 100 * time.Millisecond, PingTimeout: 200 * time.Millisecond})
	k = start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	if up := k.fails(t); up.Reason != "timeout" {
		t.Errorf("%+v", up)
	}
	p.ends()
}

// TestClientPingsAfterTimeouts gives a peer up that has gone, although nobody waits
// for it any more.
func TestClientPingsAfterTimeouts(t *testing.T) {
	p, c := newPeer(t, &h2.ClientOptions{PingInterval: 50 * time.Millisecond, PingTimeout: 50 * time.Millisecond})
	p.mute.Store(true)
	ex := request("GET", "/")
	ex.TryDeadline = time.Now().Add(500 * time.Millisecond) // the request is sent by then
	k := start(t, c, ex)
	p.want(http2.FrameHeaders)
	if up := k.fails(t); up.Reason != "timeout" {
		t.Errorf("%+v", up)
	}
	p.ends()
}

// TestClientAnswersPings answers what the peer asks, up to a bound.
func TestClientAnswersPings(t *testing.T) {
	p, c := newPeer(t, nil)
	p.f.WritePing(false, [8]byte{1, 2, 3})
	if ping := p.want(http2.FramePing); ping.Flags&http2.FlagPingAck == 0 || ping.payload[2] != 3 {
		t.Errorf("%v", ping)
	}
	works(t, p, c)
}
