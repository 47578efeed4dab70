// Package fault makes requests fail on purpose: a share of them late, a share with
// an error, so that it can be seen what clients make of it.
package fault

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Config says which requests fail and how. Whether one is late and whether it has
// an error is drawn apart; a request may be both.
type Config struct {
	Delay *Delay `json:"delay,omitempty"`
	Abort *Abort `json:"abort,omitempty"`
	// Headers are fields that a request, as its client has sent it, must have all
	// of; with none, faults are for all requests.
	Headers []Header `json:"headers,omitempty"`
}

// Delay holds requests up.
type Delay struct {
	// Time is above 0.
	Time time.Duration `json:"time"`
	// Percent of the requests, from 1 to 100.
	Percent int `json:"percent"`
}

// Abort answers requests with an error in the backend's place.
type Abort struct {
	// Status is from 400 to 599; a gRPC call is answered with what corresponds to it.
	Status int `json:"status"`
	// Percent of the requests, from 1 to 100.
	Percent int `json:"percent"`
}

// Header is a field line. Names are compared without regard to case, values are not.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Kind returns "fault".
func (*Config) Kind() string { return "fault" }

// Build makes the filter.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	if d := c.Delay; d != nil && (d.Time <= 0 || d.Percent < 1 || d.Percent > 100) {
		return policy.Filter{}, fmt.Errorf("delay: %s for %d percent is out of bounds", d.Time, d.Percent)
	}
	if a := c.Abort; a != nil && (a.Status < 400 || a.Status > 599 || a.Percent < 1 || a.Percent > 100) {
		return policy.Filter{}, fmt.Errorf("abort: %d for %d percent is out of bounds", a.Status, a.Percent)
	}
	return policy.Filter{Request: c.request}, nil
}

func (c *Config) request(ex *exchange.Exchange) exchange.Verdict {
	for i := range c.Headers {
		if !c.Headers[i].in(ex.In.Fields) {
			return exchange.Continue
		}
	}
	if c.Delay != nil && drawn(c.Delay.Percent) && c.Delay.hold(ex) == exchange.Answered {
		return exchange.Answered
	}
	if c.Abort != nil && drawn(c.Abort.Percent) {
		return ex.Answer(c.Abort.Status, "fault_abort", "This error was made on purpose.\n")
	}
	return exchange.Continue
}

func drawn(percent int) bool { return percent >= 100 || rand.IntN(100) < percent }

// hold waits. A request whose time is over meanwhile is answered as if the
// backend had been too slow, which never hears of it.
func (d *Delay) hold(ex *exchange.Exchange) exchange.Verdict {
	wait, late := d.Time, false
	if !ex.Deadline.IsZero() {
		if left := time.Until(ex.Deadline); left <= wait {
			wait, late = left, true
		}
	}
	switch {
	case !ex.Sleep(wait):
		return ex.Answer(exchange.ErrAbandoned.Status, exchange.ErrAbandoned.Reason, "")
	case late:
		return ex.Answer(504, "timeout", "The service did not answer in time.\n")
	}
	return exchange.Continue
}

func (h *Header) in(fields exchange.Fields) bool {
	for i := range fields {
		if f := &fields[i]; f.Value == h.Value && exchange.EqualFold(f.Name, h.Name) {
			return true
		}
	}
	return false
}
