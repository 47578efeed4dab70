//go:build !linux

package listener

import "net"

// listen listens for TCP, and leaves keep-alive to package net.
func listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }
