package dataplane_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// short is a timeout that is over soon, and that a busy machine keeps all the same.
const short = 1500 * time.Millisecond

// slow serves at /echo a WebSocket that echoes, at /pause an answer that pauses
// for twice as long amid its content, and at /endless one without an end.
func slow(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer ws.CloseNow()
			for {
				kind, message, err := ws.Read(r.Context())
				if err != nil || ws.Write(r.Context(), kind, message) != nil {
					return
				}
			}
		case "/pause":
			_, _ = io.WriteString(w, "before, ")
			_ = http.NewResponseController(w).Flush()
			wait(r.Context(), 2*short)
			_, _ = io.WriteString(w, "after")
		case "/endless":
			for wait(r.Context(), 20*time.Millisecond) {
				if _, err := io.WriteString(w, "more "); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// A cluster's timeouts end what is silent or takes too long, and nothing before
// its time; where they are longer than what the codecs have by themselves, they
// hold all the same.
func TestTimeouts(t *testing.T) {
	backend := slow(t)
	cluster := "Service/shop/web/80"
	second := start(t, dataplane.Options{})
	(&world{}).port(plain()).host(gateway, "*", to("/", cluster)).cluster(cluster, backend).apply(t, second)

	serve := func(t *testing.T, protocol string, timeouts snapshot.Timeouts) string {
		opts := dataplane.Options{}
		opts.Upstream.HTTP1 = &h1.ClientOptions{ReadTimeout: short, TunnelTimeout: short}
		opts.Upstream.HTTP2 = &h2.ClientOptions{ReadTimeout: short, TunnelTimeout: short}
		first := start(t, opts)
		w := (&world{}).port(plain()).host(gateway, "*", to("/", cluster))
		if protocol == "h2c" {
			w.h2cCluster(cluster, address(t, second))
		} else {
			w.cluster(cluster, address(t, second))
		}
		c, _ := w.snap.Clusters.Get(cluster)
		c.Timeouts = timeouts
		w.apply(t, first)
		return address(t, first)
	}
	// fetch returns what came, and after how long it ended, by itself or not.
	fetch := func(t *testing.T, at, path string) (content string, took time.Duration, err error) {
		began := time.Now()
		resp, err := client(t).Get("http://" + at + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), time.Since(began), err
	}
	// tunnel asks for an echo each pause, and returns when that no longer works.
	tunnel := func(t *testing.T, at string, pause, most time.Duration) (took time.Duration, ended bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, "ws://"+at+"/echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		for began := time.Now(); ; {
			if took = time.Since(began); took > most {
				return took, false
			}
			if ws.Write(ctx, websocket.MessageText, []byte("m")) != nil {
				return took, true
			}
			if _, _, err := ws.Read(ctx); err != nil {
				return time.Since(began), true
			}
			wait(ctx, pause)
		}
	}
	const patience = 20 * time.Second

	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			t.Run("idle", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Idle: short})
				if content, took, err := fetch(t, at, "/pause"); err == nil || content != "before, " || took < short {
					t.Errorf("after %v: %q, %v; want it cut off, behind %v at the earliest", took, content, err, short)
				}
			})
			t.Run("idle, long", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Idle: time.Minute})
				if content, _, err := fetch(t, at, "/pause"); err != nil || content != "before, after" {
					t.Errorf("%q, %v", content, err)
				}
			})
			t.Run("stream", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Stream: short})
				if content, took, err := fetch(t, at, "/endless"); err == nil || content == "" || took < short || took > patience {
					t.Errorf("after %v: %d bytes, %v; want it cut off", took, len(content), err)
				}
			})
			t.Run("tunnel", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Tunnel: short})
				if took, ended := tunnel(t, at, 2*short, patience); !ended || took < short {
					t.Errorf("ended %v, after %v", ended, took)
				}
			})
			t.Run("tunnel, long", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Tunnel: time.Minute})
				if took, ended := tunnel(t, at, 2*short, 3*short); ended {
					t.Errorf("ended after %v", took)
				}
			})
			t.Run("stream with a tunnel", func(t *testing.T) {
				t.Parallel()
				at := serve(t, protocol, snapshot.Timeouts{Stream: short, Tunnel: time.Minute})
				if took, ended := tunnel(t, at, 20*time.Millisecond, patience); !ended || took < short/2 {
					t.Errorf("ended %v, after %v", ended, took)
				}
			})
		})
	}
}
