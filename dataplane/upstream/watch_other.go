//go:build !unix

package upstream

const canPoll = false

type poll struct{}

func (*poll) readable(uintptr) bool { return true }
func (*poll) ended(uintptr) bool    { return false }
