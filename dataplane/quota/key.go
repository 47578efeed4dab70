// Package quota counts by key: how often, in token buckets, and how much at a
// time. Memory is bounded whatever keys clients invent.
package quota

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
)

// Key stands for the values of what is counted by: a hash of 64 bits. Where two
// are equal they are counted as one; the seed is random, so that nobody can seek
// such values.
type Key uint64

// Seed makes keys; those of different seeds have nothing to do with each other.
type Seed struct{ seed maphash.Seed }

// NewSeed returns a random seed.
func NewSeed() Seed { return Seed{maphash.MakeSeed()} }

// NoValues is the key of no values, to which With adds.
const NoValues Key = 0x9E3779B97F4A7C15

// Text adds a text to a key. Each value is hashed by itself, so that ("a", "bc")
// and ("ab", "c") differ.
func (s Seed) Text(k Key, text string) Key { return k.mix(maphash.String(s.seed, text)) }

// Client adds a client's address to a key; of IPv6 its /64, which is what one
// customer gets: counting addresses would give everybody 2^64 of them.
func (s Seed) Client(k Key, ip netip.Addr) Key {
	ip = ip.Unmap()
	a := ip.As16()
	n := binary.BigEndian.Uint64(a[:8])
	if ip.Is4() {
		n = uint64(binary.BigEndian.Uint32(a[12:]))
	}
	return k.mix(maphash.Comparable(s.seed, n))
}

func (k Key) mix(n uint64) Key {
	hi, lo := bits.Mul64(uint64(k)^n, 0xD6E8FEB86659FD93)
	return Key(hi ^ lo ^ bits.RotateLeft64(uint64(k), 23))
}
