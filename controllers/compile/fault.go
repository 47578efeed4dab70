package compile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy/fault"
	"github.com/headgate/headgate/dataplane/policy/headers"
)

// compileFault compiles a BackendPolicy's fault.
func compileFault(c *policyCompiler, from *v1alpha1.Fault) *fault.Config {
	const field = "spec.fault"
	to := &fault.Config{}
	percent := func(field string, n *int32) int { return int(number(c, field+".percent", n, 100, 1, 100)) }
	if d := from.Delay; d != nil {
		to.Delay = &fault.Delay{
			Time:    c.duration(field+".delay.time", &d.Time, 0, time.Millisecond, 5*time.Minute),
			Percent: percent(field+".delay", d.Percent),
		}
	}
	if a := from.Abort; a != nil {
		to.Abort = &fault.Abort{Status: int(a.Status), Percent: percent(field+".abort", a.Percent)}
		if a.Status < 400 || a.Status > 599 {
			c.invalid(field+".abort.status", fmt.Sprintf("%d is no status of an error", a.Status), "400 to 599")
		}
	}
	if from.Delay == nil && from.Abort == nil {
		c.invalid(field, "it has neither delay nor abort", "one of the two, or both")
	}
	checkHeaders(c, field+".headers", from.Headers, "each name once")
	for _, h := range from.Headers {
		to.Headers = append(to.Headers, fault.Header{Name: string(h.Name), Value: h.Value})
	}
	return to
}

// checkHeaders reports header fields that no message can have, and those that are
// there twice or, in lower case, among those that are said elsewhere.
func checkHeaders(c *policyCompiler, field string, list []gatewayv1.HTTPHeader, want string, elsewhere ...string) {
	seen := elsewhere
	for i, h := range list {
		name := strings.ToLower(string(h.Name))
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := headers.CheckField(string(h.Name), h.Value); err != nil {
			c.invalid(at, err.Error(), "another header field")
		} else if slices.Contains(seen, name) {
			c.invalid(at, fmt.Sprintf("%s is there already", h.Name), want)
		}
		seen = append(seen, name)
	}
}
