//go:build !linux

package h1

const hangupKnown = false

func hangupOf(uintptr) hangup { return hangupNone }
