package h1test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe is the request that tells whether a connection is still in order.
const (
	probePath   = "/h1test-probe"
	probeAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe"
	usualAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// Upstream answers requests by script, and records their bytes. It trusts the
// framing of what it gets: the proxy alone frames that.
type Upstream struct {
	l    net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	c    *Case
	next int // of c.Upstream
	saw  []byte
	slow bool // a byte at a time
	open map[*net.TCPConn]syscall.RawConn
}

// NewUpstream serves on l until Close.
func NewUpstream(l net.Listener) *Upstream {
	u := &Upstream{l: l, open: map[*net.TCPConn]syscall.RawConn{}}
	u.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conn := c.(*net.TCPConn)
			raw, err := conn.SyscallConn()
			if err != nil {
				_ = conn.Close()
				continue
			}
			u.mu.Lock()
			u.open[conn] = raw
			u.mu.Unlock()
			u.wg.Go(func() { u.serve(conn, raw) })
		}
	})
	return u
}

// Close ends all connections, and waits for them.
func (u *Upstream) Close() {
	_ = u.l.Close()
	u.mu.Lock()
	open := slices.Collect(maps.Keys(u.open))
	u.mu.Unlock()
	for _, conn := range open { // which waits for who reads it, who waits for the lock
		_ = conn.Close()
	}
	u.wg.Wait()
}

// script begins a case, when all is recorded that the proxy sent in the one
// before: it may have been through with that one before the upstream read it.
func (u *Upstream) script(c *Case, slow bool) error {
	if err := u.settle(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.c, u.next, u.saw, u.slow = c, 0, nil, slow && !c.Whole
	return nil
}

// settle waits until the upstream has read all that was sent to it.
func (u *Upstream) settle() error {
	// Connections are accepted in turn. When this one is, so are all before it.
	last, err := net.Dial("tcp", u.l.Addr().String())
	if err != nil {
		return err
	}
	defer last.Close()
	_ = last.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(last, "GET "+probePath+" HTTP/1.1\r\n\r\n"); err != nil {
		return err
	}
	if _, err := io.ReadFull(last, make([]byte, len(probeAnswer))); err != nil {
		return err
	}
	for end := time.Now().Add(patience); u.unread(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("the upstream has not read all of the case before")
		}
	}
	return nil
}

// unread says whether something has come that is not recorded yet.
func (u *Upstream) unread() (found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var b [1]byte
	for _, raw := range u.open {
		_ = raw.Control(func(fd uintptr) {
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			found = found || err == nil && n > 0
		})
	}
	return found
}

// sawSoFar returns what came in since the current case began.
func (u *Upstream) sawSoFar() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return string(u.saw)
}

func (u *Upstream) serve(conn *net.TCPConn, raw syscall.RawConn) {
	defer func() {
		_ = conn.Close()
		u.mu.Lock()
		delete(u.open, conn)
		u.mu.Unlock()
	}()
	r := bufio.NewReader(&recorder{u: u, raw: raw})
	for {
		head, err := readRequest(r)
		if err != nil {
			return
		}
		answer, end := u.answer(head)
		u.mu.Lock()
		slow := u.slow
		u.mu.Unlock()
		if err := send(conn, answer, slow); err != nil {
			return
		}
		switch {
		case end == "reset":
			_ = conn.SetLinger(0)
			return
		case end == "close":
			return
		case strings.HasPrefix(answer, "HTTP/1.1 101"):
			// A tunnel: echo.
			_, _ = io.Copy(conn, r)
			return
		}
	}
}

// recorder reads a connection and notes what it reads in the same moment: the
// bytes are either in the socket still, or in what the upstream saw.
type recorder struct {
	u   *Upstream
	raw syscall.RawConn
}

func (r *recorder) Read(p []byte) (n int, err error) {
	closed := r.raw.Read(func(fd uintptr) bool {
		r.u.mu.Lock()
		defer r.u.mu.Unlock()
		if n, err = unix.Read(int(fd), p); err == unix.EAGAIN {
			return false
		}
		n = max(n, 0) // -1 with an error
		r.u.saw = append(r.u.saw, p[:n]...)
		return true
	})
	switch {
	case closed != nil:
		return 0, closed
	case n == 0 && err == nil:
		return 0, io.EOF
	}
	return n, err
}

func (u *Upstream) answer(head string) (answer, end string) {
	if strings.Contains(head, " "+probePath+" ") {
		return probeAnswer, ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.c == nil || u.next >= len(u.c.Upstream) {
		return usualAnswer, ""
	}
	answer = u.c.Upstream[u.next]
	u.next++
	if u.next == len(u.c.Upstream) || answer == "" {
		end = u.c.End
	}
	return answer, end
}

// readRequest reads a request to its end.
func readRequest(r *bufio.Reader) (head string, err error) {
	var b strings.Builder
	length, chunked := 0, false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		case "transfer-encoding":
			chunked = true
		}
	}
	if !chunked {
		_, err := io.CopyN(io.Discard, r, int64(length))
		return b.String(), err
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		n, err := strconv.ParseInt(strings.TrimRight(line, "\r\n"), 16, 64)
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(io.Discard, r, n+2); err != nil {
			return "", err
		}
	}
	_, err = textproto.NewReader(r).ReadMIMEHeader()
	return b.String(), err
}

func send(conn net.Conn, s string, slow bool) error {
	if !slow {
		_, err := io.WriteString(conn, s)
		return err
	}
	for i := range len(s) {
		if _, err := conn.Write([]byte{s[i]}); err != nil {
			return err
		}
	}
	return nil
}

// dropFields removes field lines, by name, from every head in raw bytes. It
// looks at lines only, so content must not look like such a field.
func dropFields(raw string, drop func(name string) bool) string {
	var out bytes.Buffer
	for line := range strings.SplitAfterSeq(raw, "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.HasSuffix(line, "\r\n") && !strings.ContainsAny(name, " ;") && drop(name) {
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// joinChunks replaces chunked content by its bytes, since where it is cut is
// nobody's concern: "head", "<", content, and if it is complete, ">" and trailers.
func joinChunks(raw string) string {
	const mark = "Transfer-Encoding: chunked\r\n"
	var out strings.Builder
	for {
		at := strings.Index(raw, mark)
		end := strings.Index(raw[max(at, 0):], "\r\n\r\n")
		if at < 0 || end < 0 {
			out.WriteString(raw)
			return out.String()
		}
		end += at + 4
		out.WriteString(raw[:end])
		out.WriteByte('<')
		raw = raw[end:]
		for {
			size, rest, ok := strings.Cut(raw, "\r\n")
			n, err := strconv.ParseInt(size, 16, 32)
			if !ok || err != nil {
				return out.String()
			}
			if n == 0 {
				out.WriteByte('>')
				raw = rest
				break
			}
			out.WriteString(rest[:min(int(n), len(rest))])
			if len(rest) < int(n)+2 {
				return out.String()
			}
			raw = rest[n+2:]
		}
	}
}

func quote(s string) string {
	if len(s) > 600 {
		return fmt.Sprintf("%q… (%d bytes)", s[:600], len(s))
	}
	return fmt.Sprintf("%q", s)
}
