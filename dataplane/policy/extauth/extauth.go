// Package extauth asks an authorization server whether a request may pass:
// HTTPRoute's ExternalAuth filter, GEP-1494, and AuthPolicy's external.
//
// The server is asked over the data plane's own clusters, in one of two
// protocols: by an HTTP request that looks like the client's, or by a gRPC call
// of envoy.service.auth.v3.Authorization/Check. Its answer decides what goes
// on: the request, with the fields that the server gives it, or the server's
// denial, back to the client.
//
// All that is not clearly a yes is a no. A server that cannot be reached, is
// late, fails (5xx, a gRPC error) or cannot be understood is answered 503,
// unless Config.FailOpen lets requests pass in the first three cases.
package extauth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/syntax"
)

// The values of Config.Protocol.
const (
	HTTP = "HTTP"
	GRPC = "GRPC"
)

// Config says whom to ask, and what to tell.
type Config struct {
	// Policy is who wants this, as metrics name it: "AuthPolicy/namespace/name",
	// or the route with the filter.
	Policy string `json:"policy"`
	// Cluster is the authorization server's key in snapshot.Clusters.
	Cluster string `json:"cluster"`
	// Protocol is HTTP or GRPC.
	Protocol string `json:"protocol"`
	// Authority is whom a gRPC call is for. An HTTP request has the client's.
	Authority string `json:"authority,omitempty"`
	// Path is put before the paths of HTTP requests: "" or "/…" without a "/" at the end.
	Path string `json:"path,omitempty"`
	// RequestHeaders are the client's fields that the server is told. With none,
	// a gRPC call has all; an HTTP request has none but Authorization, which it
	// always has.
	RequestHeaders []string `json:"requestHeaders,omitempty"`
	// ResponseHeaders are the fields of an HTTP answer that the backend is told,
	// and that clients therefore cannot send it. With none, it is told all but
	// those that are about the answer itself.
	ResponseHeaders []string `json:"responseHeaders,omitempty"`
	// MaxBody is up to how many bytes of content the server is told; requests
	// with more are answered 413. 0 tells it none.
	MaxBody int64 `json:"maxBody,omitempty"`
	// Timeout bounds each question; it must be above 0.
	Timeout time.Duration `json:"timeout"`
	// FailOpen lets requests pass while the server cannot be asked.
	FailOpen bool `json:"failOpen,omitempty"`
}

// Kind implements policy.Config.
func (*Config) Kind() string { return "extauth" }

// CheckHeader returns why a field of this name is not the authorization
// server's to set, nil if it is: those that frame a message, say where it goes
// or belong to one connection are the codecs' own.
func CheckHeader(name string) error {
	if name == "" || !syntax.All(name, syntax.TChar) {
		return fmt.Errorf("%q is not a header field name", name)
	}
	switch key := exchange.KeyOf(name); {
	case key.HopByHop(), key == exchange.KeyContentLength, key == exchange.KeyTrailer, key == exchange.KeyExpect, key == exchange.KeyHost:
		return fmt.Errorf("%s frames the message, says where it goes, or belongs to one connection", name)
	}
	return nil
}

// Build implements policy.Config.
func (c *Config) Build(env *policy.Env) (policy.Filter, error) {
	switch {
	case c.Protocol != HTTP && c.Protocol != GRPC:
		return policy.Filter{}, fmt.Errorf("extauth: no protocol %q", c.Protocol)
	case c.Timeout <= 0:
		return policy.Filter{}, errors.New("extauth: no timeout")
	case c.Path != "" && (c.Path[0] != '/' || strings.HasSuffix(c.Path, "/")):
		return policy.Filter{}, fmt.Errorf("extauth: path %q", c.Path)
	}
	for _, name := range c.ResponseHeaders {
		if err := CheckHeader(name); err != nil {
			return policy.Filter{}, fmt.Errorf("extauth: response headers: %w", err)
		}
	}
	f := &filter{Config: *c, upstream: env.Upstream(c.Cluster)}
	if f.upstream == nil {
		return policy.Filter{}, fmt.Errorf("extauth: the snapshot has no cluster %q", c.Cluster)
	}
	f.grpcTimeout = grpcTimeout(c.Timeout)
	f.metrics = env.Metrics.ExternalAuth(c.Policy)
	built := policy.Filter{Request: f.request, BodyLimit: c.MaxBody, Release: f.metrics.Release}
	if c.Protocol == GRPC {
		built.Response = response
	}
	return built, nil
}

// grpcTimeout writes a duration as the field grpc-timeout has it.
func grpcTimeout(d time.Duration) string {
	if ms := d.Milliseconds(); ms > 0 && ms < 1e8 {
		return strconv.FormatInt(ms, 10) + "m"
	}
	return strconv.FormatInt(min(int64(d.Seconds())+1, 1e8-1), 10) + "S"
}

type filter struct {
	Config
	upstream    policy.Upstream
	grpcTimeout string
	metrics     *observe.ExternalAuth
}

// Why a question has no answer. Each is the reason of an answer of ours.
var (
	errUnavailable = errors.New("auth_unavailable") // it could not be asked, or failed
	errMalformed   = errors.New("auth_malformed")   // its answer cannot be understood, or may not be followed
)

// verdict is what an answer comes to.
type verdict uint8

const (
	failed verdict = iota
	allowed
	denied
)

func (f *filter) request(ex *exchange.Exchange) exchange.Verdict {
	var content []byte
	if f.MaxBody > 0 && ex.Out.Body != nil {
		content, _ = ex.Out.Body.Next() // it is all there, in one piece
	}
	began := time.Now()
	c := calls.Get().(*call)
	v, err := f.ask(c, ex, content)
	ex.Upstream.Wait += c.ex.Upstream.Wait
	c.end()
	took := time.Since(began)

	switch {
	case v == allowed:
		f.metrics.Done("allowed", took)
		return exchange.Continue
	case v == denied:
		f.metrics.Done("denied", took)
		return exchange.Answered
	case ex.Abandoned():
		f.metrics.Done("abandoned", took)
		return ex.Answer(exchange.ErrAbandoned.Status, exchange.ErrAbandoned.Reason, "")
	case !ex.Deadline.IsZero() && !time.Now().Before(ex.Deadline):
		f.metrics.Done("failed", took)
		return ex.Answer(504, "timeout", "The request was not authorized in time.\n")
	case f.FailOpen && errors.Is(err, errUnavailable):
		f.metrics.Done("failed_open", took)
		f.strip(ex)
		return exchange.Continue
	}
	f.metrics.Done("failed", took)
	return ex.Answer(503, err.Error(), "The request could not be authorized.\n")
}

// ask asks, and acts on an answer: the request is changed as it says, or the
// exchange is answered. The error is there if the verdict is failed.
func (f *filter) ask(c *call, ex *exchange.Exchange, content []byte) (verdict, error) {
	if f.Protocol == GRPC {
		f.check(c, ex, content)
	} else {
		f.imitate(c, ex, content)
	}
	deadline := time.Now().Add(f.Timeout)
	if !ex.Deadline.IsZero() && ex.Deadline.Before(deadline) {
		deadline = ex.Deadline
	}
	if err := c.send(ex, f.upstream, deadline); err != nil {
		return failed, err
	}
	if f.Protocol == GRPC {
		return f.obey(c, ex)
	}
	return f.follow(c, ex)
}

// strip takes out the fields that are only the authorization server's to set.
func (f *filter) strip(ex *exchange.Exchange) {
	for _, name := range f.ResponseHeaders {
		credential.Strip(ex, name)
	}
}

// response makes the changes of the response that the server has asked for.
func response(ex *exchange.Exchange) {
	for i := range ex.ResponseEdits {
		ex.Response.Fields.Apply(&ex.ResponseEdits[i])
	}
	ex.ResponseEdits = ex.ResponseEdits[:0]
}

// deny answers as the server says. What can be no denial is 403: a status that
// a client would take for a success, or one that has no content.
func deny(ex *exchange.Exchange, status int, content []byte) {
	if status < 300 || status == 304 || status > 599 {
		status = 403
	}
	ex.Answer(status, "auth_denied", ex.Arena.Bytes(content))
	ex.Response.Fields = ex.Response.Fields[:0]
}

// calls are reused, so that a question allocates nothing.
var calls = sync.Pool{New: func() any { return &call{ex: exchange.Exchange{Client: exchange.Nobody{}}} }}
