package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// openLoop sends requests at moments that do not depend on the answers:
// independent ones, rate of them a second on average. A request that is due
// while all connections are busy waits for one, and its latency counts from
// when it was due, so a server that stalls is not asked less for it.
func openLoop(ctx context.Context, o *options, s *scenario, addresses []string, rate float64, duration time.Duration) (sample, error) {
	// This thread goes to the client's core, and back: were it to end, so would
	// the processes that were started from it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, core unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return sample{}, err
	}
	core.Set(o.clientCore)
	if err := unix.SchedSetaffinity(0, &core); err != nil {
		return sample{}, err
	}
	defer unix.SchedSetaffinity(0, &before)

	g := &openClient{request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.path, host)}
	defer g.close()
	if err := g.open(addresses, s.connections); err != nil {
		return sample{}, err
	}
	if err := g.run(ctx, rate, duration); err != nil {
		return sample{}, err
	}
	slices.Sort(g.latencies)
	percentile := func(p float64) float64 {
		return float64(g.latencies[int(p*float64(len(g.latencies)-1))].Nanoseconds()) / 1e3
	}
	return sample{rate: float64(len(g.latencies)) / duration.Seconds(), p50: percentile(0.50), p99: percentile(0.99)}, nil
}

// openClient is the client's state. All times are since it began.
type openClient struct {
	request   []byte
	epoll     int
	timer     int
	conns     []openConn
	idle      []int           // those of conns that are, the longest idle first
	due       []time.Duration // requests that wait for a connection, the oldest first
	latencies []time.Duration
}

type openConn struct {
	fd   int
	size int           // of a response: all have the same
	left int           // of the one to come
	due  time.Duration // when its request was
}

func (g *openClient) open(addresses []string, n int) error {
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if g.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return err
	}
	if err := g.watch(g.timer, -1); err != nil {
		return err
	}
	for i := range n {
		address, err := netip.ParseAddrPort(addresses[i%len(addresses)])
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		g.conns = append(g.conns, openConn{fd: fd})
		g.idle = append(g.idle, i)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
		// A first request says how long responses are; it comes in one piece.
		if err := g.send(i, 0); err != nil {
			return err
		}
		var buffer [4096]byte
		if g.conns[i].size, err = unix.Read(fd, buffer[:]); err != nil {
			return err
		}
		if !bytes.HasPrefix(buffer[:], ok) {
			return fmt.Errorf("answered %q", buffer[:g.conns[i].size])
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		if err := g.watch(fd, i); err != nil {
			return err
		}
	}
	return nil
}

var ok = []byte("HTTP/1.1 200 ")

func (g *openClient) watch(fd, index int) error {
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(index)})
}

func (g *openClient) close() {
	for _, c := range g.conns {
		unix.Close(c.fd)
	}
	unix.Close(g.timer)
	unix.Close(g.epoll)
}

func (g *openClient) send(i int, due time.Duration) error {
	c := &g.conns[i]
	c.due, c.left = due, c.size
	n, err := unix.Write(c.fd, g.request)
	if err == nil && n < len(g.request) {
		err = errors.New("a short write")
	}
	return err
}

func (g *openClient) receive(i int, buffer []byte, began time.Time) error {
	c := &g.conns[i]
	n, err := unix.Read(c.fd, buffer)
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil:
		return err
	case n == 0 || n > c.left:
		return fmt.Errorf("%d bytes instead of %d", n, c.left)
	case c.left == c.size && !bytes.HasPrefix(buffer, ok):
		return fmt.Errorf("answered %q", buffer[:n])
	}
	if c.left -= n; c.left == 0 {
		g.latencies = append(g.latencies, time.Since(began)-c.due)
		g.idle = append(g.idle, i)
	}
	return nil
}

func (g *openClient) run(ctx context.Context, rate float64, duration time.Duration) error {
	g.latencies = make([]time.Duration, 0, int(1.5*rate*duration.Seconds()))
	random := rand.New(rand.NewPCG(1, 2))
	interval := func() time.Duration { return time.Duration(random.ExpFloat64() / rate * float64(time.Second)) }
	var events [128]unix.EpollEvent
	var buffer [4096]byte
	began := time.Now()
	next := interval()
	for {
		now := time.Since(began)
		for ; next <= now && next < duration; next += interval() {
			g.due = append(g.due, next)
		}
		for len(g.due) > 0 && len(g.idle) > 0 {
			if err := g.send(g.idle[0], g.due[0]); err != nil {
				return err
			}
			g.idle, g.due = g.idle[1:], g.due[1:]
		}
		switch {
		case next < duration:
			at := unix.NsecToTimespec(max(int64(next-time.Since(began)), 1))
			if err := unix.TimerfdSettime(g.timer, 0, &unix.ItimerSpec{Value: at}, nil); err != nil {
				return err
			}
		case len(g.due) == 0 && len(g.idle) == len(g.conns):
			return nil
		case now > duration+5*time.Second:
			return errors.New("requests are not answered")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.EpollWait(g.epoll, events[:], 1000)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				continue
			}
			if err := g.receive(int(e.Fd), buffer[:], began); err != nil {
				return err
			}
		}
	}
}
