package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// stage is a while with one load: independent requests, rate of them a second
// on average.
type stage struct {
	rate     float64
	duration time.Duration
}

// outcome is what has become of one request.
type outcome struct {
	due time.Duration // when it was, since the client began
	// latency counts from due, until the response is complete or it is known that
	// none will be.
	latency time.Duration
	status  int
}

// What an outcome has instead of a status of HTTP.
const (
	gaveUp = -iota - 1 // the client waited for as long as it would
	broken             // the connection was refused, reset, or closed too soon
)

// openLoop sends requests at a rate, on as many connections as the scenario
// says. None may fail.
func openLoop(ctx context.Context, o *options, s *scenario, addresses []string, rate float64, duration time.Duration) (sample, error) {
	g := &openClient{addresses: addresses, path: s.path, most: s.connections, ahead: s.connections, patience: 5 * time.Second}
	if err := g.load(ctx, o.clientCore, stage{rate, duration}); err != nil {
		return sample{}, err
	}
	latencies := make([]time.Duration, 0, len(g.outcomes))
	for _, r := range g.outcomes {
		if r.status != 200 {
			return sample{}, fmt.Errorf("a request had the outcome %d", r.status)
		}
		latencies = append(latencies, r.latency)
	}
	one := sample{rate: float64(len(latencies)) / duration.Seconds()}
	one.p50, one.p99 = percentiles(latencies)
	return one, nil
}

// percentiles sorts latencies and returns the 50th and the 99th percentile in
// microseconds, 0 if there are none.
func percentiles(latencies []time.Duration) (p50, p99 float64) {
	slices.Sort(latencies)
	at := func(p float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return float64(latencies[int(p*float64(len(latencies)-1))].Nanoseconds()) / 1e3
	}
	return at(0.50), at(0.99)
}

// openClient sends requests at moments that do not depend on the answers. One
// that is due while all connections are busy has a new one, or waits for one if
// there are as many as may be; and its latency counts from when it was due, so a
// server that stalls is not asked less for it. All times are since it began.
type openClient struct {
	addresses []string
	path      string
	headers   []string
	most      int           // connections
	ahead     int           // connections that are there before there are requests
	patience  time.Duration // how long after a request was due its client goes away

	outcomes []outcome // in the order in which they were known

	request []byte
	epoll   int
	timer   int
	began   time.Time
	opened  int // connections, ever
	conns   []openConn
	free    []int           // those of conns that are not open
	idle    []int           // those that wait for a request, the longest idle first
	due     []time.Duration // requests that wait for a connection, the oldest first
	sent    []sending       // requests on a connection, the oldest first; those that were answered too
}

// sending is one request that was given to a connection.
type sending struct {
	due  time.Duration
	conn int
	turn int32
}

// load runs the stages one behind the other on a core, and returns when the last
// request has its outcome. An error means that the client itself has failed.
func (g *openClient) load(ctx context.Context, core int, stages ...stage) error {
	// This thread goes to the client's core, and back: were it to end, so would
	// the processes that were started from it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	own.Set(core)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)

	g.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n", g.path, host)
	for _, h := range g.headers {
		g.request = fmt.Appendf(g.request, "%s\r\n", h)
	}
	g.request = append(g.request, "\r\n"...)
	expected := 0.0
	for _, s := range stages {
		expected += s.rate * s.duration.Seconds()
	}
	g.outcomes = make([]outcome, 0, int(1.1*expected)+1000)
	defer g.close()
	if err := g.prepare(); err != nil {
		return err
	}
	return g.run(ctx, stages)
}

func (g *openClient) prepare() error {
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if g.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return err
	}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, g.timer, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: -1}); err != nil {
		return err
	}
	for range g.ahead {
		if _, err := g.dial(); err != nil {
			return err
		}
	}
	g.began = time.Now()
	return nil
}

func (g *openClient) close() {
	for i := range g.conns {
		if g.conns[i].open {
			unix.Close(g.conns[i].fd)
		}
	}
	unix.Close(g.timer)
	unix.Close(g.epoll)
}

func (g *openClient) run(ctx context.Context, stages []stage) error {
	random := rand.New(rand.NewPCG(1, 2))
	var next, from time.Duration // when the next request is due, and when its stage began
	advance := func() {
		for len(stages) > 0 {
			next += time.Duration(random.ExpFloat64() / stages[0].rate * float64(time.Second))
			until := from + stages[0].duration
			if next < until {
				return
			}
			next, from, stages = until, until, stages[1:]
		}
	}
	advance()
	var events [256]unix.EpollEvent
	buffer := make([]byte, 128<<10)
	for {
		now := time.Since(g.began)
		for ; len(stages) > 0 && next <= now; advance() {
			g.due = append(g.due, next)
		}
		g.expire(now)
		if err := g.send(); err != nil {
			return err
		}
		if len(stages)+len(g.due)+len(g.sent) == 0 {
			return nil
		}
		wake := now + 10*time.Millisecond // for who gives up
		if len(stages) > 0 {
			wake = min(wake, next)
		}
		at := unix.NsecToTimespec(max(int64(wake-time.Since(g.began)), 1))
		if err := unix.TimerfdSettime(g.timer, 0, &unix.ItimerSpec{Value: at}, nil); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.EpollWait(g.epoll, events[:], 1000)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd >= 0 {
				g.serve(int(e.Fd), e.Pad, e.Events, buffer)
			}
		}
	}
}

// expire has those give up whose patience is over.
func (g *openClient) expire(now time.Duration) {
	for len(g.due) > 0 && g.due[0]+g.patience <= now {
		g.outcomes = append(g.outcomes, outcome{g.due[0], g.patience, gaveUp})
		g.due = g.due[1:]
	}
	for len(g.sent) > 0 {
		s := g.sent[0]
		if c := &g.conns[s.conn]; c.turn == s.turn && c.busy {
			if s.due+g.patience > now {
				return
			}
			g.end(s.conn, gaveUp)
		}
		g.sent = g.sent[1:]
	}
}

// send gives requests that are due to connections.
func (g *openClient) send() error {
	for len(g.due) > 0 {
		var i int
		switch {
		case len(g.idle) > 0:
			i, g.idle = g.idle[0], g.idle[1:]
			if !g.conns[i].resting {
				continue // it has ended meanwhile
			}
			g.conns[i].resting = false
		case len(g.conns)-len(g.free) < g.most:
			var err error
			if i, err = g.dial(); err != nil {
				return err
			}
		default:
			return nil
		}
		c := &g.conns[i]
		c.turn++
		c.busy, c.due, c.response = true, g.due[0], response{}
		g.sent = append(g.sent, sending{c.due, i, c.turn})
		g.due = g.due[1:]
		if c.connected {
			g.write(i)
		}
	}
	return nil
}

// errPorts is what the kernel says when all local ports are taken.
var errPorts = errors.New("no local port is left: too many connections were closed just now")
