package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy/headers"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/syntax"
)

// compileHealthCheck compiles spec.healthCheck, which is there.
func compileHealthCheck(c *policyCompiler, spec *v1alpha1.BackendPolicySpec) *snapshot.HealthCheck {
	const field = "spec.healthCheck"
	from := spec.HealthCheck
	to := &snapshot.HealthCheck{
		Interval:           c.duration(field+".interval", from.Interval, 0, 100*time.Millisecond, time.Hour),
		Timeout:            c.duration(field+".timeout", from.Timeout, 0, 10*time.Millisecond, time.Minute),
		HealthyThreshold:   int(number(c, field+".healthyThreshold", from.HealthyThreshold, 0, 1, 100)),
		UnhealthyThreshold: int(number(c, field+".unhealthyThreshold", from.UnhealthyThreshold, 0, 1, 100)),
		Port:               uint16(number(c, field+".port", from.Port, 0, 1, 65535)),
		ReuseConnection:    from.ReuseConnection,
	}
	if from.ReuseConnection && from.HTTP == nil && from.GRPC == nil {
		c.invalid(field+".reuseConnection", "connections are used again by http and grpc alone", "http or grpc, or no reuseConnection")
	}
	interval, timeout := cmp.Or(to.Interval, snapshot.HealthCheckInterval), cmp.Or(to.Timeout, snapshot.HealthCheckTimeout)
	if timeout > interval {
		c.invalid(field+".timeout", fmt.Sprintf("%s is longer than the interval, %s", timeout, interval), "a timeout within the interval")
	}
	if truth(from.HTTP != nil)+truth(from.GRPC != nil)+truth(from.TCP != nil)+truth(from.UDP != nil) != 1 {
		c.invalid(field, "it has not exactly one of http, grpc, tcp and udp", "one of the four")
	}
	if q := from.TCP; q != nil && (q.Send != nil || q.Expect != nil) {
		to.TCP = &snapshot.SendExpect{Send: healthCheckBytes(c, field+".tcp.send", q.Send), Expect: healthCheckBytes(c, field+".tcp.expect", q.Expect)}
	}
	if q := from.UDP; q != nil {
		to.UDP = &snapshot.SendExpect{Send: healthCheckBytes(c, field+".udp.send", &q.Send), Expect: healthCheckBytes(c, field+".udp.expect", q.Expect)}
	}
	if from.HTTP != nil {
		to.HTTP = compileHTTPHealthCheck(c, from.HTTP)
	}
	if from.GRPC != nil {
		to.GRPC = &snapshot.GRPCHealthCheck{Service: from.GRPC.Service}
		if len(from.GRPC.Service) > 256 {
			c.invalid(field+".grpc.service", "it is longer than 256 bytes", "the name of a gRPC service")
		}
	}
	return to
}

// healthCheckBytes reads bytes, of which there may be none.
func healthCheckBytes(c *policyCompiler, field string, from *v1alpha1.HealthCheckBytes) []byte {
	if from == nil {
		return nil
	}
	b := from.Base64
	if from.Text != nil {
		b = []byte(*from.Text)
	}
	switch {
	case from.Text != nil && from.Base64 != nil:
		c.invalid(field, "it has both text and base64", "one of the two")
	case len(b) == 0:
		c.invalid(field, "it has neither text nor base64", "one of the two")
	case len(b) > maxHealthCheckBytes:
		c.invalid(field, fmt.Sprintf("it has %d bytes", len(b)), fmt.Sprintf("at most %d", maxHealthCheckBytes))
	}
	return b
}

// maxHealthCheckBytes bounds what a check sends and expects.
const maxHealthCheckBytes = 1024

// askable reports whether a Service's port can be asked: one of UDP by a check
// over UDP, others by one over TCP, unless the check has a port of its own.
func askable(check *snapshot.HealthCheck, port *corev1.ServicePort) bool {
	return check.Port != 0 || (transportOf(*port) == corev1.ProtocolUDP) == (check.UDP != nil)
}

// reportUnaskable says which targets have ports that are not checked.
func reportUnaskable(c *policyCompiler, targets []v1alpha1.TargetRef, check *snapshot.HealthCheck) {
	over, other := "TCP", "UDP"
	if check.UDP != nil {
		over, other = other, over
	}
	for i := range targets {
		target := &targets[i]
		at := objects.Ref{Kind: string(target.Kind), Namespace: c.ref.Namespace, Name: string(target.Name)}
		// What has no ports, or is not there, is judged elsewhere.
		ports := servicePorts(c.set.Get(at))
		for j := range ports {
			p := &ports[j]
			if !askable(check, p) && (target.SectionName == nil || p.Name == string(*target.SectionName)) {
				c.invalid("spec.healthCheck.port", fmt.Sprintf("there is none, and checks are over %s, while port %d of %s is a %s port", over, p.Port, at, other),
					fmt.Sprintf("the %s port to ask at, or a sectionName of the target that names a %[1]s port", over))
			}
		}
		if b, ok := c.set.Get(at).(*v1alpha1.Backend); ok && check.UDP != nil &&
			slices.ContainsFunc(b.Spec.Endpoints, func(e v1alpha1.BackendEndpoint) bool { return e.Unix != nil }) {
			c.invalid("spec.healthCheck.udp", fmt.Sprintf("%s has a Unix socket, which takes no datagrams of UDP", at), "http, grpc or tcp, or another target")
		}
	}
}

func compileHTTPHealthCheck(c *policyCompiler, from *v1alpha1.HTTPHealthCheck) *snapshot.HTTPHealthCheck {
	const field = "spec.healthCheck.http"
	to := &snapshot.HTTPHealthCheck{Method: valueOr(from.Method, ""), Path: valueOr(from.Path, ""), Host: valueOr(from.Host, "")}
	if methods := []string{"GET", "HEAD", "OPTIONS", "POST"}; from.Method != nil && !slices.Contains(methods, to.Method) {
		c.invalid(field+".method", fmt.Sprintf("%q is not supported", to.Method), "one of "+strings.Join(methods, ", "))
	}
	if from.Path != nil {
		_, _, _, ok := syntax.SplitPath(to.Path)
		if !ok || !strings.HasPrefix(to.Path, "/") || len(to.Path) > 1024 || !syntax.All(to.Path, syntax.TargetChar) {
			c.invalid(field+".path", fmt.Sprintf("%q is no path", to.Path), "a path that begins with /, such as /healthz, without white space and #")
		}
	}
	if from.Host != nil {
		if _, _, ok := syntax.ParseAuthority(to.Host); !ok || len(to.Host) > 259 {
			c.invalid(field+".host", fmt.Sprintf("%q is no host", to.Host), "a host name, with a port if need be")
		}
	}
	seen := map[string]bool{}
	for i, h := range from.Headers {
		name := strings.ToLower(string(h.Name))
		at := fmt.Sprintf("%s.headers[%d]", field, i)
		switch err := headers.CheckField(string(h.Name), h.Value); {
		case name == "host":
			c.invalid(at, "Host is not set here", "host in place of it")
		case err != nil:
			c.invalid(at, err.Error(), "another header field")
		case seen[name]:
			c.invalid(at, fmt.Sprintf("%s is there already", h.Name), "each name once")
		}
		seen[name] = true
		to.Headers = append(to.Headers, snapshot.HeaderField{Name: string(h.Name), Value: h.Value})
	}
	to.Statuses = statusRanges(c, field+".statuses", from.Statuses)
	if from.BodyContains != nil {
		to.BodyContains = *from.BodyContains
		switch n := len(to.BodyContains); {
		case n == 0 || n > maxHealthCheckBytes:
			c.invalid(field+".bodyContains", fmt.Sprintf("it has %d bytes", n), fmt.Sprintf("1 to %d", maxHealthCheckBytes))
		case to.Method == "HEAD":
			c.invalid(field+".bodyContains", "the response to HEAD has no content", "another method")
		}
	}
	return to
}

func statusRanges(c *policyCompiler, field string, from []v1alpha1.HTTPStatusRange) (ranges []snapshot.StatusRange) {
	for i, s := range from {
		r, ok := statusRange(string(s))
		if !ok {
			c.invalid(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is no range of statuses", s), `a status from 200 to 599, or two such as "200-299"`)
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// statusRange reads "200" and "200-299".
func statusRange(s string) (r snapshot.StatusRange, ok bool) {
	from, to, two := strings.Cut(s, "-")
	if !two {
		to = from
	}
	number := func(s string) int {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || len(s) != 3 || n < 200 || n > 599 {
			return 0
		}
		return int(n)
	}
	r = snapshot.StatusRange{From: number(from), To: number(to)}
	return r, r.From > 0 && r.From <= r.To
}
