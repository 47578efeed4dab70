package balance

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// HashAddr hashes a client's address for Choice.Hash. An IPv4 address in IPv6
// form is itself.
func HashAddr(addr netip.Addr) uint64 {
	b := addr.Unmap().As16()
	return mix(binary.BigEndian.Uint64(b[:8])^seed1, binary.BigEndian.Uint64(b[8:])^seed2)
}

// HashString hashes a string for Choice.Hash. It is the same in every replica,
// and no secret: who knows it can choose where a key goes.
func HashString(s string) uint64 {
	h := uint64(len(s)) ^ seed1
	for ; len(s) >= 8; s = s[8:] {
		h = mix(h^(uint64(s[0])|uint64(s[1])<<8|uint64(s[2])<<16|uint64(s[3])<<24|
			uint64(s[4])<<32|uint64(s[5])<<40|uint64(s[6])<<48|uint64(s[7])<<56), seed2)
	}
	var tail uint64
	for i := range len(s) {
		tail |= uint64(s[i]) << (8 * i)
	}
	return mix(mix(h^tail, seed2)^seed3, seed1)
}

// The constants only have to be odd-looking, and to stay: changing one moves
// every client.
const (
	seed1 = 0xa0761d6478bd642f
	seed2 = 0xe7037ed1a0b428db
	seed3 = 0x8ebc6af09c88c6e3
)

// mix is the multiply-and-fold step of wyhash.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
