package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// backends are where the proxies send what they get.
type backends struct {
	Backends []string // nginx, three of it
	GRPC     string   // nghttpd, which answers as a gRPC server does
	Echo     string   // this program, see echo
	Limited  []string // this program, see limited

	restart []func() (pid int, err error) // of each of Backends
	pids    []int
}

const (
	// large is the size of a large response, and of a message over TCP.
	large = 64 << 10
	// text is the size of a response that is worth compressing.
	text = 256 << 10
	// upload is the size of a request's content.
	upload = 16 << 10
	// grpcPath is a method of a gRPC service, and message its request and
	// response, with gRPC's prefix of five bytes.
	grpcPath = "/bench.Catalogue/Get"
	message  = "\x00\x00\x00\x00\x2c\x0a\x2aa pair of shoes, of which twelve are left."
)

func (p *processes) backends(o *options, dir string) (*backends, error) {
	var b backends
	for i := range 3 {
		sub := filepath.Join(dir, fmt.Sprintf("backend-%d", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(sub, "large"), bytes.Repeat([]byte("0123456789abcdef"), large/16), 0o644); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(sub, "text"), catalogue(text), 0o644); err != nil {
			return nil, err
		}
		s, err := newSettings(sub)
		if err != nil {
			return nil, err
		}
		file, err := s.write("backend.conf")
		if err != nil {
			return nil, err
		}
		logs := filepath.Join(sub, "log")
		start := func() (pid int, err error) { return p.start(o.clientCore, logs, "nginx", "-p", sub, "-c", file) }
		pid, err := start()
		if err != nil {
			return nil, err
		}
		b.pids, b.restart = append(b.pids, pid), append(b.restart, start)
		if err := answers(p.ctx, s.HTTP, "/", nil); err != nil {
			return nil, withLog(err, logs)
		}
		b.Backends = append(b.Backends, s.HTTP)
	}

	documents := filepath.Join(dir, "grpc")
	if err := os.MkdirAll(filepath.Join(documents, filepath.Dir(grpcPath)), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(documents, grpcPath), []byte(message), 0o644); err != nil {
		return nil, err
	}
	var err error
	if b.GRPC, err = freeAddress(); err != nil {
		return nil, err
	}
	if b.Echo, err = freeAddress(); err != nil {
		return nil, err
	}
	for range 3 {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		b.Limited = append(b.Limited, address)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(b.GRPC)
	for address, args := range map[string][]string{
		b.GRPC: {"nghttpd", "--no-tls", "-a", "127.0.0.1", "-m", "256", "-d", documents, "--trailer", "grpc-status: 0", port},
		b.Echo: {self, "-echo", b.Echo},

		b.Limited[0]: {self, "-limited", strings.Join(b.Limited, ",")},
	} {
		logs := filepath.Join(dir, address+".log")
		if _, err := p.start(o.clientCore, logs, args...); err != nil {
			return nil, err
		}
		if err := listens(p.ctx, address); err != nil {
			return nil, withLog(err, logs)
		}
	}
	return &b, nil
}

// interrupt ends all of Backends after a while, and starts them again after another
// one.
func (b *backends) interrupt(p *processes, after, length time.Duration) error {
	time.Sleep(after)
	for _, pid := range b.pids {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return err
		}
	}
	time.Sleep(length)
	for i, restart := range b.restart {
		var err error
		if b.pids[i], err = restart(); err != nil {
			return err
		}
	}
	return nil
}

// catalogue returns text in JSON that compresses as such texts do.
func catalogue(size int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := []byte("[")
	for len(b) < size {
		b = fmt.Appendf(b, `{"id":%d,"sku":"%016x","price":{"amount":"%d.%02d","currency":"EUR"},"stock":%d},`,
			len(b), random.Uint64(), random.IntN(200), random.IntN(100), random.IntN(1000))
	}
	return append(b[:size-1], ']')
}

// echo answers requests with their own content, once it has all of it, or
// those for /echo/short with a few bytes. It understands no more of HTTP/1.1
// than the clients here need.
func echo(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := echoConn(c); !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "echo:", err)
			}
		}()
	}
}

// echoConn ends with an error, which is io.EOF if all went well.
func echoConn(c net.Conn) error {
	r := bufio.NewReaderSize(c, large+4096)
	var answer []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		short := bytes.Contains(line, []byte(" /echo/short "))
		length := 0
		for {
			if line, err = r.ReadSlice('\n'); err != nil {
				return err
			}
			name, value, found := bytes.Cut(line, []byte(":"))
			if !found {
				break // the empty line
			}
			if bytes.EqualFold(name, []byte("Content-Length")) {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
					return err
				}
			}
		}
		content, err := r.Peek(length)
		if err != nil {
			return err
		}
		if short {
			content = []byte("{\"stored\":true}")
		}
		answer = append(answer[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
		answer = append(strconv.AppendInt(answer, int64(len(content)), 10), "\r\n\r\n"...)
		answer = append(answer, content...)
		if _, err := r.Discard(length); err != nil {
			return err
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}
