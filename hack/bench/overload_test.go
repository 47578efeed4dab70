package main

import (
	"io"
	"math"
	"net"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	ms := time.Millisecond
	var s sample
	s.judge([]outcome{{0, 10 * ms, 200}, {0, deadline + ms, 200}, {0, ms, 503}, {0, patience, gaveUp}}, 2*time.Second)
	if s.goodput != 0.5 || s.late != 0.25 || s.refused != 0.25 || s.failed != 0.25 {
		t.Errorf("%+v", s.surge)
	}
	if s.p50 != 10_000 {
		t.Errorf("p50 is %v µs; who is refused is not served", s.p50)
	}
}

// Recovery is when all is as before, and stays so for a while.
func TestRecovery(t *testing.T) {
	const from, length = 10 * time.Second, 2 * time.Second
	before := []outcome{{0, time.Millisecond, 200}, {1, time.Millisecond, 200}}
	after := func(bad func(since time.Duration) outcome) (all []outcome) {
		for since := time.Duration(0); since < length; since += time.Millisecond {
			r := bad(since)
			r.due = from + since
			all = append(all, r)
		}
		return all
	}
	for name, c := range map[string]struct {
		bad  func(time.Duration) outcome
		want float64
	}{
		"at once": {func(time.Duration) outcome { return outcome{0, time.Millisecond, 200} }, 0},
		"slow, then refused": {func(since time.Duration) outcome {
			switch {
			case since < 250*time.Millisecond:
				return outcome{0, time.Second, 200}
			case since < 450*time.Millisecond || since == 650*time.Millisecond:
				return outcome{0, time.Millisecond, 503}
			}
			return outcome{0, time.Millisecond, 200}
		}, 0.7},
		"never": {func(since time.Duration) outcome {
			return outcome{0, time.Millisecond, 200 + int(since/(300*time.Millisecond))%2}
		}, math.Inf(1)},
	} {
		if got := recovery(before, after(c.bad), from, length); got != c.want {
			t.Errorf("%s: after %v s, want %v", name, got, c.want)
		}
	}
}

// A response is complete when its length or its last chunk says so, however it comes in.
func TestResponse(t *testing.T) {
	for text, want := range map[string]response{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody":                                                  {status: 200},
		"HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n":                                 {status: 503, last: true},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n":                       {status: 200},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVary: Accept-Encoding\r\n\r\n1\r\n0\r\n0\r\n\r\n": {status: 200},
	} {
		for _, step := range []int{1, 3, len(text)} {
			var r response
			for at := 0; at < len(text); at += step {
				done, err := r.take([]byte(text[at:min(at+step, len(text))]))
				if err != nil || done != (at+step >= len(text)) {
					t.Fatalf("%q by %d, at %d: %v, %v", text, step, at, done, err)
				}
			}
			if r.status != want.status || r.last != want.last {
				t.Errorf("%q: %+v", text, r)
			}
		}
	}
}

// Every request has one outcome, whatever the server does.
func TestOpenClientNotesEveryRequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var request [4096]byte
				for k := 0; ; k++ {
					if _, err := c.Read(request[:]); err != nil {
						return
					}
					switch (n + k) % 4 {
					case 0, 1:
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					case 2:
						io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
						return
					case 3:
						if n%8 == 3 {
							return
						}
						c.Read(request[:]) // until the client gives up
						return
					}
				}
			}()
		}
	}()
	g := &openClient{addresses: []string{l.Addr().String()}, path: "/", most: 100, patience: 500 * time.Millisecond}
	if err := g.load(t.Context(), 0, stage{200, time.Second}, stage{400, time.Second}); err != nil {
		t.Fatal(err)
	}
	got := map[int]int{}
	first := 0
	for _, r := range g.outcomes {
		got[r.status]++
		if r.due < time.Second {
			first++
		}
	}
	for _, status := range []int{200, 503, gaveUp, broken} {
		if got[status] == 0 {
			t.Errorf("none had the outcome %d: %v", status, got)
		}
	}
	// The moments are random, but always the same ones.
	if n := len(g.outcomes); n < 500 || n > 700 || first < 150 || first > 250 {
		t.Errorf("%d requests, %d of them in the first second", n, first)
	}
}

func TestInterval(t *testing.T) {
	mean, from, to := interval([]float64{1.01, 1.03, 1.02, 1.02, 1.00, 1.04})
	if math.Abs(mean-1.02) > 0.001 || math.Abs(to-from-2*2.571*0.0139/math.Sqrt(6)) > 0.001 || from >= mean || to <= mean {
		t.Errorf("%v, from %v to %v", mean, from, to)
	}
	if math.Abs(student(11)-2.201) > 0.02 || math.Abs(student(1000)-1.96) > 0.02 {
		t.Errorf("%v, %v", student(11), student(1000))
	}
}
