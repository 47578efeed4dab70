package quota

import "sync"

// Counts are how many there are at a time, by key. A key without any takes no
// memory, so they are as many as what is counted. The zero value is not ready;
// it is safe for concurrent use.
type Counts struct {
	Seed
	shards [shardCount]countShard
}

type countShard struct {
	mu     sync.Mutex
	counts map[Key]int32
	most   int // keys that the map has had: it does not shrink by itself
	_      [40]byte
}

// keepKeys is for how many keys an empty map is kept.
const keepKeys = 64

// NewCounts returns counts that are all 0.
func NewCounts() *Counts { return &Counts{Seed: NewSeed()} }

// Enter counts one more, unless there are most already. If it reports true,
// Leave must follow.
func (c *Counts) Enter(key Key, most int) bool {
	s := &c.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.counts[key]
	if int(n) >= most {
		return false
	}
	if s.counts == nil {
		s.counts = map[Key]int32{}
	}
	s.counts[key] = n + 1
	s.most = max(s.most, len(s.counts))
	return true
}

// Leave counts one less.
func (c *Counts) Leave(key Key) {
	s := &c.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.counts[key]; n > 1 {
		s.counts[key] = n - 1
		return
	}
	delete(s.counts, key)
	if len(s.counts) == 0 && s.most > keepKeys {
		s.counts, s.most = nil, 0
	}
}

// Count returns how many there are.
func (c *Counts) Count(key Key) int {
	s := &c.shards[key%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.counts[key])
}
