package compile

import (
	"fmt"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func compileOutlierDetection(c *policyCompiler, from *v1alpha1.OutlierDetection) *snapshot.OutlierDetection {
	const field = "spec.outlierDetection"
	to := &snapshot.OutlierDetection{
		ConsecutiveErrors:  int(number(c, field+".consecutiveErrors", from.ConsecutiveErrors, 5, 0, 10_000)),
		ErrorPercent:       int(number(c, field+".errorPercent", from.ErrorPercent, 0, 1, 100)),
		LatencyFactor:      int(number(c, field+".latencyFactor", from.LatencyFactor, 0, 2, 1000)),
		MinRequests:        int(number(c, field+".minRequests", from.MinRequests, 20, 1, 1_000_000)),
		Interval:           c.duration(field+".interval", from.Interval, 10*time.Second, time.Second, time.Hour),
		Statuses:           statusRanges(c, field+".statuses", from.Statuses),
		BaseEjectionTime:   c.duration(field+".baseEjectionTime", from.BaseEjectionTime, 30*time.Second, time.Second, time.Hour),
		MaxEjectionTime:    c.duration(field+".maxEjectionTime", from.MaxEjectionTime, 5*time.Minute, time.Second, 24*time.Hour),
		MaxEjectionPercent: int(number(c, field+".maxEjectionPercent", from.MaxEjectionPercent, 50, 0, 100)),
	}
	if len(to.Statuses) == 0 {
		to.Statuses = []snapshot.StatusRange{{From: 500, To: 599}}
	}
	if to.BaseEjectionTime > to.MaxEjectionTime {
		c.invalid(field+".baseEjectionTime", fmt.Sprintf("%s is longer than maxEjectionTime, %s", to.BaseEjectionTime, to.MaxEjectionTime), "a time within maxEjectionTime")
	}
	rates := from.ErrorPercent != nil || from.LatencyFactor != nil
	if to.ConsecutiveErrors == 0 && !rates {
		c.invalid(field+".consecutiveErrors", "it is 0, and neither errorPercent nor latencyFactor is set, so nothing would be ejected", "one of the three")
	}
	if !rates && (from.MinRequests != nil || from.Interval != nil) {
		c.invalid(field, "minRequests and interval are for errorPercent and latencyFactor, and neither is set", "one of these, or neither of those")
	}
	return to
}
