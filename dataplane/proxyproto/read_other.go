//go:build !unix

package proxyproto

import "net"

// peeker stands for one that looks ahead: here, all that is seen is taken.
type peeker struct{ c *net.TCPConn }

func (p peeker) peek(b []byte) (int, error) { return p.c.Read(b) }
func (peeker) take([]byte) error            { return nil }
func (peeker) taken(b []byte) []byte        { return b }
