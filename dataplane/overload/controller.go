package overload

// readings are what one look at the process has found.
type readings struct {
	// delay is what requests wait until they are read, in relation to what they may;
	// cpu is the part of the CPU that the process has had.
	delay, cpu float64
	// memory and requests are in relation to their bounds.
	memory, requests float64
	// asked counts requests by priority.
	asked [priorities]int64
}

// controller turns readings into the odds of requests. It has no clock, and is
// not safe for concurrent use.
type controller struct {
	memoryFrom, requestsFrom float64

	pressure [resources]float64
	// share is the part of all requests that is refused, because short is; byCPU is
	// what of it follows the delay.
	share, byCPU, delay float64
	short               Resource
	// tense says that it does not take much until some are refused.
	tense bool
	// mix is how the requests are divided, of late.
	mix [priorities]float64
}

const (
	// busy is the part of the CPU that the process must have had for a delay to be
	// its own fault: otherwise others keep the CPU busy, and to refuse requests would
	// help these.
	busy = 0.5
	// The share follows the delay as in PIE, RFC 8033 section 4.2: by how far it is
	// from what it may be, and by how much it has changed, with each look. most
	// bounds the change at a time, so that a pause, such as the machine's, does nothing.
	byDistance, byChange, most = 0.04, 0.08, 0.1
	// smooth is the weight of the latest delay: a container that has used its quota up
	// stands still for a part of each tenth of a second.
	smooth = 0.4
	// mostShare is the most that is refused. To refuse takes CPU, too, so that nothing
	// would be served if that were all there is time for; and if it is not requests
	// that the memory goes to, to refuse them all would help nobody.
	mostShare = 0.9
	// requestsFrom is the part of the requests that there may be from which on some are refused.
	requestsFrom = 0.9
	// tenseFrom is the pressure from which on priorities are counted.
	tenseFrom = 0.5
	// latest is the weight of the latest requests in mix.
	latest = 0.3
)

func newController(opts *Options) controller {
	c := controller{memoryFrom: float64(opts.MemoryPercent) / 100, requestsFrom: requestsFrom}
	c.mix[Default] = 1
	return c
}

// step returns how likely a request of each priority is to be refused.
func (c *controller) step(r *readings) (odds [priorities]float64) {
	c.pressure = [resources]float64{CPU: r.delay, Memory: r.memory, Requests: r.requests}
	c.followDelay(r)
	shares := [resources]float64{CPU: c.byCPU, Memory: scaled(r.memory, c.memoryFrom), Requests: scaled(r.requests, c.requestsFrom)}
	c.share, c.short = 0, CPU
	for i, s := range shares {
		if s > c.share {
			c.share, c.short = s, Resource(i)
		}
	}
	c.tense = c.share > 0 || r.delay > tenseFrom || r.requests > tenseFrom || r.memory > tenseFrom*c.memoryFrom
	c.count(&r.asked)
	return c.divide()
}

// followDelay sets byCPU.
func (c *controller) followDelay(r *readings) {
	before := c.delay
	c.delay += smooth * (r.delay - c.delay)
	change := byDistance*(c.delay-1) + byChange*(c.delay-before)
	if change > 0 && (r.cpu < busy || c.delay <= 1 && c.byCPU == 0) {
		change = 0
	}
	c.byCPU = min(max(c.byCPU+min(max(change, -most), most), 0), mostShare)
}

// scaled is a share that grows from nothing to all while the pressure grows from a
// point on to 1.
func scaled(pressure, from float64) float64 {
	return min(max((pressure-from)/(1-from), 0), mostShare)
}

// count takes requests into account.
func (c *controller) count(asked *[priorities]int64) {
	var all int64
	for _, n := range asked {
		all += n
	}
	if all == 0 {
		return
	}
	for p, n := range asked {
		c.mix[p] += latest * (float64(n)/float64(all) - c.mix[p])
	}
}

// divide takes the share from the lowest priority first. What is left of it
// goes to the next.
func (c *controller) divide() (odds [priorities]float64) {
	left := c.share
	for p := Low; p < priorities && left > 0; p++ {
		odds[p] = 1
		if c.mix[p] > left {
			odds[p] = left / c.mix[p]
		}
		left -= c.mix[p]
	}
	return odds
}
