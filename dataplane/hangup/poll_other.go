//go:build !unix

package hangup

const canPoll = false

type poll struct{}

func (*poll) readable(uintptr) bool { return true }
func (*poll) ended(uintptr) bool    { return false }
