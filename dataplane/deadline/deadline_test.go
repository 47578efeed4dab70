package deadline

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBlockedReadFailsAfterItsBoundAndNotBefore(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	var d Conn
	d.Start(a)
	defer d.Stop()

	const bound = 150 * time.Millisecond
	began := time.Now()
	if !d.Read(bound) {
		t.Fatal("a fresh connection is expired")
	}
	_, err := a.Read(make([]byte, 1))
	took := time.Since(began)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v, want a deadline error", err)
	}
	if took < bound {
		t.Errorf("failed after %v, before its bound of %v", took, bound)
	}
	if took > bound+Precision+20*time.Second { // a busy machine is not our fault
		t.Errorf("failed only after %v", took)
	}
	if d.Read(time.Hour) {
		t.Error("the next phase is not told that the connection has expired")
	}
	if !d.Write(time.Hour) {
		t.Error("writes expired together with reads")
	}
}

func TestBlockedWriteFails(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	var d Conn
	d.Start(a)
	defer d.Stop()
	d.Write(50 * time.Millisecond)
	chunk := make([]byte, 1<<20)
	for {
		if _, err := a.Write(chunk); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("write: %v, want a deadline error", err)
			}
			return
		}
	}
}

func TestLiftedBoundDoesNotFire(t *testing.T) {
	for until := time.Now().Add(20 * time.Second); ; {
		var conn fakeConn
		var d Conn
		d.Start(&conn)
		defer d.Stop()
		d.Read(time.Millisecond)
		inTime := d.Read(0)
		d.Write(time.Millisecond)
		if inTime = d.Write(time.Hour) && inTime; !inTime && time.Now().Before(until) {
			continue // on a busy machine a bound may be over before it is replaced
		}
		waitTicks(t, 2*shards)
		if n := conn.reads.Load() + conn.writes.Load(); n != 0 || !inTime {
			t.Errorf("enforced %d bounds that had been replaced", n)
		}
		return
	}
}

func TestFiresOnce(t *testing.T) {
	var conn fakeConn
	var d Conn
	d.Start(&conn)
	defer d.Stop()
	d.Read(time.Millisecond)
	waitTicks(t, 3*shards)
	if n := conn.reads.Load(); n != 1 {
		t.Errorf("enforced %d times, want once", n)
	}
}

// Conns that are started, used and stopped by many goroutines, each for a
// connection of its own every time: a stopped one must never be touched again.
func TestReuse(t *testing.T) {
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			var d Conn
			var used []*fakeConn
			for i := range 400 {
				conn := &fakeConn{}
				used = append(used, conn)
				d.Start(conn)
				if !d.Read(time.Nanosecond) || !d.Write(time.Hour) || !d.Write(0) {
					// Possible: the janitor may be as fast as that.
					if conn.reads.Load() == 0 {
						t.Error("told to be expired, but nothing was enforced")
					}
				}
				if i%40 == 0 {
					time.Sleep(tick)
				}
				d.Stop()
				d.Stop()
				conn.stopped.Store(true)
			}
			time.Sleep(2 * tick)
			for _, conn := range used {
				if conn.late.Load() {
					t.Error("touched after Stop")
				}
			}
		})
	}
	wg.Wait()
	for i := range theJanitor.shards {
		s := &theJanitor.shards[i]
		s.mu.Lock()
		if len(s.conns) != 0 {
			t.Errorf("shard %d keeps %d connections", i, len(s.conns))
		}
		s.mu.Unlock()
	}
}

func TestSettingABoundAllocatesNothing(t *testing.T) {
	var d Conn
	d.Start(&fakeConn{})
	defer d.Stop()
	if n := testing.AllocsPerRun(100, func() { d.Read(time.Hour); d.Write(time.Hour); d.Read(0); d.Write(0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestUnixFollowsTheWallClock(t *testing.T) {
	var d Conn
	d.Start(&fakeConn{})
	defer d.Stop()
	before := time.Now().Unix()
	advance()
	if got, after := Unix(), time.Now().Unix(); got < before-1 || got > after {
		t.Errorf("Unix() = %d, the clock says %d to %d", got, before, after)
	}
}

func waitTicks(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	last := clock.Load()
	for n > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the clock stands still")
		}
		time.Sleep(tick / 4)
		if now := clock.Load(); now != last {
			n, last = n-1, now
		}
	}
}

type fakeConn struct {
	reads, writes atomic.Int32
	stopped, late atomic.Bool
}

func (c *fakeConn) SetReadDeadline(time.Time) error {
	c.reads.Add(1)
	if c.stopped.Load() {
		c.late.Store(true)
	}
	return nil
}

func (c *fakeConn) SetWriteDeadline(time.Time) error {
	c.writes.Add(1)
	return nil
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func BenchmarkPhase(b *testing.B) {
	var d Conn
	d.Start(&fakeConn{})
	defer d.Stop()
	b.ReportAllocs()
	for b.Loop() {
		d.Read(time.Hour)
		d.Read(0)
	}
}

func TestAlarmRingsOnce(t *testing.T) {
	rung := make(chan time.Time, 10)
	d := Conn{Ring: func() { rung <- time.Now() }}
	d.Start(&fakeConn{})
	defer d.Stop()
	began := time.Now()
	d.Alarm(time.Hour)
	d.Alarm(150 * time.Millisecond)
	if at := <-rung; at.Sub(began) < 150*time.Millisecond {
		t.Errorf("rung after %v", at.Sub(began))
	}
	waitTicks(t, 3*shards)
	if len(rung) > 0 {
		t.Error("rung twice")
	}
	if !d.Read(time.Hour) || !d.Write(time.Hour) {
		t.Error("an alarm ends reads or writes")
	}
}
