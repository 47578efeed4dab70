package listener

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RestAfter is after how long of silence a goroutine is not worth its stack.
const RestAfter = 2 * time.Second

// parking waits for clients that have had nothing to say for a while, without
// a goroutine, and so without a stack, for each of their connections. The zero
// value is ready. Its own goroutine ends when nobody is parked.
type parking struct {
	mu      sync.Mutex
	epoll   *os.File // which the runtime polls in turn; the collector closes it
	raw     syscall.RawConn
	fd      int
	parked  map[int32]*conn // by descriptor
	running bool
	swept   time.Time
}

// sweepEvery is how late a connection may be that has waited long enough.
const sweepEvery = time.Second

// park has the connection wait, for so long, until there is something to read
// from it. It runs on in a new goroutine then, which may be before park has
// returned. It reports false if the connection cannot be parked.
func (k *parking) park(c *conn, wait time.Duration) bool {
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoll == nil && k.open() != nil {
		return false
	}
	added := false
	err = raw.Control(func(fd uintptr) {
		c.fd = int32(fd)
		added = unix.EpollCtl(k.fd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: c.fd}) == nil
	})
	if err != nil || !added {
		return false
	}
	c.until = time.Now().Add(wait)
	k.parked[c.fd] = c
	if !k.running {
		k.running = true
		k.swept = time.Now()
		_ = k.epoll.SetReadDeadline(k.swept.Add(sweepEvery))
		go k.run()
	}
	return true
}

func (k *parking) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	file := os.NewFile(uintptr(fd), "parking")
	if k.raw, err = file.SyscallConn(); err != nil {
		file.Close()
		return err
	}
	k.epoll, k.fd, k.parked = file, fd, map[int32]*conn{}
	return nil
}

// take takes a connection out, before it is closed. It reports false if it is
// not parked: then somebody runs it, or will.
func (k *parking) take(c *conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parked[c.fd] != c {
		return false
	}
	k.remove(c)
	if len(k.parked) == 0 {
		_ = k.epoll.SetReadDeadline(time.Unix(1, 0)) // run ends
	}
	return true
}

func (k *parking) remove(c *conn) {
	delete(k.parked, c.fd)
	_ = unix.EpollCtl(k.fd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
}

func (k *parking) run() {
	var events [128]unix.EpollEvent
	for {
		n := 0
		_ = k.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if !k.resume(events[:max(n, 0)]) {
			return
		}
	}
}

// resume runs connections that have something to read, and those that have
// waited long enough. It reports whether any are left.
func (k *parking) resume(events []unix.EpollEvent) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range events {
		if c := k.parked[e.Fd]; c != nil {
			k.remove(c)
			go c.port.run(c)
		}
	}
	if now := time.Now(); now.Sub(k.swept) >= sweepEvery {
		k.swept = now
		for _, c := range k.parked {
			if !now.Before(c.until) {
				k.remove(c)
				go c.port.run(c)
			}
		}
	}
	if len(k.parked) == 0 {
		k.running = false
		return false
	}
	_ = k.epoll.SetReadDeadline(k.swept.Add(sweepEvery))
	return true
}
