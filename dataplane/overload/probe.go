package overload

import (
	"os"
	"sync/atomic"
	"time"
)

// probe measures what a request waits from when it has arrived until it is read:
// a byte in a pipe takes the same way. It waits in the kernel's list of what is ready,
// of which the runtime takes a part at a time, and then among the goroutines that
// are to run. The runtime's own metric, /sched/latencies, knows the latter only,
// which with many connections is the lesser part.
type probe struct {
	read, write *os.File
	began       time.Time
	// sent is when a byte was sent that is on its way, since began, 0 if none is;
	// took is what the last one took.
	sent, took atomic.Int64
	done       chan struct{}
}

func newProbe() (*probe, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &probe{read: read, write: write, began: time.Now().Add(-1), done: make(chan struct{})}
	go p.receive()
	return p, nil
}

func (p *probe) now() int64 { return int64(time.Since(p.began)) }

func (p *probe) receive() {
	defer close(p.done)
	var b [1]byte
	for {
		if _, err := p.read.Read(b[:]); err != nil {
			return
		}
		p.took.Store(p.now() - p.sent.Load())
		p.sent.Store(0)
	}
}

// delay returns what a byte that was sent at the last call has taken, or takes
// so far, and sends another if there is none. It must not be called concurrently.
func (p *probe) delay() time.Duration {
	if sent := p.sent.Load(); sent > 0 {
		return time.Duration(max(p.now()-sent, p.took.Load()))
	}
	p.sent.Store(p.now())
	_, _ = p.write.Write([]byte{0}) // there is room in the pipe for one byte
	return time.Duration(p.took.Load())
}

func (p *probe) close() {
	p.write.Close()
	<-p.done
	p.read.Close()
}
