//go:build unix && !linux

package hangup

const peerEnded = 0 // errors, and the end of both sides, are told in any case
