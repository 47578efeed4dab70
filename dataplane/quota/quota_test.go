package quota

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func TestMemoryIsBoundedAndOffendersAreRemembered(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBuckets(now)
	const interval, capacity = int64(time.Minute), int64(100 * time.Minute)
	offender := Key(0xfeed)
	for range 100 {
		if b.Take(offender, now, interval, capacity) != 0 {
			t.Fatal("the burst did not pass")
		}
	}
	for i := range uint64(2_000_000) {
		b.Take(NoValues.mix(i), now, interval, capacity)
	}
	slots := 0
	for i := range b.shards {
		slots += len(b.shards[i].sets) * ways
	}
	if want := shardCount * maxSets * ways; slots > want {
		t.Errorf("%d slots, more than %d", slots, want)
	}
	if b.Take(offender, now, interval, capacity) == 0 {
		t.Error("who used up the limit was forgotten for those who came once")
	}
}

func TestFullBucketsMakeRoom(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBuckets(now)
	for i := range uint64(100_000) {
		b.Take(NoValues.mix(i), now, int64(time.Millisecond), int64(time.Second))
		now = now.Add(time.Millisecond)
	}
	slots := 0
	for i := range b.shards {
		slots += len(b.shards[i].sets) * ways
	}
	if slots > 4*shardCount*ways {
		t.Errorf("%d slots for one bucket at a time", slots)
	}
}

func TestGrowthKeepsBuckets(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBuckets(now)
	sum := func(i uint64) Key { return NoValues.mix(i) }
	const n = 20_000
	for i := range uint64(n) {
		b.Take(sum(i), now, int64(time.Second), int64(time.Second))
	}
	for i := range uint64(n) {
		if b.Take(sum(i), now, int64(time.Second), int64(time.Second)) == 0 {
			t.Fatalf("bucket %d was forgotten", i)
		}
	}
}

func TestReserveQueues(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBuckets(now)
	const capacity = int64(time.Second)
	for i, want := range []time.Duration{0, 0, 500 * time.Millisecond, time.Second} {
		if wait := b.Reserve(1, now, int64(500*time.Millisecond), capacity); wait != int64(want) {
			t.Errorf("reservation %d waits for %s, want %s", i, time.Duration(wait), want)
		}
	}
	if b.Take(1, now.Add(time.Second), 1, capacity) == 0 {
		t.Error("what is reserved was taken by another")
	}
	b.GiveBack(1, int64(500*time.Millisecond))
	if wait := b.Take(1, now.Add(time.Second), int64(500*time.Millisecond), capacity); wait != 0 {
		t.Errorf("what was given back is there after another %s", time.Duration(wait))
	}
}

func TestCounts(t *testing.T) {
	c := NewCounts()
	key := c.Client(NoValues, netip.MustParseAddr("192.0.2.1"))
	for i := range 3 {
		if got, want := c.Enter(key, 2), i < 2; got != want {
			t.Errorf("entering %d: %v", i, got)
		}
	}
	if !c.Enter(c.Client(NoValues, netip.MustParseAddr("192.0.2.2")), 1) {
		t.Error("one client counts for another")
	}
	c.Leave(key)
	if !c.Enter(key, 2) {
		t.Error("who has left still counts")
	}
	// A bound that has become smaller lets nobody in until enough have left.
	if c.Leave(key); c.Enter(key, 1) {
		t.Error("one more than the bound")
	}
}

func TestIPv6ClientsCountByTheirNetwork(t *testing.T) {
	c := NewCounts()
	key := func(ip string) Key { return c.Client(NoValues, netip.MustParseAddr(ip)) }
	if key("2001:db8::1") != key("2001:db8::2") {
		t.Error("two addresses of a /64 are two clients")
	}
	if key("2001:db8::1") == key("2001:db8:0:1::1") {
		t.Error("two networks are one client")
	}
	if key("::ffff:192.0.2.1") != key("192.0.2.1") {
		t.Error("an IPv4 address has two spellings")
	}
}

func TestCountsForgetWhatIsOver(t *testing.T) {
	c := NewCounts()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10_000 {
				c.Enter(c.Text(NoValues, fmt.Sprint(w, i)), 1)
			}
		})
	}
	wg.Wait()
	for w := range 4 {
		wg.Go(func() {
			for i := range 10_000 {
				c.Leave(c.Text(NoValues, fmt.Sprint(w, i)))
			}
		})
	}
	wg.Wait()
	for i := range c.shards {
		if s := &c.shards[i]; s.counts != nil {
			t.Errorf("shard %d keeps a map of %d keys", i, len(s.counts))
		}
	}
}

func TestAllocationsOfCounting(t *testing.T) {
	now := time.Unix(1000, 0)
	b, c := NewBuckets(now), NewCounts()
	ip := netip.MustParseAddr("192.0.2.1")
	n := testing.AllocsPerRun(100, func() {
		key := c.Client(NoValues, ip)
		c.Enter(key, 1)
		c.Leave(key)
		b.Reserve(b.Client(NoValues, ip), now, 1, 1)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
