// Package overload tells when this process has more to do than it can, and
// which requests to refuse so that the others are served in time: early, by a
// share that follows the pressure, and those of the lowest priority first.
//
// Three resources can be short. Of CPU, it is what requests wait until they are
// read, as WeChat's DAGOR goes by the time in queues rather than by how busy a
// server is: one that is just busy needs no help. Of memory, it is what lives, in
// relation to the limit, and of requests in flight their number, in relation to
// their bound, as in Envoy's overload manager.
package overload

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

// Priority is how long requests are served when not all can be. The lowest are
// refused first, and the others only when there are none left of these.
type Priority uint8

// The priorities, from the lowest.
const (
	Low Priority = iota
	Default
	High
	Critical
	priorities
)

var priorityNames = [priorities]string{"Low", "Default", "High", "Critical"}

func (p Priority) String() string { return priorityNames[p] }

// ParsePriority returns the priority of a name; "" is Default.
func ParsePriority(name string) (Priority, bool) {
	if name == "" {
		return Default, true
	}
	for p, n := range priorityNames {
		if n == name {
			return Priority(p), true
		}
	}
	return Default, false
}

// Resource is what can be short.
type Resource uint8

// The resources.
const (
	CPU Resource = iota
	Memory
	Requests
	resources
)

var resourceNames = [resources]string{"cpu", "memory", "requests"}

func (r Resource) String() string { return resourceNames[r] }

// Options say from when on requests are refused. The zero value refuses none.
type Options struct {
	// SchedulingDelay is how long what has arrived may wait until it is read, for a
	// while, in a process that has most of the CPU that it may have. 0 looks at no CPU.
	SchedulingDelay time.Duration
	// MemoryPercent is how much of the memory limit may live. From there on to the
	// whole limit the share that is refused grows to mostShare. 0 looks at no memory.
	MemoryPercent int
	// CPUTime is what the process has had of CPU, and CPUs how many it may have. If
	// they are nil, only the delay counts.
	CPUTime func() time.Duration
	CPUs    func() float64
	// InFlight counts the requests being served, of which there may be MaxRequests.
	// From requestsFrom of these on, the share that is refused grows to mostShare. nil looks at none.
	InFlight    func() int
	MaxRequests int
	Log         logr.Logger
}

// interval is how often the monitor looks, and calmLooks how many looks are a while.
const (
	interval  = 100 * time.Millisecond
	calmLooks = 100
)

// A client that asks again as soon as it is refused takes ever more CPU, the faster
// it is refused: a hundred of these leave nothing for others. So for want of CPU a
// refusal is held back, which costs nothing: for holdFor times the share that is
// refused, give or take a half, so that they do not all come again together. Of the
// requests that there may be, one in heldPart may wait so.
const (
	holdFor  = time.Second
	heldPart = 4
)

// Monitor says which requests to refuse. A nil Monitor refuses none. It is safe
// for concurrent use.
type Monitor struct {
	opts Options
	// control and calm are of Run alone. calm is how many looks must find that no
	// requests are refused until the log says so, 0 if it has.
	control controller
	calm    int

	// watching is false as long as all is well: then a request reads nothing else.
	watching atomic.Bool
	// odds are how likely a request is to be refused, of 2³² - 1, and short is why.
	odds  [priorities]atomic.Uint32
	short atomic.Uint32
	// asked counts the requests since the monitor looked last, while it watches;
	// shed those that were refused.
	asked [priorities]atomic.Int64
	shed  [priorities][resources]atomic.Uint64

	// hold is for how long a refusal is held back, and held how many are.
	hold, held atomic.Int64

	pressure [resources]atomic.Uint64 // float64 bits
	share    atomic.Uint64
}

// New returns a monitor that refuses nothing until Run.
func New(opts Options) *Monitor {
	if opts.Log.GetSink() == nil {
		opts.Log = logr.Discard()
	}
	return &Monitor{opts: opts, control: newController(&opts)}
}

// Run looks at the process's resources until stop is closed.
func (m *Monitor) Run(stop <-chan struct{}) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	g := newGauges(&m.opts)
	defer g.close()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			m.look(g.read())
		}
	}
}

// look takes over what there is to know about the resources.
func (m *Monitor) look(r readings) {
	for i := range m.asked {
		r.asked[i] = m.asked[i].Swap(0)
	}
	odds := m.control.step(&r)
	m.short.Store(uint32(m.control.short))
	for i := range odds {
		m.odds[i].Store(uint32(odds[i] * math.MaxUint32))
	}
	m.hold.Store(int64(m.control.byCPU * float64(holdFor)))
	m.watching.Store(m.control.tense)
	for i := range m.pressure {
		m.pressure[i].Store(math.Float64bits(m.control.pressure[i]))
	}
	m.share.Store(math.Float64bits(m.control.share))
	m.tell()
}

// tell logs when requests begin to be refused, and when none were for a while.
func (m *Monitor) tell() {
	switch {
	case m.control.share > 0 && m.calm == 0:
		m.opts.Log.Info("Requests are refused, since there is not enough of a resource", "resource", m.control.short.String())
		m.calm = calmLooks
	case m.control.share > 0:
		m.calm = calmLooks
	case m.calm > 0:
		if m.calm--; m.calm == 0 {
			m.opts.Log.Info("No requests are refused any more")
		}
	}
}

// Shed reports whether to refuse a request, and what is short.
func (m *Monitor) Shed(p Priority) (short Resource, shed bool) {
	if m == nil || !m.watching.Load() {
		return 0, false
	}
	m.asked[p].Add(1)
	if odds := m.odds[p].Load(); odds == 0 || rand.Uint32() > odds {
		return 0, false
	}
	short = Resource(m.short.Load())
	m.shed[p][short].Add(1)
	return short, true
}

// Hold holds the refusal of a request back, if that serves a purpose, and returns
// for how long it did.
func (m *Monitor) Hold(short Resource) time.Duration {
	d := time.Duration(float64(m.hold.Load()) * (0.5 + rand.Float64()))
	if short != CPU || d == 0 {
		return 0
	}
	defer m.held.Add(-1)
	if m.held.Add(1) > int64(m.opts.MaxRequests/heldPart) {
		return 0
	}
	time.Sleep(d)
	return d
}

// State is how the process is doing, for people and metrics.
type State struct {
	// Pressure is how near each resource is to its bound: 1 is at the bound, and
	// above 1 beyond. ShedRatio is the share of the requests that is refused.
	Pressure  map[string]float64 `json:"pressure"`
	ShedRatio float64            `json:"shedRatio"`
	// Shed counts the requests that were refused, by priority and resource.
	Shed map[string]map[string]uint64 `json:"shed"`
}

// State returns nil for a nil Monitor.
func (m *Monitor) State() *State {
	if m == nil {
		return nil
	}
	s := &State{Pressure: map[string]float64{}, Shed: map[string]map[string]uint64{}, ShedRatio: math.Float64frombits(m.share.Load())}
	for r, name := range resourceNames {
		s.Pressure[name] = math.Float64frombits(m.pressure[r].Load())
	}
	for p, priority := range priorityNames {
		s.Shed[priority] = map[string]uint64{}
		for r, resource := range resourceNames {
			s.Shed[priority][resource] = m.shed[p][r].Load()
		}
	}
	return s
}
