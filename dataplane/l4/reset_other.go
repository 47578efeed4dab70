//go:build !linux

package l4

import "net"

// isReset cannot tell.
func isReset(net.Conn) bool { return false }
