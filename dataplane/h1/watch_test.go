package h1_test

import (
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
)

// closing is something to wait for until it is closed.
type closing struct {
	once   sync.Once
	closed chan struct{}
}

func (c *closing) Close() { c.once.Do(func() { close(c.closed) }) }

// waiting waits for the upstream until the client gives up, or patience is over.
func waiting(patience time.Duration) (h *handler, abandoned chan bool) {
	abandoned = make(chan bool, 10)
	return &handler{serve: func(ex *exchange.Exchange) {
		c := &closing{closed: make(chan struct{})}
		defer ex.Await(nil)
		if !ex.Await(c) {
			panic("abandoned before it was watched")
		}
		select {
		case <-c.closed:
			abandoned <- true
			ex.Answer(499, "client_gone", "")
		case <-time.After(patience):
			abandoned <- false
			ex.Answer(200, "test", "here")
		}
	}}, abandoned
}

func TestClientThatResetsIsSeen(t *testing.T) {
	h, abandoned := waiting(10 * time.Second)
	for _, sent := range []string{
		get,
		get + get, // what was not read yet does not hide it
		"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi", // nor what nobody pulls
		"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhi",
	} {
		c := dial(t, serve(t, h, nil).l.Addr().String())
		c.send(sent)
		_ = c.SetLinger(0)
		_ = c.Close()
		if !<-abandoned {
			t.Errorf("%q went on", sent)
		}
	}
}

// A client that closes its direction has time to get the response, and no more.
func TestHalfClosedClientIsServedForAWhile(t *testing.T) {
	h, abandoned := waiting(time.Second)
	c := dial(t, serve(t, h, &h1.ServerOptions{HalfCloseTimeout: 10 * time.Second}).l.Addr().String())
	c.send(get)
	_ = c.CloseWrite()
	c.want(200, "here")
	c.wantEnd()
	if <-abandoned {
		t.Error("the exchange was given up")
	}

	h, abandoned = waiting(10 * time.Second)
	c = dial(t, serve(t, h, &h1.ServerOptions{HalfCloseTimeout: 50 * time.Millisecond}).l.Addr().String())
	c.send(get)
	_ = c.CloseWrite()
	if !<-abandoned {
		t.Error("the exchange went on")
	}
}

// The connection is as good as new behind an exchange that was watched.
func TestWatchedConnectionGoesOn(t *testing.T) {
	h, abandoned := waiting(600 * time.Millisecond)
	c := dial(t, serve(t, h, nil).l.Addr().String())
	for range 3 {
		c.send(get)
		c.want(200, "here")
		if <-abandoned {
			t.Fatal("the exchange was given up")
		}
	}
	c.send(get + get) // pipelined
	c.want(200, "here")
	c.want(200, "here")
}
