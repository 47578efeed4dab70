package pipeline

import (
	"errors"
	"strconv"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/overload"
)

// The statuses of our own answers, RFC 9110 section 15.
const (
	http200 = 200
	http400 = 400
	http404 = 404
	http405 = 405
	http413 = 413
	http421 = 421
	http431 = 431
	http500 = 500
	http502 = 502
	http503 = 503
	http504 = 504
)

// fail answers for a round trip that failed.
func (p *Pipeline) fail(ex *exchange.Exchange, err error) {
	var client *exchange.ClientError
	if errors.As(err, &client) {
		failClient(ex, client)
		return
	}
	reason, status := "upstream_error", http502
	var up *exchange.UpstreamError
	if errors.As(err, &up) {
		reason = up.Reason
		switch {
		case reason == "session_lost":
			sessionLost(ex)
			return
		case reason == "circuit_open":
			ex.Answer(http503, reason, "The service has as many requests as it can take. Try again soon.\n")
			retryAfter(ex, "1")
			return
		case reason == "no_endpoint", reason == errRetryBudget.Reason:
			status = http503
		case strings.Contains(reason, "timeout"):
			status = http504
		}
	}
	switch status {
	case http503:
		text := "No instance of the service is available.\n"
		if reason == errRetryBudget.Reason {
			text = "The service fails too often to be asked again.\n"
		}
		ex.Answer(status, reason, text)
		retryAfter(ex, "5")
	case http504:
		ex.Answer(status, reason, "The service did not answer in time.\n")
	default:
		ex.Answer(status, reason, "The service could not be reached, or its answer could not be read.\n")
	}
	if log := p.opts.Log.V(1); log.Enabled() {
		log.Info("upstream failed", "cluster", ex.Upstream.Cluster, "endpoint", ex.Upstream.Endpoint,
			"requestID", strings.Clone(ex.RequestID), "reason", reason, "error", err.Error())
	}
}

// The reasons of overloaded.
var overloadReasons = [...]string{
	overload.CPU: "overloaded_cpu", overload.Memory: "overloaded_memory", overload.Requests: "overloaded_requests",
}

// overloaded answers a request that is not served because Headgate itself has
// not enough of something.
func overloaded(ex *exchange.Exchange, short overload.Resource) {
	ex.Answer(http503, overloadReasons[short], "Headgate has as many requests as it can serve. Try again soon.\n")
	retryAfter(ex, "1")
}

// sessionLost answers a request whose session is strict and cannot go on.
func sessionLost(ex *exchange.Exchange) {
	ex.Answer(http503, "session_lost", "The instance of the service that this session is with is not available.\n")
}

// failClient answers for content that could not be read. The client may be
// gone; then nobody reads the answer, but logs do.
func failClient(ex *exchange.Exchange, err *exchange.ClientError) exchange.Verdict {
	status := err.Status
	if status < 400 || status > 599 {
		status = http400
	}
	return ex.Answer(status, err.Reason, "The request's content could not be read.\n")
}

func tooLarge(ex *exchange.Exchange) exchange.Verdict {
	return ex.Answer(http413, "content_too_large", "The request's content is larger than this route takes.\n")
}

func retryAfter(ex *exchange.Exchange, seconds string) {
	ex.Response.Fields = append(ex.Response.Fields,
		exchange.Field{Key: exchange.KeyRetryAfter, Name: "Retry-After", Value: seconds})
}

// maxForwards keeps Max-Forwards of TRACE and OPTIONS, RFC 9110 section 7.6.2.
// last says that the request goes no further, answered that it has its answer.
func maxForwards(ex *exchange.Exchange) (last, answered bool) {
	if ex.In.Method != "OPTIONS" && ex.In.Method != "TRACE" {
		return false, false
	}
	value, ok := ex.Out.Fields.Get("Max-Forwards")
	if !ok {
		return false, false
	}
	n, err := strconv.ParseUint(value, 10, 31)
	switch {
	case err != nil:
		return true, false
	case n == 0 && ex.In.Method == "TRACE":
		// We would have to echo, and never do.
		ex.Answer(http405, "max_forwards", "TRACE is not answered here.\n")
		return true, true
	case n == 0:
		ex.Answer(http200, "max_forwards", "")
		return true, true
	}
	ex.Out.Fields.Set("Max-Forwards", ex.Arena.Uint(n-1))
	return false, false
}
