package h2_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/headgate/headgate/dataplane/h2"
)

// TestClientDeadlineWhileWriting has a peer that reads nothing any more, over
// what is no plain socket (TLS, in real life): an exchange with a deadline keeps
// to it, also when it is the one that writes.
func TestClientDeadlineWhileWriting(t *testing.T) {
	for _, tt := range []struct {
		what, method, content string
	}{
		{"the head", "GET", ""},
		{"content that is ready", "PUT", "content"},
		{"content that takes many writes", "PUT", strings.Repeat("x", 1<<20)},
	} {
		t.Run(tt.what, func(t *testing.T) {
			nc, peer := net.Pipe()
			settled, stuck := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stuck)
				f := http2.NewFramer(peer, peer)
				if _, err := io.ReadFull(peer, make([]byte, len(h2.Preface))); err != nil {
					t.Error(err)
				}
				// Each side's SETTINGS, and then nothing more.
				go f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
				for acks := 0; acks == 0; {
					frame, err := f.ReadFrame()
					if err != nil {
						t.Error(err)
						break
					}
					if s, ok := frame.(*http2.SettingsFrame); ok && s.IsAck() {
						acks++
					}
				}
				close(settled)
			}()
			c := h2.NewClientConn(nc, &h2.ClientOptions{WriteTimeout: time.Hour})
			c.Start(nil)
			defer func() {
				peer.Close()
				c.Close()
				<-stuck
			}()
			<-settled
			ex := request(tt.method, "/")
			if tt.content != "" {
				ex.Out.Body, ex.Out.Length = body(ex, tt.content), int64(len(tt.content))
			}
			ex.Deadline = time.Now().Add(50 * time.Millisecond)
			k := start(t, c, ex)
			if up := k.fails(t); up.Reason != "timeout" {
				t.Errorf("%v", up)
			}
		})
	}
}
