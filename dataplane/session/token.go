package session

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
)

// Token is what a client keeps for us. Times are in seconds since 1970.
type Token struct {
	// Backend tells the rule's backends apart.
	Backend uint64
	// Endpoint is whom the session is with.
	Endpoint netip.AddrPort
	// Start is when the session began, Used when a token of it was last given out.
	Start, Used int64
}

// version is the first byte of a token; one of another version is not read.
const version = 1

// The lengths of a token: as it is, encrypted, and as the client has it.
const (
	plainLen   = 1 + 8 + 16 + 2 + 4 + 4
	sealedLen  = 12 + plainLen + 16 // with AES-GCM's nonce and tag
	encodedLen = (sealedLen*8 + 5) / 6
)

// encoding is of characters that cookies and header fields may have.
var encoding = base64.RawURLEncoding

func (t *Token) append(b []byte) []byte {
	addr := t.Endpoint.Addr().As16()
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, t.Backend)
	b = append(b, addr[:]...)
	b = binary.BigEndian.AppendUint16(b, t.Endpoint.Port())
	b = binary.BigEndian.AppendUint32(b, uint32(t.Start))
	return binary.BigEndian.AppendUint32(b, uint32(t.Used))
}

func (t *Token) read(b []byte) bool {
	if len(b) != plainLen || b[0] != version {
		return false
	}
	t.Backend = binary.BigEndian.Uint64(b[1:])
	t.Endpoint = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[9:25])).Unmap(), binary.BigEndian.Uint16(b[25:]))
	t.Start = int64(binary.BigEndian.Uint32(b[27:]))
	t.Used = int64(binary.BigEndian.Uint32(b[31:]))
	return true
}
