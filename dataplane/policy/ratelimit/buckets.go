package ratelimit

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"time"
)

// buckets holds, by a hash of the key's values, until when each bucket is
// being refilled. A bucket that is full again is the same as none.
//
// It is divided into shards, each a table of sets of eight slots under a lock
// that is held for some tens of nanoseconds. A table grows, by doubling, while
// sets overflow with buckets that are not full, up to maxSets; then the fullest bucket
// of a set gives way. So memory is bounded whatever keys clients invent, and those who have
// used up most of their limit are the last to be forgotten.
//
// Two keys share a bucket if their 64-bit hashes are equal; the seed is
// random, so nobody can seek such keys.
type buckets struct {
	seed   maphash.Seed
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

// slot is one bucket: free if its fullAt has passed. fullAt counts nanoseconds from buckets.base.
type slot struct {
	hash   uint64
	fullAt int64
}

func newBuckets(now time.Time) *buckets {
	// A nanosecond back, so that a free slot's 0 has always passed.
	return &buckets{seed: maphash.MakeSeed(), base: now.Add(-1)}
}

// take takes a token from a bucket and returns 0, or returns after how many
// nanoseconds there will be one.
func (b *buckets) take(hash uint64, now time.Time, interval, capacity int64) (wait int64) {
	t := int64(now.Sub(b.base))
	s := &b.shards[hash%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.find(hash)
	if slot == nil {
		slot = s.claim(hash, t)
	}
	from := max(slot.fullAt, t)
	if over := from + interval - t - capacity; over > 0 {
		return over
	}
	slot.fullAt = from + interval
	return 0
}

// giveBack puts a token back that was just taken.
func (b *buckets) giveBack(hash uint64, interval int64) {
	s := &b.shards[hash%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.find(hash); slot != nil {
		slot.fullAt -= interval
	}
}

// used returns how many nanoseconds' worth of tokens a bucket lacks.
func (b *buckets) used(hash uint64, now time.Time) int64 {
	t := int64(now.Sub(b.base))
	s := &b.shards[hash%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.find(hash); slot != nil {
		return max(0, slot.fullAt-t)
	}
	return 0
}

func (s *shard) set(hash uint64) *set {
	return &s.sets[hash/shardCount&uint64(len(s.sets)-1)]
}

func (s *shard) find(hash uint64) *slot {
	if s.sets == nil {
		return nil
	}
	set := s.set(hash)
	for i := range set {
		if set[i].hash == hash && set[i].fullAt != 0 {
			return &set[i]
		}
	}
	return nil
}

// claim makes room for a bucket at time t.
func (s *shard) claim(hash uint64, t int64) *slot {
	if s.sets == nil {
		s.sets = make([]set, 1)
	}
	for {
		set := s.set(hash)
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
		*least = slot{hash: hash, fullAt: t}
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
			set := s.set(slot.hash)
			for j := range set {
				if set[j].fullAt == 0 {
					set[j] = slot
					break
				}
			}
		}
	}
}

// hash joins the hashes of a key's parts. Each part is hashed by itself, so
// that ("a", "bc") and ("ab", "c") differ.
type hash struct {
	seed maphash.Seed
	sum  uint64
}

func newHash(seed maphash.Seed) hash { return hash{seed, 0x9E3779B97F4A7C15} }

func (h hash) text(s string) hash { return h.mix(maphash.String(h.seed, s)) }

func (h hash) number(n uint64) hash { return h.mix(maphash.Comparable(h.seed, n)) }

func (h hash) mix(n uint64) hash {
	hi, lo := bits.Mul64(h.sum^n, 0xD6E8FEB86659FD93)
	h.sum = hi ^ lo ^ bits.RotateLeft64(h.sum, 23)
	return h
}
