package link

import "time"

// Budget bounds how often something may happen: so many times at once, and so
// many more every second. Its zero value is full.
type Budget struct {
	spent   int
	settled time.Duration // when it was last refilled
}

// Spend takes n and reports whether that was there. limit is the size, refill
// what comes back in a second, now the time on deadline.Now's clock.
func (b *Budget) Spend(n, limit, refill int, now time.Duration) bool {
	if b.spent > 0 {
		back := int64(now-b.settled) * int64(refill) / int64(time.Second)
		if back > 0 {
			b.spent, b.settled = int(max(int64(b.spent)-back, 0)), now
		}
	} else {
		b.settled = now
	}
	b.spent += n
	return b.spent <= limit
}

// Earn gives n back.
func (b *Budget) Earn(n int) { b.spent = max(b.spent-n, 0) }
