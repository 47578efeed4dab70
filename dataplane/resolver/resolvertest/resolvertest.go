// Package resolvertest is a name server for tests.
package resolvertest

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Server is a name server, which answers from a table over UDP and TCP. It is safe
// for concurrent use.
type Server struct {
	// Addr is "ip:port".
	Addr string

	mu      sync.Mutex
	records map[string][]string // zone file lines without the name
	rcodes  map[string]int      // by name, or "name type"
	asked   map[string]int      // by "name type", and "tcp"
	silent  bool
}

// NewServer starts a name server with an empty table, which ends with the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{records: map[string][]string{}, rcodes: map[string]int{}, asked: map[string]int{}}
	var pc net.PacketConn
	var l net.Listener
	for range 20 { // until a port is free for both
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	s.Addr = pc.LocalAddr().String()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // runs last
	for _, server := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(s.serve)},
		{Listener: l, Handler: dns.HandlerFunc(s.serve)},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return s
}

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(q.Question[0].Name)
	key := name + " " + dns.TypeToString[q.Question[0].Qtype]
	s.asked[key]++
	if s.silent {
		return
	}
	r := new(dns.Msg)
	r.SetReply(q)
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if !udp {
		s.asked["tcp"]++
	}
	for _, line := range s.records[key] {
		owner := name
		if before, after, found := strings.Cut(line, "|"); found {
			owner, line = before, after
		}
		record, err := dns.NewRR(owner + " " + line)
		if err != nil {
			panic(err)
		}
		r.Answer = append(r.Answer, record)
	}
	r.Rcode = max(s.rcodes[name], s.rcodes[key])
	if udp && r.Len() > 1232 {
		r.Answer, r.Truncated = nil, true
	}
	w.WriteMsg(r)
}

// Set replaces the records that answer a question, "name. TYPE" with the name in
// lower case. Each is a line of a zone file without the name, or "owner|line".
func (s *Server) Set(key string, lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[key] = lines
}

// Rcode has questions about a name, or those of one type, "name. TYPE", answered
// with a code, be it that there are records.
func (s *Server) Rcode(key string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[key] = code
}

// Silence has questions counted and not answered, until it is off again.
func (s *Server) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// Count is how often a question was asked, "name. TYPE"; of "tcp" how many were
// over TCP.
func (s *Server) Count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key]
}

// Asked is how often each question was asked, by what Count takes.
func (s *Server) Asked() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.asked)
}

// File writes a file such as resolv.conf, which is gone with the test, and returns
// its path.
func File(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
