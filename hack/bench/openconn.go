package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// openConn is a connection of an openClient. Its place is used again when it has
// ended.
type openConn struct {
	fd              int
	open, connected bool
	life            int32 // counts the connections in this place
	turn            int32 // counts the requests in this place
	resting         bool  // is one of openClient.idle
	busy            bool  // has a request
	due             time.Duration
	response        response
}

// dial begins a connection, in a place of its own.
func (g *openClient) dial() (i int, err error) {
	address, err := netip.ParseAddrPort(g.addresses[g.opened%len(g.addresses)])
	if err != nil {
		return 0, err
	}
	g.opened++
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("after %d open connections: %w", len(g.conns)-len(g.free), err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, err
	}
	if n := len(g.free); n > 0 {
		i, g.free = g.free[n-1], g.free[:n-1]
	} else {
		i, g.conns = len(g.conns), append(g.conns, openConn{})
	}
	c := &g.conns[i]
	*c = openConn{fd: fd, open: true, life: c.life + 1, turn: c.turn}
	switch err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err {
	case nil:
		c.connected = true
	case unix.EINPROGRESS:
	case unix.EADDRNOTAVAIL:
		return 0, errPorts
	default:
		return 0, err
	}
	return i, unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(i), Pad: c.life,
	})
}

// finish notes what has become of a connection's request.
func (g *openClient) finish(i, status int) {
	c := &g.conns[i]
	g.outcomes = append(g.outcomes, outcome{c.due, time.Since(g.began) - c.due, status})
	c.busy = false
}

func (g *openClient) rest(i int) {
	g.conns[i].resting = true
	g.idle = append(g.idle, i)
}

// end closes a connection, and says what has become of its request if it has one.
func (g *openClient) end(i, status int) {
	c := &g.conns[i]
	if c.busy {
		g.finish(i, status)
	}
	unix.Close(c.fd)
	c.open, c.resting = false, false
	g.free = append(g.free, i)
}

func (g *openClient) write(i int) {
	if n, err := unix.Write(g.conns[i].fd, g.request); err != nil || n < len(g.request) {
		g.end(i, broken)
	}
}

// serve does what an event of a connection makes possible.
func (g *openClient) serve(i int, life int32, events uint32, buffer []byte) {
	c := &g.conns[i]
	if !c.open || c.life != life {
		return // of one that was here before
	}
	if !c.connected && events&unix.EPOLLOUT != 0 && events&(unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		c.connected = true
		if !c.busy {
			g.rest(i)
		} else if g.write(i); !c.open {
			return
		}
	}
	ends := events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0
	if events&unix.EPOLLIN == 0 && !ends {
		return
	}
	for {
		n, err := unix.Read(c.fd, buffer)
		switch {
		case err == unix.EAGAIN:
			return
		case err == nil && n == 0 && c.response.untilEnd():
			g.end(i, c.response.status)
			return
		case err != nil || n == 0 || !c.busy:
			g.end(i, broken)
			return
		}
		done, err := c.response.take(buffer[:n])
		if err != nil {
			g.end(i, broken)
			return
		}
		if done {
			g.finish(i, c.response.status)
			if c.response.last {
				g.end(i, broken)
				return
			}
			g.rest(i)
		}
		if n < len(buffer) && !ends {
			return
		}
	}
}

// response is what has come of one. It understands no more of HTTP/1.1 than the
// servers here need.
type response struct {
	head    []byte // as long as it is not complete
	status  int    // 0 until it is
	last    bool   // the connection ends behind it
	left    int    // bytes of content to come, if its length is known
	chunked bool   // or else it ends with an empty chunk
	tail    []byte // what came last of that, as much as the end takes
}

var chunksEnd = []byte("0\r\n\r\n")

// untilEnd reports whether the end of the connection is the end of the response.
func (r *response) untilEnd() bool { return r.status > 0 && r.left < 0 && !r.chunked }

// take adds what was read, and reports whether the response is complete.
func (r *response) take(b []byte) (done bool, err error) {
	if r.status == 0 {
		if len(r.head) > 0 {
			b = append(r.head, b...)
		}
		head, rest, found := bytes.Cut(b, []byte("\r\n\r\n"))
		if !found {
			r.head = bytes.Clone(b)
			return false, nil
		}
		if err := r.parse(head); err != nil {
			return false, err
		}
		b = rest
	}
	if r.chunked {
		r.tail = append(r.tail, b[max(0, len(b)-len(chunksEnd)):]...)
		r.tail = r.tail[max(0, len(r.tail)-len(chunksEnd)):]
		return bytes.Equal(r.tail, chunksEnd), nil
	}
	if r.left < 0 {
		return false, nil
	}
	if r.left -= len(b); r.left < 0 {
		return false, fmt.Errorf("%d bytes too many", -r.left)
	}
	return r.left == 0, nil
}

func (r *response) parse(head []byte) (err error) {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") {
		return fmt.Errorf("status line %q", line)
	}
	if r.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return fmt.Errorf("status line %q", line)
	}
	r.left = -1
	for len(fields) > 0 {
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
			if r.left, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			r.chunked = true
		case len(name) == len("Connection") && bytes.EqualFold(name, []byte("Connection")):
			r.last = bytes.EqualFold(value, []byte("close"))
		}
	}
	return nil
}
