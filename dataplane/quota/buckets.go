package quota

import (
	"sync"
	"time"
)

// Buckets are token buckets by key. A bucket is kept as the one instant at which
// it will be full again (the generic cell rate algorithm), so that a changed rate
// applies to the buckets that exist, and one that is full is the same as none.
//
// It is divided into shards, each a table of sets of eight slots under a lock
// that is held for some tens of nanoseconds. A table grows, by doubling, while
// sets overflow with buckets that are not full, up to maxSets; then the fullest bucket
// of a set gives way. So memory is bounded whatever keys clients invent, and those who have
// used up most of their limit are the last to be forgotten.
//
// It is safe for concurrent use.
type Buckets struct {
	Seed
	base   time.Time
	shards [shardCount]shard
}

const (
	shardCount = 32
	ways       = 8
	// maxSets bounds a shard: 32 × 2,048 × 8 buckets of 16 bytes are 8 MiB.
	maxSets = 2048
)

type shard struct {
	mu   sync.Mutex
	sets []set // a power of two of them
	_    [32]byte
}

type set [ways]slot

// slot is one bucket: free if its fullAt has passed.
type slot struct {
	key Key
	Bucket
}

// Bucket is a single token bucket, full at first. Its times are nanoseconds of any
// clock, above 0. It belongs to one goroutine.
type Bucket struct{ fullAt int64 }

func (b *Bucket) take(t, cost, capacity int64) (wait int64) {
	from := max(b.fullAt, t)
	if over := from + cost - t - capacity; over > 0 {
		return over
	}
	b.fullAt = from + cost
	return 0
}

// Reserve is as of Buckets, at time t.
func (b *Bucket) Reserve(t, cost, capacity int64) (wait int64) {
	b.fullAt = max(b.fullAt, t) + cost
	return max(0, b.fullAt-t-capacity)
}

// Used is as of Buckets, at time t.
func (b *Bucket) Used(t int64) int64 { return max(0, b.fullAt-t) }

// NewBuckets returns buckets that are all full. now and the times that are
// given later are of one clock.
func NewBuckets(now time.Time) *Buckets {
	// A nanosecond back, so that a free slot's 0 has always passed.
	return &Buckets{Seed: NewSeed(), base: now.Add(-1)}
}

// Take takes tokens that come in the time of cost from a bucket that holds those
// of the time of capacity, both in nanoseconds, and returns 0. Where there are
// not as many it takes none, and returns after how many nanoseconds there will be.
func (b *Buckets) Take(key Key, now time.Time, cost, capacity int64) (wait int64) {
	t := int64(now.Sub(b.base))
	s := &b.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(key, t).take(t, cost, capacity)
}

// Reserve is Take that takes the tokens in any case: they are the caller's after
// that wait, and nobody's who comes later.
func (b *Buckets) Reserve(key Key, now time.Time, cost, capacity int64) (wait int64) {
	t := int64(now.Sub(b.base))
	s := &b.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(key, t).Reserve(t, cost, capacity)
}

// GiveBack puts tokens back that were just taken.
func (b *Buckets) GiveBack(key Key, cost int64) {
	s := &b.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.find(key); slot != nil {
		slot.fullAt -= cost
	}
}

// Used returns how many nanoseconds' worth of tokens a bucket lacks.
func (b *Buckets) Used(key Key, now time.Time) int64 {
	t := int64(now.Sub(b.base))
	s := &b.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.find(key); slot != nil {
		return slot.Used(t)
	}
	return 0
}

func (s *shard) set(key Key) *set {
	return &s.sets[key/shardCount&Key(len(s.sets)-1)]
}

func (s *shard) find(key Key) *slot {
	if s.sets == nil {
		return nil
	}
	set := s.set(key)
	for i := range set {
		if set[i].key == key && set[i].fullAt != 0 {
			return &set[i]
		}
	}
	return nil
}

// of returns a key's slot at time t.
func (s *shard) of(key Key, t int64) *slot {
	if slot := s.find(key); slot != nil {
		return slot
	}
	return s.claim(key, t)
}

// claim makes room for a bucket at time t.
func (s *shard) claim(key Key, t int64) *slot {
	if s.sets == nil {
		s.sets = make([]set, 1)
	}
	for {
		set := s.set(key)
		least := &set[0]
		for i := range set {
			if set[i].fullAt < least.fullAt {
				least = &set[i]
			}
		}
		if least.fullAt > t && len(s.sets) < maxSets {
			s.grow()
			continue
		}
		*least = slot{key, Bucket{t}}
		return least
	}
}

// grow doubles the table. A set's slots go to the two sets that it becomes, so
// all have room.
func (s *shard) grow() {
	old := s.sets
	s.sets = make([]set, 2*len(old))
	for i := range old {
		for _, slot := range old[i] {
			if slot.fullAt == 0 {
				continue
			}
			set := s.set(slot.key)
			for j := range set {
				if set[j].fullAt == 0 {
					set[j] = slot
					break
				}
			}
		}
	}
}
