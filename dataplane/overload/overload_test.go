package overload

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

// TestMonitor has far more goroutines run than there are CPUs, until requests are
// refused, and then no more.
func TestMonitor(t *testing.T) {
	m := New(Options{SchedulingDelay: time.Millisecond})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(stop) })
	if _, shed := m.Shed(Low); shed {
		t.Error("a request is refused although nothing is wrong")
	}

	var rest atomic.Bool
	for range 64 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !rest.Load() {
				runtime.Gosched()
				for range 1_000_000 {
				}
			}
		})
	}
	until(t, "requests are refused", func() bool {
		short, shed := m.Shed(Default)
		return shed && short == CPU
	})
	until(t, "the pressure is seen", func() bool { return m.State().Pressure["cpu"] > 0 })
	if s := m.State(); s.Shed["Default"]["cpu"] == 0 {
		t.Errorf("%+v", s)
	}
	rest.Store(true)
	until(t, "none are refused", func() bool { return m.State().ShedRatio == 0 })
	if _, shed := m.Shed(Low); shed {
		t.Error("a request is refused still")
	}
	close(stop)
	wg.Wait()
}

// TestShedsByPriority looks at the odds of requests themselves.
func TestShedsByPriority(t *testing.T) {
	m := New(Options{MemoryPercent: 80})
	ask := func() (refused [priorities]int) {
		for range 10_000 {
			for p := Low; p < priorities; p++ {
				if short, shed := m.Shed(p); shed {
					refused[p]++
					if short != Memory {
						t.Fatalf("for want of %s", short)
					}
				}
			}
		}
		return refused
	}
	m.look(readings{memory: .5}) // from now on priorities are counted
	ask()
	for range 20 {
		m.look(readings{memory: .875})
		ask()
	}
	// 37.5 % are refused: all of the low ones, and half of the next.
	refused := ask()
	if refused[Low] != 10_000 || refused[Default] < 4_000 || refused[Default] > 6_000 || refused[High] > 0 || refused[Critical] > 0 {
		t.Errorf("%v", refused)
	}
	if m.Hold(Memory) > 0 {
		t.Error("refusals for want of memory are held back")
	}
	m.look(readings{memory: .5})
	if refused := ask(); refused != [priorities]int{} {
		t.Errorf("afterwards: %v", refused)
	}
}

// TestHold holds that a refusal waits for want of CPU, and that not too many do.
func TestHold(t *testing.T) {
	m := New(Options{MaxRequests: heldPart})
	if m.Hold(CPU) > 0 {
		t.Error("it waits although nothing is refused")
	}
	m.hold.Store(int64(100 * time.Millisecond))
	m.held.Store(1)
	if m.Hold(CPU) > 0 {
		t.Error("too many wait")
	}
	m.held.Store(0)
	if d := m.Hold(CPU); d < 50*time.Millisecond || d > 150*time.Millisecond || m.held.Load() != 0 {
		t.Errorf("it waits for %s", d)
	}
}

// TestMemory holds that what lives counts, in relation to the limit.
func TestMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	debug.SetMemoryLimit(1 << 30)
	ballast := make([]byte, 256<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	runtime.GC()
	g := newGauges(&Options{MemoryPercent: 80})
	with := g.read().memory
	runtime.KeepAlive(ballast)
	ballast = nil
	runtime.GC()
	if without := g.read().memory; with < .25 || with > .5 || without > with-.2 {
		t.Errorf("%.2f of the limit lives with a quarter that does, %.2f without", with, without)
	}
}

func TestPriorities(t *testing.T) {
	for p := Low; p < priorities; p++ {
		if got, ok := ParsePriority(p.String()); got != p || !ok {
			t.Errorf("%s is %s", p, got)
		}
	}
	if p, ok := ParsePriority(""); p != Default || !ok {
		t.Errorf("%s", p)
	}
	if _, ok := ParsePriority("low"); ok {
		t.Error("low is no priority")
	}
}

func TestNoMonitor(t *testing.T) {
	var m *Monitor
	if _, shed := m.Shed(Low); shed || m.State() != nil {
		t.Error("without a monitor requests are refused")
	}
}

// BenchmarkShed is what each request pays.
func BenchmarkShed(b *testing.B) {
	for name, r := range map[string]readings{"at rest": {}, "under pressure": {memory: .9}} {
		b.Run(name, func(b *testing.B) {
			m := New(Options{MemoryPercent: 80})
			m.look(r)
			b.ReportAllocs()
			b.RunParallel(func(each *testing.PB) {
				for each.Next() {
					m.Shed(High)
				}
			})
		})
	}
}

// BenchmarkLook is what the monitor does ten times a second.
func BenchmarkLook(b *testing.B) {
	m := New(Options{SchedulingDelay: 50 * time.Millisecond, MemoryPercent: 90})
	g := newGauges(&m.opts)
	defer g.close()
	b.ReportAllocs()
	for b.Loop() {
		m.look(g.read())
	}
}
