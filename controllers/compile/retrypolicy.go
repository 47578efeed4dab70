package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy/headers"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// mostRetryContent bounds maxContent, in bytes.
const mostRetryContent = 16 << 20

// retryConditions are the names of snapshot.Retry.Conditions.
var retryConditions = []string{"ConnectFailure", "Reset", "Timeout"}

// grpcCodes are the names of gRPC's status codes, by their numbers ("Status codes
// and their use in gRPC"). OK is no reason to try again.
var grpcCodes = []string{
	1: "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// compileRetry compiles a BackendPolicy's retry.
func compileRetry(c *policyCompiler, from *v1alpha1.Retry) *snapshot.Retry {
	const field = "spec.retry"
	to := &snapshot.Retry{
		NonIdempotent: from.NonIdempotent,
		Attempts:      int(number(c, field+".attempts", from.Attempts, defaultAttempts, 1, mostAttempts)),
		Backoff:       c.duration(field+".backoff", from.Backoff, defaultBackoff, 0, time.Minute),
		MaxBackoff:    c.duration(field+".maxBackoff", from.MaxBackoff, 0, time.Millisecond, time.Hour),
		MaxRetryAfter: c.duration(field+".maxRetryAfter", from.MaxRetryAfter, 0, time.Second, time.Minute),
		PerTryTimeout: c.duration(field+".perTryTimeout", from.PerTryTimeout, 0, time.Millisecond, time.Hour),
		MaxContent:    int(number(c, field+".maxContent", from.MaxContent, 0, 1, mostRetryContent)),
	}
	if cmp.Or(to.MaxBackoff, to.Backoff) < to.Backoff {
		c.invalid(field+".maxBackoff", fmt.Sprintf("%s is shorter than backoff, %s", to.MaxBackoff, to.Backoff), "a longer one, or none")
	}
	for i, on := range from.Conditions {
		if !slices.Contains(retryConditions, string(on)) {
			c.invalid(fmt.Sprintf("%s.conditions[%d]", field, i), fmt.Sprintf("%q does not exist", on), "one of "+strings.Join(retryConditions, ", "))
		}
		to.Conditions = append(to.Conditions, string(on))
	}
	to.Codes, to.GRPCCodes = compileCodes(c, field, from.Codes, from.GRPCCodes)
	for i, h := range from.Headers {
		value := valueOr(h.Value, "")
		if err := headers.CheckField(string(h.Name), value); err != nil || h.Value != nil && value == "" {
			c.invalid(fmt.Sprintf("%s.headers[%d]", field, i), fmt.Sprintf("%s: %q is no field of a response", h.Name, value), "a field's name, and a value or none")
		}
		to.Headers = append(to.Headers, snapshot.HeaderField{Name: string(h.Name), Value: value})
	}
	slices.Sort(to.Conditions)
	to.Conditions = slices.Compact(to.Conditions)
	return to
}

// compileCodes compiles the codes and grpcCodes of a stanza; both are sorted.
func compileCodes(c *policyCompiler, field string, statuses []int32, names []v1alpha1.GRPCCode) (codes, grpc []int) {
	for i, code := range statuses {
		if code < 400 || code > 599 {
			c.invalid(fmt.Sprintf("%s.codes[%d]", field, i), fmt.Sprintf("%d is no status of an error", code), "400 to 599")
		}
		codes = append(codes, int(code))
	}
	for i, name := range names {
		n := slices.Index(grpcCodes, string(name))
		if n < 1 {
			c.invalid(fmt.Sprintf("%s.grpcCodes[%d]", field, i), fmt.Sprintf("%q is no status code of an error", name), "one of "+strings.Join(grpcCodes[1:], ", "))
		}
		grpc = append(grpc, n)
	}
	slices.Sort(codes)
	slices.Sort(grpc)
	return slices.Compact(codes), slices.Compact(grpc)
}
