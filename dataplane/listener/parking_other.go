//go:build !linux

package listener

import "time"

// RestAfter is never: connections cannot be parked here.
const RestAfter = time.Duration(0)

type parking struct{}

func (*parking) park(*conn, time.Duration) bool { return false }
func (*parking) take(*conn) bool                { return false }
