package h1test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
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
	// epoch counts the cases: what is left of an earlier one may come late.
	epoch int
	open  map[net.Conn]bool
}

// NewUpstream serves on l until Close.
func NewUpstream(l net.Listener) *Upstream {
	u := &Upstream{l: l, open: map[net.Conn]bool{}}
	u.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.open[conn] = true
			u.mu.Unlock()
			u.wg.Go(func() { u.serve(conn) })
		}
	})
	return u
}

// Close ends all connections, and waits for them.
func (u *Upstream) Close() {
	_ = u.l.Close()
	u.mu.Lock()
	for conn := range u.open {
		_ = conn.Close()
	}
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *Upstream) script(c *Case, slow bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.c, u.next, u.saw, u.slow = c, 0, nil, slow && !c.Whole
	u.epoch++
}

// sawSoFar returns what came in since the current case began.
func (u *Upstream) sawSoFar() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return string(u.saw)
}

func (u *Upstream) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		u.mu.Lock()
		delete(u.open, conn)
		u.mu.Unlock()
	}()
	rec := &recorder{u: u}
	r := bufio.NewReader(io.TeeReader(conn, rec))
	for {
		rec.epoch = 0
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
			_ = conn.(*net.TCPConn).SetLinger(0)
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

// recorder notes a request with the case in which it began.
type recorder struct {
	u     *Upstream
	epoch int // 0 before the request's first byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.u.mu.Lock()
	defer r.u.mu.Unlock()
	if r.epoch == 0 {
		r.epoch = r.u.epoch
	}
	if r.epoch == r.u.epoch {
		r.u.saw = append(r.u.saw, p...)
	}
	return len(p), nil
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
