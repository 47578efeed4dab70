package dataplane

import (
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestBoundsAreShared: connections that are held to the same have one copy of it.
func TestBoundsAreShared(t *testing.T) {
	clients := func(headers int) []*snapshot.Client {
		return []*snapshot.Client{nil, {Headers: headers, IdleTimeout: time.Minute}}
	}
	if boundsOf(nil) != defaults || boundsOf([]*snapshot.Client{nil}) != defaults {
		t.Error("no policy, and not the defaults")
	}
	a, b, other := boundsOf(clients(200)), boundsOf(clients(200)), boundsOf(clients(300))
	if a != b || a == other || a.http1.MaxHeaderCount != 200 || other.http2.MaxHeaderCount != 300 {
		t.Errorf("%+v, %+v and %+v", a.http1, b.http1, other.http2)
	}
	two := clients(200)
	if n := testing.AllocsPerRun(100, func() { boundsOf(two) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for i := range 3 * maxShared {
		if got := boundsOf(clients(1000 + i)).http1.MaxHeaderCount; got != 1000+i {
			t.Fatalf("%d headers, want %d", got, 1000+i)
		}
	}
	if n := len(sharedBounds.all); n > maxShared {
		t.Errorf("%d are remembered", n)
	}
}
