package h2_test

import (
	"io"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// A connection without a request rests, and goes on with the next, but not
// for longer than it may be idle; one with a request does not.
func TestServerRests(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	f := serveH2(t, &handler{serve: func(ex *exchange.Exchange) {
		if ex.In.Path == "/slow" {
			close(began)
			<-end
		}
		ex.Answer(200, "test", "ok")
	}}, &h2.ServerOptions{RestAfter: time.Millisecond, IdleTimeout: 3 * time.Second})
	c := f.web()
	get := func(path string) {
		t.Helper()
		res, err := c.Get(f.url(path))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if text, err := io.ReadAll(res.Body); err != nil || string(text) != "ok" {
			t.Fatalf("%q, %v", text, err)
		}
	}
	rested := func() {
		t.Helper()
		before := f.rests.Load()
		for limit := time.Now().Add(20 * time.Second); f.rests.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatal("the connection does not rest")
			}
		}
	}
	for range 2 {
		get("/")
		rested()
	}
	slow := make(chan struct{})
	go func() {
		defer close(slow)
		get("/slow")
	}()
	<-began
	before := f.rests.Load()
	time.Sleep(700 * time.Millisecond) // what a rest would take
	if f.rests.Load() != before {
		t.Error("the connection rests amid a request")
	}
	close(end)
	<-slow
	rested()
	f.mu.Lock()
	n := len(f.conns)
	f.mu.Unlock()
	if n != 1 {
		t.Errorf("%d connections, want one that lasts", n)
	}
	done := make(chan struct{})
	go func() {
		f.group.Wait()
		close(done)
	}()
	_ = f.ln.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("the connection outlives its idle timeout")
	}
}
