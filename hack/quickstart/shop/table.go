package shop

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

//go:embed requests.yaml
var requests []byte

// Case is one entry of the table.
type Case struct {
	Name    string  `json:"name"`
	Stage   string  `json:"stage"`
	Request Request `json:"request"`
	// Repeat is how often the request is sent; 0 is once.
	Repeat int `json:"repeat"`
	// Eventually is for what happens after the answer: it is asked again, for
	// at most half a minute, until it is as expected.
	Eventually bool   `json:"eventually"`
	Expect     Expect `json:"expect"`
}

// Request is what is sent. The method is GET, the scheme http and the host
// shop.example.com unless given.
type Request struct {
	Method  string            `json:"method"`
	Scheme  string            `json:"scheme"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// Expect is what must come back; what is not given may be anything.
type Expect struct {
	// Status is every answer's, Statuses how many answers have which.
	Status   int         `json:"status"`
	Statuses map[int]int `json:"statuses"`
	// Headers are fields of every answer: "" absent, "*" any value.
	Headers map[string]string `json:"headers"`
	// Echo is what reached the instance.
	Echo *ExpectEcho `json:"echo"`
	// Instances say how many answers came from which.
	Instances map[string]int `json:"instances"`
}

// ExpectEcho is compared with an Echo: "" may be anything, but in headers it is absent.
type ExpectEcho struct {
	Instance string            `json:"instance"`
	Method   string            `json:"method"`
	Path     string            `json:"path"`
	Query    string            `json:"query"`
	Headers  map[string]string `json:"headers"`
	Seen     int               `json:"seen"`
}

// Table returns the cases with the shop's variables filled in.
func (s *Shop) Table() ([]Case, error) {
	var pairs []string
	for name, value := range s.Vars {
		pairs = append(pairs, "${"+name+"}", value)
	}
	text := strings.NewReplacer(pairs...).Replace(string(requests))
	var cases []Case
	if err := yaml.UnmarshalStrict([]byte(text), &cases); err != nil {
		return nil, fmt.Errorf("requests.yaml: %w", err)
	}
	for i := range cases {
		c := &cases[i]
		c.Repeat = max(c.Repeat, 1)
		for field, value := range map[*string]string{
			&c.Request.Method: "GET", &c.Request.Scheme: "http", &c.Request.Host: "shop.example.com",
		} {
			if *field == "" {
				*field = value
			}
		}
	}
	return cases, nil
}

// Client sends a table's requests to a Gateway.
type Client struct {
	http *http.Client
}

// NewClient returns a client that reaches the HTTP and HTTPS listeners at these
// addresses, "host:port", whatever host a request names.
func (s *Shop) NewClient(httpAddr, httpsAddr string) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA) {
		return nil, errors.New("shop: no certificate")
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	return &Client{&http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				to := httpAddr
				if strings.HasSuffix(addr, ":443") {
					to = httpsAddr
				}
				return dialer.DialContext(ctx, network, to)
			},
			TLSClientConfig:    &tls.Config{RootCAs: roots},
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is what came back for one request. Echo is nil if no instance answered.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Echo   *Echo
}

// Outcome is what came back for a case.
type Outcome struct {
	Answers []Answer
	// Problems say what is not as expected, one line each.
	Problems []string
}

// Do sends a case's requests one after the other.
func (c *Client) Do(ctx context.Context, tc *Case) Outcome {
	deadline := time.Now().Add(30 * time.Second)
	for {
		out := c.once(ctx, tc)
		if len(out.Problems) == 0 || !tc.Eventually || time.Now().After(deadline) || ctx.Err() != nil {
			return out
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *Client) once(ctx context.Context, tc *Case) (out Outcome) {
	for range tc.Repeat {
		answer, err := c.send(ctx, &tc.Request)
		if err != nil {
			out.Problems = append(out.Problems, err.Error())
			return out
		}
		out.Answers = append(out.Answers, answer)
	}
	out.Problems = tc.Expect.check(out.Answers)
	return out
}

func (c *Client) send(ctx context.Context, r *Request) (Answer, error) {
	// The path is sent as it is written, dots and all.
	req, err := http.NewRequestWithContext(ctx, r.Method, r.Scheme+"://"+r.Host+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return Answer{}, err
	}
	for name, value := range r.Headers {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	content := io.Reader(resp.Body)
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if content, err = gzip.NewReader(content); err != nil {
			return Answer{}, fmt.Errorf("decoding the response: %w", err)
		}
	}
	body, err := io.ReadAll(io.LimitReader(content, 1<<20))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the response: %w", err)
	}
	answer := Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	if resp.Header.Get("X-Instance") != "" {
		answer.Echo = new(Echo)
		if err := json.Unmarshal(body, answer.Echo); err != nil {
			return Answer{}, fmt.Errorf("the instance's answer: %w", err)
		}
	}
	return answer, nil
}

func (e *Expect) check(answers []Answer) (problems []string) {
	wrong := func(format string, args ...any) {
		if p := fmt.Sprintf(format, args...); !slices.Contains(problems, p) {
			problems = append(problems, p)
		}
	}
	same := func(what, got, want string) {
		switch {
		case want == "" && got != "":
			wrong("%s is %q, want none", what, got)
		case want == "*" && got == "":
			wrong("%s is missing", what)
		case want != "*" && got != want:
			wrong("%s is %q, want %q", what, got, want)
		}
	}
	statuses, instances := map[int]int{}, map[string]int{}
	for i := range answers {
		a := &answers[i]
		statuses[a.Status]++
		if e.Status != 0 && a.Status != e.Status {
			wrong("status is %d, want %d", a.Status, e.Status)
		}
		for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
			same(name, a.Header.Get(name), e.Headers[name])
		}
		if a.Echo != nil {
			instances[a.Echo.Instance]++
		}
		switch {
		case e.Echo == nil:
		case a.Echo == nil:
			wrong("no instance answered")
		default:
			e.Echo.check(a.Echo, same)
			if e.Echo.Seen != 0 && a.Echo.Seen != e.Echo.Seen {
				wrong("the instance saw %d, want %d", a.Echo.Seen, e.Echo.Seen)
			}
		}
	}
	if e.Statuses != nil && !maps.Equal(e.Statuses, statuses) {
		wrong("statuses are %v, want %v", statuses, e.Statuses)
	}
	if e.Instances != nil && !maps.Equal(e.Instances, instances) {
		wrong("instances answered %v, want %v", instances, e.Instances)
	}
	return problems
}

func (e *ExpectEcho) check(got *Echo, same func(what, got, want string)) {
	for _, f := range []struct{ what, got, want string }{
		{"the instance", got.Instance, e.Instance},
		{"the method sent on", got.Method, e.Method},
		{"the path sent on", got.Path, e.Path},
		{"the query sent on", got.Query, e.Query},
	} {
		if f.want != "" {
			same(f.what, f.got, f.want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		same("the header "+name+" sent on", got.Headers[http.CanonicalHeaderKey(name)], e.Headers[name])
	}
}
