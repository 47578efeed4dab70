package dataplane_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/extauth"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// echoRequest answers with the request as the backend has it: target, fields, content.
func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s\n", r.Method, r.URL)
	_ = r.Header.Write(w)
	fmt.Fprintf(w, "\n%s", body)
}

// guarded is a route whose requests an authorization server is asked about.
func guarded(prefix, backend string, config *extauth.Config) *snapshot.Route {
	if config.Timeout == 0 {
		config.Timeout = 10 * time.Second
	}
	config.Policy = "HTTPRoute/shop/guarded"
	r := to(prefix, backend)
	r.Rule.Filters = []policy.Config{config}
	return r
}

// has reports whether a text has all these lines, and none of those after "!".
func has(text string, lines ...string) bool {
	all := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for _, line := range lines {
		unwanted, not := strings.CutPrefix(line, "!")
		found := slices.ContainsFunc(all, func(have string) bool {
			return have == line || not && strings.HasPrefix(strings.ToLower(have), strings.ToLower(unwanted))
		})
		if found == not {
			return false
		}
	}
	return true
}

// TestExternalAuthHTTP asks an HTTP server, for clients of all versions.
func TestExternalAuthHTTP(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		h := w.Header()
		switch strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/check"), "/open") {
		case "/yes":
			if r.Method != "PUT" || r.Host != "h.example.com" || r.URL.RawQuery != "q=1" || r.Header.Get("Authorization") != "me" ||
				r.Header.Get("Named") != "yes" || r.Header.Get("Other") != "" || r.ContentLength != 0 || len(content) > 0 ||
				r.Header.Get("Content-Length") != "0" || r.Header.Get("Cookie") != "" {
				t.Errorf("asked %s %s of %s with %v and %d bytes", r.Method, r.URL, r.Host, r.Header, r.ContentLength)
			}
			h.Set("X-User", "alice")
			h.Add("X-Group", "a")
			h.Add("X-Group", "b")
			h.Set("Content-Type", "application/x-auth")
		case "/login":
			h.Set("Location", "https://login.example.com/")
			h.Add("Set-Cookie", "a=1")
			h.Add("Set-Cookie", "b=2")
			h.Set("Content-Type", "text/html")
			w.WriteHeader(302)
			io.WriteString(w, "log in")
		case "/no":
			h.Set("Www-Authenticate", `Bearer realm="shop"`)
			w.WriteHeader(401)
			io.WriteString(w, "no\n")
		case "/large":
			w.WriteHeader(403)
			w.Write(bytes.Repeat([]byte("x"), 200_000))
		case "/huge":
			w.WriteHeader(403)
			w.Write(bytes.Repeat([]byte("x"), 300_000))
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/500":
			w.WriteHeader(500)
			io.WriteString(w, "internal")
		case "/late":
			<-r.Context().Done()
		}
	}))
	t.Cleanup(auth.Close)
	up := httptest.NewServer(http.HandlerFunc(echoRequest))
	t.Cleanup(up.Close)

	metrics := observe.NewMetrics("test")
	p := start(t, dataplane.Options{Metrics: metrics})
	w := (&world{}).port3(listener3(t, gateway, "h.example.com")).cluster("auth", auth.Listener.Addr().String()).
		cluster("gone", "127.0.0.1:1").cluster("empty").cluster("up", up.Listener.Addr().String())
	base := extauth.Config{
		Cluster: "auth", Protocol: extauth.HTTP, Path: "/check", RequestHeaders: []string{"named"},
		ResponseHeaders: []string{"X-User", "X-Group", "X-Role"},
	}
	config := func(edit func(*extauth.Config)) *extauth.Config {
		c := base
		edit(&c)
		return &c
	}
	open := func(c *extauth.Config) { c.FailOpen = true }
	late := func(c *extauth.Config) { c.Timeout = 100 * time.Millisecond }
	w.host(gateway, "*",
		guarded("/late/open", "up", config(func(c *extauth.Config) { open(c); late(c) })),
		guarded("/late", "up", config(late)),
		guarded("/gone/open", "up", config(func(c *extauth.Config) { open(c); c.Cluster = "gone" })),
		guarded("/gone", "up", config(func(c *extauth.Config) { c.Cluster = "gone" })),
		guarded("/empty", "up", config(func(c *extauth.Config) { c.Cluster = "empty" })),
		guarded("/500/open", "up", config(open)),
		guarded("/huge/open", "up", config(open)),
		guarded("/", "up", &base)).apply(t, p)

	for version, c := range map[string]*http.Client{
		"HTTP/1.1": func() *http.Client {
			c := client(t)
			c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "h.example.com"}
			return c
		}(),
		"HTTP/2": func() *http.Client {
			c := client2(t)
			c.Transport.(*http.Transport).TLSClientConfig.ServerName = "h.example.com"
			return c
		}(),
		"HTTP/3": client3(t, address3(t, p), &tls.Config{ServerName: "h.example.com"}),
	} {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		for _, tt := range []struct {
			method, path string
			status       int
			header       string // "Name: value", or "" for any
			body         string // all of it, or with "…" its lines
		}{
			{"PUT", "/yes?q=1", 200, "", "…PUT /yes?q=1\nX-User: alice\nX-Group: a\nX-Group: b\nOther: it\nContent-Type: text/x\nAuthorization: me\n!x_user\n!x-role\n"},
			{"GET", "/login", 302, "Location: https://login.example.com/", "log in"},
			{"GET", "/login", 302, "Set-Cookie: a=1|b=2", "log in"},
			{"GET", "/login", 302, "Content-Type: text/html", "log in"},
			{"POST", "/no", 401, `Www-Authenticate: Bearer realm="shop"`, "no\n"},
			{"HEAD", "/no", 401, `Www-Authenticate: Bearer realm="shop"`, ""},
			{"GET", "/large", 403, "Content-Length: 200000", strings.Repeat("x", 200_000)},
			{"GET", "/huge", 503, "", "The request could not be authorized.\n"},
			{"GET", "/204", 403, "", ""},
			{"GET", "/304", 403, "", ""},
			{"GET", "/500", 503, "", "The request could not be authorized.\n"},
			{"GET", "/gone", 503, "", "The request could not be authorized.\n"},
			{"GET", "/empty", 503, "", "The request could not be authorized.\n"},
			{"GET", "/late", 503, "", "The request could not be authorized.\n"},
			{"GET", "/500/open", 200, "", "…GET /500/open\n!x-user\n!x_user\nOther: it"},
			{"GET", "/gone/open", 200, "", "…GET /gone/open\n!x-user"},
			{"GET", "/late/open", 200, "", "…GET /late/open\n!x-user"},
			{"GET", "/huge/open", 503, "", "The request could not be authorized.\n"}, // there is an answer
		} {
			if tt.path == "/500/open" || tt.path == "/huge/open" {
			}
			req, err := http.NewRequest(tt.method, "https://"+address(t, p)+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "h.example.com"
			for name, value := range map[string]string{
				"Authorization": "me", "Named": "yes", "Other": "it", "Content-Type": "text/x", "Cookie": "c=d",
				"X-User": "mallory", "X_user": "mallory", "X-Role": "admin",
			} {
				req.Header.Set(name, value)
			}
			resp, err := c.Do(req)
			body := text(t, resp, err)
			if err != nil {
				t.Fatalf("%s, %s %s: %v", version, tt.method, tt.path, err)
			}
			lines, inLines := strings.CutPrefix(tt.body, "…")
			fine := body == tt.body || inLines && has(body, strings.Split(strings.TrimSuffix(lines, "\n"), "\n")...)
			name, value, _ := strings.Cut(tt.header, ": ")
			if resp.StatusCode != tt.status || !fine || tt.header != "" && strings.Join(resp.Header.Values(name), "|") != value {
				t.Errorf("%s, %s %s: %d %v\n%.1000q\nwant %d %q and %.1000q", version, tt.method, tt.path, resp.StatusCode, resp.Header, body, tt.status, tt.header, tt.body)
			}
		}
	}
}

// asked is what an authorization server of gRPC was asked, as far as tests look at it.
type asked struct {
	method, path, host, scheme, protocol, id, source string
	size                                             int64
	headers                                          map[string]string
	body, rawBody                                    string
}

// fields calls f for the fields of a message.
func fields(t testing.TB, b []byte, f func(n protowire.Number, value []byte, number uint64)) {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Errorf("a malformed message: %v", protowire.ParseError(size))
			return
		}
		b = b[size:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		}
		if size < 0 {
			t.Errorf("a malformed message: %v", protowire.ParseError(size))
			return
		}
		b = b[size:]
		f(n, value, number)
	}
}

func readAsked(t testing.TB, message []byte) *asked {
	a := &asked{headers: map[string]string{}}
	if len(message) < 5 || message[0] != 0 || int(binary.BigEndian.Uint32(message[1:])) != len(message)-5 {
		t.Errorf("no message: %q", message)
		return a
	}
	http := func(n protowire.Number, v []byte, number uint64) {
		switch n {
		case 1:
			a.id = string(v)
		case 2:
			a.method = string(v)
		case 3:
			var pair [3]string
			fields(t, v, func(n protowire.Number, v []byte, _ uint64) { pair[n] = string(v) })
			a.headers[pair[1]] = pair[2]
		case 4:
			a.path = string(v)
		case 5:
			a.host = string(v)
		case 6:
			a.scheme = string(v)
		case 9:
			a.size = int64(number)
		case 10:
			a.protocol = string(v)
		case 11:
			a.body = string(v)
		case 12:
			a.rawBody = string(v)
		}
	}
	fields(t, message[5:], func(n protowire.Number, attributes []byte, _ uint64) {
		fields(t, attributes, func(n protowire.Number, v []byte, _ uint64) {
			switch n {
			case 1: // source, its address, of a socket
				fields(t, v, func(_ protowire.Number, v []byte, _ uint64) {
					fields(t, v, func(_ protowire.Number, v []byte, _ uint64) {
						fields(t, v, func(n protowire.Number, v []byte, _ uint64) {
							if n == 2 {
								a.source = string(v)
							}
						})
					})
				})
			case 4: // request
				fields(t, v, func(n protowire.Number, v []byte, _ uint64) {
					if n == 2 {
						fields(t, v, http)
					}
				})
			}
		})
	})
	return a
}

// The parts of CheckResponses.
func pb(n protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(parts, nil))
}

func pbText(n protowire.Number, s string) []byte { return pb(n, []byte(s)) }

func pbNumber(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func pbHeader(n protowire.Number, name, value string, more ...[]byte) []byte {
	return pb(n, append([][]byte{pb(1, pbText(1, name), pbText(2, value))}, more...)...)
}

// authorizer is an authorization server of gRPC: it answers what decide returns,
// a CheckResponse, or else with the status of a call.
func authorizer(t testing.TB, decide func(a *asked) (response []byte, status string)) string {
	return h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has gone
		}
		if r.URL.Path != "/envoy.service.auth.v3.Authorization/Check" || r.Method != "POST" || r.Header.Get("Te") != "trailers" ||
			r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("Grpc-Timeout") == "" || r.Host != "auth.shop.svc" {
			t.Errorf("called %s of %s with %v", r.URL, r.Host, r.Header)
		}
		response, status := decide(readAsked(t, content))
		w.Header().Set("Content-Type", "application/grpc")
		if response == nil {
			w.Header().Set("Grpc-Status", status)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(response))))
		w.Write(response)
		w.Header().Set("Grpc-Status", status)
	})
}

// TestExternalAuthGRPC asks a server that speaks Envoy's protocol.
func TestExternalAuthGRPC(t *testing.T) {
	ok := pb(1)
	no := pb(1, pbNumber(1, 7))
	last := make(chan *asked, 100)
	answers := map[string]struct {
		response []byte
		status   string
	}{
		"/bare": {ok, "0"},
		"/yes": {append(slices.Clone(ok), pb(3,
			pbHeader(2, "X-User", "alice"), pbHeader(2, "X-Group", "a"), pbHeader(2, "X-Group", "b", pb(2, pbNumber(1, 1))),
			pbHeader(2, "Other", "changed", pbNumber(3, 1)), pbHeader(2, "X-New", "new", pbNumber(3, 1)), pbHeader(2, "X-Absent", "x", pbNumber(3, 3)),
			pbText(5, "authorization"), pbText(5, "host"),
			pbHeader(6, "X-Seen", "1"), pbHeader(6, "X-Seen", "2"), pbHeader(6, "Backend", "hidden", pbNumber(3, 2)),
			pb(7, pbText(1, "user"), pbText(2, "a&b")), pbText(8, "token"))...), "0"},
		"/no": {append(slices.Clone(no), pb(2, pb(1, pbNumber(1, 401)), pbHeader(2, "WWW-Authenticate", "Basic"),
			pbHeader(2, "Set-Cookie", "a=1"), pbHeader(2, "Set-Cookie", "b=2"), pbText(3, "no entry"))...), "0"},
		"/barely-no":     {no, "0"},
		"/no-code":       {pb(2, pbText(3, "denied all the same")), "0"},
		"/ok-no":         {append(slices.Clone(ok), pb(2)...), "0"},
		"/no-200":        {append(slices.Clone(no), pb(2, pb(1, pbNumber(1, 200)))...), "0"},
		"/empty":         {[]byte{}, "0"},
		"/error":         {pb(5, pb(1, pbNumber(1, 500))), "0"},
		"/call-denied":   {nil, "7"},
		"/call-failed":   {nil, "13"},
		"/broken":        {[]byte{0x0a, 0x05, 1}, "0"},
		"/split":         {append(slices.Clone(ok), pb(3, pbHeader(2, "X-A", "a\r\nX-Admin: yes"))...), "0"},
		"/split-name":    {append(slices.Clone(ok), pb(3, pbHeader(2, "X-A: a\r\nX-B", "b"))...), "0"},
		"/length":        {append(slices.Clone(ok), pb(3, pbHeader(2, "Content-Length", "3"))...), "0"},
		"/chunked":       {append(slices.Clone(ok), pb(3, pbHeader(2, "Transfer-Encoding", "chunked"))...), "0"},
		"/host":          {append(slices.Clone(ok), pb(3, pbHeader(2, "host", "other"))...), "0"},
		"/path":          {append(slices.Clone(ok), pb(3, pbHeader(2, ":path", "/admin"))...), "0"},
		"/split-back":    {append(slices.Clone(ok), pb(3, pbHeader(6, "X-A", "a\nX-Admin: yes"))...), "0"},
		"/split-denied":  {append(slices.Clone(no), pb(2, pbHeader(2, "X-A", "a\x00"))...), "0"},
		"/unknown-field": {append(slices.Clone(ok), pb(99, []byte("later"))...), "0"},
	}
	server := authorizer(t, func(a *asked) ([]byte, string) {
		last <- a
		path, _, _ := strings.Cut(a.path, "?")
		answer := answers[strings.TrimSuffix(path, "/open")]
		return answer.response, answer.status
	})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Backend", "up")
		echoRequest(w, r)
	}))
	t.Cleanup(up.Close)
	p := start(t, dataplane.Options{})
	config := extauth.Config{Cluster: "auth", Protocol: extauth.GRPC, Authority: "auth.shop.svc"}
	open := config
	open.FailOpen = true
	body := config
	body.MaxBody, body.RequestHeaders = 1000, []string{"other", "cookie"}
	w := (&world{}).port(plain()).h2cCluster("auth", server).cluster("up", up.Listener.Addr().String())
	w.host(gateway, "*", guarded("/call-failed/open", "up", &open), guarded("/error/open", "up", &open), guarded("/call-denied/open", "up", &open),
		guarded("/split/open", "up", &open), guarded("/", "up", &config)).
		host(gateway, "body.example.com", guarded("/", "up", &body)).apply(t, p)

	unauthorized := "The request could not be authorized.\n"
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		do := func(method, host, target, content string, header ...string) (*http.Response, string) {
			t.Helper()
			var from io.Reader
			if content != "" {
				from = io.MultiReader(strings.NewReader(content)) // its length is not known
			}
			req, err := http.NewRequest(method, "http://"+address(t, p)+target, from)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			for i := 0; i < len(header); i += 2 {
				req.Header.Add(header[i], header[i+1])
			}
			resp, err := c.Do(req)
			return resp, text(t, resp, err)
		}
		for _, tt := range []struct {
			path   string
			status int
			header string
			body   string
		}{
			{"/bare", 200, "Backend: up", "…GET /bare\nAuthorization: me\nX-User: mallory"},
			{"/yes?token=secret&a=b", 200, "X-Seen: 1|2", "…GET /yes?a=b&user=a%26b\nX-User: alice\nX-Group: a\nX-Group: b\nOther: it\nX-New: new\n!x-absent\n!authorization\n!x-user: mallory"},
			{"/yes?token=secret", 200, "Backend: hidden", "…GET /yes?user=a%26b"},
			{"/no", 401, "Set-Cookie: a=1|b=2", "no entry"},
			{"/no", 401, "Content-Type: text/plain; charset=utf-8", "no entry"},
			{"/barely-no", 403, "", ""},
			{"/no-code", 403, "", "denied all the same"},
			{"/ok-no", 403, "", ""},
			{"/no-200", 403, "", ""},
			{"/empty", 503, "", unauthorized},
			{"/error", 503, "", unauthorized},
			{"/error/open", 200, "", "…GET /error/open"},
			{"/call-denied", 403, "", ""},
			{"/call-denied/open", 403, "", ""},
			{"/call-failed", 503, "", unauthorized},
			{"/call-failed/open", 200, "", "…GET /call-failed/open"},
			{"/broken", 503, "", unauthorized},
			{"/split", 503, "", unauthorized},
			{"/split/open", 503, "", unauthorized},
			{"/split-name", 503, "", unauthorized},
			{"/length", 503, "", unauthorized},
			{"/chunked", 503, "", unauthorized},
			{"/host", 503, "", unauthorized},
			{"/path", 503, "", unauthorized},
			{"/split-back", 503, "", unauthorized},
			{"/split-denied", 503, "", unauthorized},
			{"/unknown-field", 200, "", "…GET /unknown-field"},
		} {
			resp, got := do("GET", "h.example.com", tt.path, "", "Authorization", "me", "Other", "it", "X-User", "mallory")
			lines, inLines := strings.CutPrefix(tt.body, "…")
			name, value, _ := strings.Cut(tt.header, ": ")
			if resp.StatusCode != tt.status || got != tt.body && !(inLines && has(got, strings.Split(lines, "\n")...)) ||
				tt.header != "" && strings.Join(resp.Header.Values(name), "|") != value {
				t.Errorf("%s, %s: %d %v\n%q\nwant %d %q and %q", version, tt.path, resp.StatusCode, resp.Header, got, tt.status, tt.header, tt.body)
			}
			<-last
		}

		do("GET", "H.example.com:80", "/bare?x=y", "", "Other", "it", "Multi", "1", "Multi", "2", "Cookie", "a=b", "Bad", "caf\xe9")
		a := <-last
		for name, value := range map[string]string{"other": "it", "multi": "1, 2", "cookie": "a=b", "bad": "caf!", ":path": "/bare?x=y", ":method": "GET", ":authority": "H.example.com:80"} {
			if a.headers[name] != value {
				t.Errorf("%s, %s: %q, want %q", version, name, a.headers[name], value)
			}
		}
		if a.method != "GET" || a.path != "/bare?x=y" || a.host != "H.example.com:80" || a.scheme != "http" || a.size != 0 || a.source != "127.0.0.1" || a.id == "" ||
			a.body != "" || a.protocol != map[string]string{"HTTP/1.1": "HTTP/1.1", "HTTP/2": "HTTP/2"}[version] {
			t.Errorf("%s: asked %+v", version, a)
		}

		resp, got := do("POST", "body.example.com", "/bare", "content", "Other", "it", "Cookie", "a=b", "Cookie", "c=d", "Third", "x")
		if a := <-last; a.body != "content" || a.rawBody != "" || a.size != 7 || len(a.headers) != 2 || a.headers["cookie"] != "a=b; c=d" || a.headers["other"] != "it" {
			t.Errorf("%s: asked %+v", version, a)
		}
		if resp.StatusCode != 200 || !strings.HasSuffix(got, "\n\ncontent") {
			t.Errorf("%s: %d %q", version, resp.StatusCode, got)
		}
		do("POST", "body.example.com", "/bare", "\xff\xfe")
		if a := <-last; a.body != "" || a.rawBody != "\xff\xfe" {
			t.Errorf("%s: asked %+v", version, a)
		}
		if resp, _ := do("POST", "body.example.com", "/bare", strings.Repeat("x", 1001)); resp.StatusCode != 413 {
			t.Errorf("%s: %d for more content than is told", version, resp.StatusCode)
		}
		if n := len(last); n != 0 {
			t.Errorf("%s: asked %d times too often", version, n)
		}
	}
}

// TestExternalAuthContent tells an HTTP server the content, which the backend
// then has as well.
func TestExternalAuthContent(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != int64(len(content)) || r.Header.Get("Expect") != "" {
			t.Errorf("asked with %d of %d bytes, %v, %v", len(content), r.ContentLength, r.Header, err)
		}
		w.Header().Set("Told", fmt.Sprint(len(content)))
		if strings.HasPrefix(string(content), "bad") {
			w.WriteHeader(403)
		}
	}))
	t.Cleanup(auth.Close)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "told %s got %d %v", r.Header.Get("Told"), len(content), err)
	}))
	t.Cleanup(up.Close)
	p := start(t, dataplane.Options{})
	w := (&world{}).port(plain()).cluster("auth", auth.Listener.Addr().String()).cluster("up", up.Listener.Addr().String())
	w.host(gateway, "*", guarded("/untold", "up", &extauth.Config{Cluster: "auth", Protocol: extauth.HTTP}),
		guarded("/", "up", &extauth.Config{Cluster: "auth", Protocol: extauth.HTTP, MaxBody: 60_000})).apply(t, p)
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		c.Transport.(*http.Transport).ExpectContinueTimeout = 10 * time.Second
		for _, tt := range []struct {
			path, content string
			status        int
			want          string
		}{
			{"/", "", 200, "told 0 got 0 <nil>"},
			{"/", "some", 200, "told 4 got 4 <nil>"},
			{"/", strings.Repeat("x", 60_000), 200, "told 60000 got 60000 <nil>"},
			{"/", strings.Repeat("x", 60_001), 413, "The request's content is larger than this route takes.\n"},
			{"/", "bad" + strings.Repeat("x", 50_000), 403, ""},
			{"/untold", strings.Repeat("x", 1_000_000), 200, "told 0 got 1000000 <nil>"},
		} {
			for _, known := range []bool{true, false} {
				for _, expect := range []bool{false, true} {
					var body io.Reader = strings.NewReader(tt.content)
					if !known {
						body = io.MultiReader(body)
					}
					req, _ := http.NewRequest("POST", "http://"+address(t, p)+tt.path, body)
					if expect {
						req.Header.Set("Expect", "100-continue")
					}
					resp, err := c.Do(req)
					if got := text(t, resp, err); err == nil && (resp.StatusCode != tt.status || got != tt.want) {
						t.Errorf("%s, %d bytes to %s, known length %v, expects %v: %d %q, want %d %q",
							version, len(tt.content), tt.path, known, expect, resp.StatusCode, got, tt.status, tt.want)
					}
				}
			}
		}
	}
}

// TestExternalAuthMalformed has a server whose answers are no HTTP. Nothing of
// them gets through, whether failing is to be open or not.
func TestExternalAuthMalformed(t *testing.T) {
	answers := []string{
		"HTTP/1.1 200 OK\r\nX User: alice\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX-User: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX-User : alice\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 2000 OK\r\n\r\n",
		"SSH-2.0-OpenSSH\r\n",
		"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nyou", // refused, although it breaks off
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				r, err := http.ReadRequest(bufio.NewReader(nc))
				if err == nil {
					_, _ = io.WriteString(nc, answers[r.URL.Path[len(r.URL.Path)-1]-'0'])
				}
			}()
		}
	}()
	p := start(t, dataplane.Options{})
	config := extauth.Config{Cluster: "auth", Protocol: extauth.HTTP}
	open := config
	open.FailOpen = true
	w := (&world{}).port(plain()).cluster("auth", l.Addr().String()).cluster("up", backend(t, "up"))
	w.host(gateway, "*", guarded("/open", "up", &open), guarded("/", "up", &config)).apply(t, p)
	for i := range answers {
		for _, prefix := range []string{"/", "/open/"} {
			resp, body := get(t, client(t), fmt.Sprintf("http://%s%s%d", address(t, p), prefix, i))
			if resp.StatusCode != 503 || body != "The request could not be authorized.\n" {
				t.Errorf("%s%d: %d %q", prefix, i, resp.StatusCode, body)
			}
		}
	}
}

// TestExternalAuthGivenUp ends the question when the client goes.
func TestExternalAuthGivenUp(t *testing.T) {
	arrived, gone := make(chan bool, 10), make(chan bool, 10)
	h := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- true
		select {
		case <-r.Context().Done():
			gone <- true
		case <-time.After(30 * time.Second):
			gone <- false
		}
	}
	old := httptest.NewServer(http.HandlerFunc(h))
	t.Cleanup(old.Close)
	metrics := observe.NewMetrics("test")
	p := start(t, dataplane.Options{Metrics: metrics})
	w := (&world{}).port(plain()).cluster("http", old.Listener.Addr().String()).h2cCluster("grpc", h2cBackend(t, h)).cluster("up", backend(t, "up"))
	w.host(gateway, "*", guarded("/http", "up", &extauth.Config{Cluster: "http", Protocol: extauth.HTTP, Timeout: time.Minute}),
		guarded("/grpc", "up", &extauth.Config{Cluster: "grpc", Protocol: extauth.GRPC, Timeout: time.Minute, FailOpen: true})).apply(t, p)
	ctx, leave := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for _, path := range []string{"/http", "/grpc"} {
		for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
			clients.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+address(t, p)+path, nil)
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
					t.Errorf("%s, %s: %d", version, path, resp.StatusCode)
				}
			})
			<-arrived
		}
	}
	leave()
	clients.Wait()
	for range 4 {
		if !<-gone {
			t.Error("the server is still asked")
		}
	}
	for until := time.Now().Add(20 * time.Second); outcomes(t, metrics)["abandoned"] != 4; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%v, want 4 abandoned", outcomes(t, metrics))
		}
	}
}

// outcomes are the questions by outcome.
func outcomes(t testing.TB, m *observe.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			if f.GetName() == "headgate_external_auth_requests_total" && metric.GetLabel()[1].GetValue() == "HTTPRoute/shop/guarded" {
				counts[metric.GetLabel()[0].GetValue()] += metric.GetCounter().GetValue()
			}
			if f.GetName() == "headgate_external_auth_duration_seconds" {
				counts["took"] += float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return counts
}

// TestExternalAuthOfGRPC has gRPC clients: a denial is a status to them.
func TestExternalAuthOfGRPC(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/shop.Orders/Refused":
			w.Header().Set("Why", "it is so")
			w.WriteHeader(403)
			io.WriteString(w, "not you\n"+strings.Repeat("x", 100_000))
		case "/shop.Orders/Unknown":
			w.WriteHeader(401)
		case "/shop.Orders/Failed":
			w.WriteHeader(500)
		}
	}))
	t.Cleanup(auth.Close)
	up := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "0")
	})
	metrics := observe.NewMetrics("test")
	p := start(t, dataplane.Options{Metrics: metrics})
	w := (&world{}).port(plain()).cluster("auth", auth.Listener.Addr().String()).h2cCluster("up", up)
	w.host(gateway, "*", guarded("/", "up", &extauth.Config{Cluster: "auth", Protocol: extauth.HTTP})).apply(t, p)
	c := client2(t)
	for method, want := range map[string]string{"Allowed": "0", "Refused": "7", "Unknown": "16", "Failed": "14"} {
		req, _ := http.NewRequest("POST", "http://"+address(t, p)+"/shop.Orders/"+method, strings.NewReader("message"))
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := c.Do(req)
		if body := text(t, resp, err); err == nil && (resp.StatusCode != 200 || body != "" || resp.Header.Get("Grpc-Status") != want) {
			t.Errorf("%s: %d %.300v %q, want %s", method, resp.StatusCode, resp.Header, body, want)
		}
		if method == "Refused" && (!strings.HasPrefix(resp.Header.Get("Grpc-Message"), "not you%0A") || resp.Header.Get("Why") != "it is so") {
			t.Errorf("%.300v", resp.Header)
		}
	}
	if got := outcomes(t, metrics); got["allowed"] != 1 || got["denied"] != 2 || got["failed"] != 1 || got["took"] != 4 {
		t.Errorf("counted %v", got)
	}
}
