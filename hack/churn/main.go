// Command churn changes Headgate's configuration under load and counts the
// requests that fail. While wrk runs, it writes a thousand changed routes and a
// thousand changed EndpointSlices into the folder that Headgate serves; it
// waits for each to be served, and ends with an error if one is not, or if any
// request was answered by anything but 200 and the body of an instance that is
// there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	host      = "shop.example.com"
	instances = 4
	patience  = 5 * time.Second
)

// script has wrk look at every answer. Each request names the instance that it
// saw in the body, so a body of nobody's, or of another request, is found.
const script = `
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) wrong, example = 0, "" end
function response(status, headers, body)
  if status ~= 200 or not string.match(body, "^instance [0-3] /items%?q=1\n$") or not headers["X-Version"] then
    wrong = wrong + 1
    example = status .. " " .. body
  end
end
function done(summary, latency, requests)
  local wrong, example = 0, ""
  for _, t in ipairs(threads) do
    wrong = wrong + t:get("wrong")
    if t:get("example") ~= "" then example = t:get("example") end
  end
  local e = summary.errors
  io.write(string.format("churn: %d %d %d\n%s\n", summary.requests, wrong, e.connect + e.read + e.write + e.timeout, example))
end
`

func main() {
	headgate := flag.String("headgate", "bin/headgate", "the `program` headgate")
	changes := flag.Int("changes", 1000, "how many routes and how many EndpointSlices to change")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *headgate, *changes); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "churn:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, headgate string, changes int) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w; apt-get install wrk", err)
	}
	w := &world{url: "http://127.0.0.1:" + freePort(), client: &http.Client{Timeout: patience}}
	for i := range instances {
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "instance %d %s\n", i, r.URL.RequestURI())
		}))
		defer server.Close()
		w.ports = append(w.ports, portOf(server.URL))
	}
	dir, err := os.MkdirTemp("", "headgate-churn-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w.dir = dir
	for name, text := range map[string]string{"gateway": w.gateway(), "route": w.route(0), "endpoints": w.slice(0)} {
		if err := w.write(name, text); err != nil {
			return err
		}
	}

	proxy := exec.CommandContext(ctx, headgate, "--manifests", dir, "--bind-address", "127.0.0.1",
		"--admin-address", "127.0.0.1:"+freePort(), "--log-level", "error")
	proxy.Stdout, proxy.Stderr = os.Stderr, os.Stderr
	if err := proxy.Start(); err != nil {
		return err
	}
	defer func() {
		_ = proxy.Process.Kill() // the measuring is over
		_ = proxy.Wait()
	}()
	if _, err := w.until(ctx, func(version string, _ int) bool { return version == "0" }); err != nil {
		return fmt.Errorf("it does not serve: %w", err)
	}

	lua := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(lua, []byte(script), 0o644); err != nil {
		return err
	}
	loadCtx, stopLoad := context.WithTimeout(ctx, time.Hour)
	defer stopLoad()
	load := exec.CommandContext(loadCtx, "wrk", "-t1", "-c32", "-d3600s", "--timeout", "5s", "-s", lua, "-H", "Host: "+host, w.url+"/items?q=1")
	load.Cancel = func() error { return load.Process.Signal(os.Interrupt) } // it prints what it counted
	var report strings.Builder
	load.Stdout, load.Stderr = &report, os.Stderr
	if err := load.Start(); err != nil {
		return err
	}

	began := time.Now()
	worst, err := w.churn(ctx, changes)
	took := time.Since(began)
	stopLoad()
	_ = load.Wait() // it was interrupted
	if err != nil {
		return err
	}
	_, line, _ := strings.Cut(report.String(), "churn: ")
	var requests, wrong, broken int
	if _, err := fmt.Sscan(line, &requests, &wrong, &broken); err != nil {
		return fmt.Errorf("wrk's output: %w: %s", err, report.String())
	}
	fmt.Printf("%d route changes and %d endpoint changes in %.1f s, each seen within %v at most; %d requests meanwhile, %d wrong, %d failed\n",
		changes, changes, took.Seconds(), worst.Round(time.Millisecond), requests, wrong, broken)
	if wrong+broken > 0 || requests == 0 {
		return fmt.Errorf("not one request may fail: %s", line)
	}
	return nil
}

// world is the folder and what stands behind it.
type world struct {
	dir, url string
	ports    []string
	client   *http.Client
}

// churn makes the changes one after the other, each when the one before is
// served, and returns how long the slowest took to be seen.
func (w *world) churn(ctx context.Context, changes int) (worst time.Duration, err error) {
	for i := 1; i <= changes; i++ {
		if err := w.write("route", w.route(i)); err != nil {
			return worst, err
		}
		took, err := w.until(ctx, func(version string, _ int) bool { return version == strconv.Itoa(i) })
		if err != nil {
			return worst, fmt.Errorf("route change %d: %w", i, err)
		}
		worst = max(worst, took)

		if err := w.write("endpoints", w.slice(i)); err != nil {
			return worst, err
		}
		// It is served when the instance that is new answers.
		took, err = w.until(ctx, func(_ string, instance int) bool { return instance == (i+1)%instances })
		if err != nil {
			return worst, fmt.Errorf("endpoint change %d: %w", i, err)
		}
		worst = max(worst, took)
	}
	return worst, nil
}

// until asks until an answer is as wanted.
func (w *world) until(ctx context.Context, wanted func(version string, instance int) bool) (time.Duration, error) {
	began := time.Now()
	last := errors.New("no answer as wanted")
	for time.Since(began) < patience && ctx.Err() == nil {
		version, instance, err := w.ask(ctx)
		if err == nil && wanted(version, instance) {
			return time.Since(began), nil
		}
		if err != nil {
			last = err
		}
		time.Sleep(time.Millisecond)
	}
	return 0, last
}

func (w *world) ask(ctx context.Context) (version string, instance int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/items?q=1", nil)
	if err != nil {
		return "", 0, err
	}
	req.Host = host
	resp, err := w.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("%s: %s", resp.Status, body)
	}
	_, err = fmt.Sscanf(string(body), "instance %d ", &instance)
	return resp.Header.Get("X-Version"), instance, err
}

// write writes a file as an editor does: whole, in one rename.
func (w *world) write(name, text string) error {
	temp := filepath.Join(w.dir, "."+name)
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(w.dir, name+".yaml"))
}

func (w *world) gateway() string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: %s, protocol: HTTP}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{name: http, port: 80}]}
`, portOf(w.url))
}

// route is the i-th version of the route: its rules change too, not only what
// they set.
func (w *world) route(i int) string {
	rules := ""
	for n := range i % 5 {
		rules += fmt.Sprintf("  - matches: [{path: {type: Exact, value: /items/%d/%d}}]\n    backendRefs: [{name: shop, port: 80}]\n", i, n)
	}
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: web}]
  hostnames: [%s]
  rules:
%s  - matches: [{path: {type: PathPrefix, value: /items}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: X-Version, value: "%d"}]}
    backendRefs: [{name: shop, port: 80}]
`, host, rules, i)
}

// slice is the i-th version of the endpoints: two instances, of which one is
// new and one was there before.
func (w *world) slice(i int) string {
	text := ""
	for _, n := range []int{i % instances, (i + 1) % instances} {
		text += fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: shop-%d
  labels: {kubernetes.io/service-name: shop}
addressType: IPv4
ports: [{name: http, port: %s}]
endpoints: [{addresses: [127.0.0.1]}]
---
`, n, w.ports[n])
	}
	return text
}

func portOf(url string) string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	return port
}

// freePort returns a port that nobody listened at a moment ago.
func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "0"
	}
	defer l.Close()
	return portOf(l.Addr().String())
}
