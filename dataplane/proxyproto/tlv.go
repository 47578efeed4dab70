package proxyproto

import (
	"encoding/binary"
	"iter"
)

// The types of TLVs, section 2.2 of the specification. 0xE0 to 0xEF are the
// vendors' own, such as AWS's 0xEA, and are passed on like all others.
const (
	ALPN      = 0x01 // the protocol that was negotiated, RFC 7301
	Authority = 0x02 // the host that the client asked for, such as by SNI
	checksum  = 0x03 // CRC32c
	padding   = 0x04
	UniqueID  = 0x05 // at most 128 bytes
	SSL       = 0x20 // how the client speaks TLS
	NetNS     = 0x30 // the name of a network namespace
)

// TLVs are types with their values, as they are on the wire.
type TLVs []byte

// All yields every type with its value, in order. What comes after a malformed
// one is left out; a header that was read has none.
func (t TLVs) All() iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for len(t) >= 3 {
			end := 3 + int(binary.BigEndian.Uint16(t[1:]))
			if end > len(t) || !yield(t[0], t[3:end]) {
				return
			}
			t = t[end:]
		}
	}
}

// Get returns the value of the first TLV of a type.
func (t TLVs) Get(kind byte) (value []byte, ok bool) {
	for k, v := range t.All() {
		if k == kind {
			return v, true
		}
	}
	return nil, false
}

// With appends a TLV. A value that is longer than 65,535 bytes is left out.
func (t TLVs) With(kind byte, value []byte) TLVs {
	if len(value) > 0xffff {
		return t
	}
	t = append(t, kind)
	t = binary.BigEndian.AppendUint16(t, uint16(len(value)))
	return append(t, value...)
}

// well reports whether t is nothing but whole TLVs.
func (t TLVs) well() bool {
	n := 0
	for _, value := range t.All() {
		n += 3 + len(value)
	}
	return n == len(t)
}

// What SSLInfo.Client says, section 2.2.6 of the specification.
const (
	clientSSL      = 1 << iota // the client speaks TLS
	clientCertConn             // it showed a certificate on this connection
	clientCertSess             // it showed one in this session, which may have begun earlier
)

// The types of the TLVs within SSL.
const (
	sslVersion    = 0x21
	sslCommonName = 0x22
	sslCipher     = 0x23
)

// SSLInfo is what the TLV SSL says of a client that speaks TLS.
type SSLInfo struct {
	// Version and Cipher are as OpenSSL names them: "TLSv1.3",
	// "TLS_AES_128_GCM_SHA256"; "" if it is not said.
	Version, Cipher string
	// Certificate says that the client has shown a certificate in this session,
	// Verified that it is good, and CommonName is its subject's.
	Certificate, Verified bool
	CommonName            string
}

// Append appends the value of the TLV to b.
func (s *SSLInfo) Append(b []byte) []byte {
	client := byte(clientSSL)
	if s.Certificate {
		// On this connection or an earlier one of the session: which, is not known.
		client |= clientCertSess
	}
	verify := uint32(1)
	if s.Certificate && s.Verified {
		verify = 0
	}
	b = binary.BigEndian.AppendUint32(append(b, client), verify)
	for _, sub := range [...]struct {
		kind  byte
		value string
	}{{sslVersion, s.Version}, {sslCommonName, s.CommonName}, {sslCipher, s.Cipher}} {
		if sub.value != "" {
			b = TLVs(b).With(sub.kind, []byte(sub.value))
		}
	}
	return b
}

// ParseSSL reads the value of the TLV SSL; false if it is malformed.
func ParseSSL(value []byte) (s SSLInfo, ok bool) {
	if len(value) < 5 || !TLVs(value[5:]).well() {
		return s, false
	}
	get := func(kind byte) string {
		v, _ := TLVs(value[5:]).Get(kind)
		return string(v)
	}
	s.Version, s.CommonName, s.Cipher = get(sslVersion), get(sslCommonName), get(sslCipher)
	s.Certificate = value[0]&(clientCertConn|clientCertSess) != 0
	s.Verified = s.Certificate && binary.BigEndian.Uint32(value[1:]) == 0
	return s, true
}
