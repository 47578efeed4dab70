package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// A limited backend is like a server with few threads: it takes every
// connection, serves so many requests at a time, each for so long, and what is
// beyond that waits inside, in turn, be its client still there or not.
const (
	limitedWorkers = 4
	limitedService = 6 * time.Millisecond
)

// limited serves one limited backend at each address.
func limited(addresses []string) error {
	failed := make(chan error)
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		workers := make(chan struct{}, limitedWorkers)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() {
					defer c.Close()
					if err := limitedConn(c, workers); !errors.Is(err, io.EOF) {
						fmt.Fprintln(os.Stderr, "limited:", err)
					}
				}()
			}
		}()
	}
	return <-failed
}

// limitedConn ends with an error, which is io.EOF if all went well. Requests have
// no content.
func limitedConn(c net.Conn, workers chan struct{}) error {
	r := bufio.NewReader(c)
	for {
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= len("\r\n") {
				break
			}
		}
		workers <- struct{}{}
		time.Sleep(limitedService)
		<-workers
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"stock\":12}"); err != nil {
			return err
		}
	}
}
