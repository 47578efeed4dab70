package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/controllers/admin"
)

// freePort returns a port that nobody listens on. It is below those that the
// kernel gives to whoever asks for any, so that nobody gets it meanwhile.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

func portOf(t *testing.T, url string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// gate is a Headgate that serves a folder in a process of its own.
type gate struct {
	t          *testing.T
	dir        string
	port       string // the Gateway's
	admin      string
	cmd        *exec.Cmd
	log        *lockedBuffer
	exited     chan struct{}
	client     *http.Client
	backend    *httptest.Server
	slow       chan struct{} // a request for /cart/slow waits for it
	slowBegins chan struct{}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startProcess(t *testing.T, args ...string) *gate {
	t.Helper()
	g := &gate{
		t: t, port: freePort(t), admin: "127.0.0.1:" + freePort(t), log: &lockedBuffer{},
		exited: make(chan struct{}), slow: make(chan struct{}), slowBegins: make(chan struct{}, 1),
	}
	g.backend = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cart/slow" {
			g.slowBegins <- struct{}{}
			<-g.slow
		}
		io.WriteString(w, "one")
	}))
	t.Cleanup(g.backend.Close)
	g.dir = folder(t, "shop.yaml", g.shop(g.backend.URL), "route.yaml", fill(shopRoute, "VERSION", "0"))
	g.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
	t.Cleanup(g.client.CloseIdleConnections)

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--manifests", g.dir, "--bind-address", "127.0.0.1", "--admin-address", g.admin}, args...)
	g.cmd = exec.Command(exe, args...)
	g.cmd.Env = append(os.Environ(), beCommand+"=1")
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.exited)
		_ = g.cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill() // it may have ended
		<-g.exited
		if t.Failed() {
			t.Logf("Headgate's log:\n%s", g.log)
		}
	})
	g.await("readiness", func() bool { return g.page("/readyz") == "200 ok\n" })
	return g
}

func (g *gate) shop(backend string) string {
	return fill(shop, "GATEWAYPORT", g.port, "BACKENDPORT", portOf(g.t, backend))
}

func (g *gate) await(what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("no %s", what)
		}
	}
}

// page returns a page of the admin address as "status body", or the error.
func (g *gate) page(path string) string {
	resp, err := g.client.Get("http://" + g.admin + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// get returns the X-Version and the body of an answer.
func (g *gate) get(path string) (version, body string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:"+g.port+path, nil)
	if err != nil {
		return "", "", err
	}
	req.Host = "shop.example.com"
	resp, err := g.client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return resp.Header.Get("X-Version"), string(text), err
}

// write writes a file as an editor does: whole, in one rename.
func (g *gate) write(name, text string) {
	g.t.Helper()
	temp := filepath.Join(g.dir, "."+name)
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(g.dir, name)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gate) signal(sig os.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gate) exitCode() int {
	g.t.Helper()
	select {
	case <-g.exited:
		return g.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		g.t.Fatal("it does not exit")
		return 0
	}
}

func (g *gate) report() []admin.Entry {
	g.t.Helper()
	_, text, _ := strings.Cut(g.page("/statuses"), " ")
	var page admin.Statuses
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		g.t.Fatal(err)
	}
	return page.Report
}

func TestServeFolder(t *testing.T) {
	g := startProcess(t)
	if version, body, err := g.get("/cart"); version != "0" || body != "one" || err != nil {
		t.Fatalf("%q %q %v", version, body, err)
	}

	// Load, until the end of the test: no request fails, whatever changes.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "two") }))
	defer other.Close()
	stop := make(chan struct{})
	var (
		load     sync.WaitGroup
		requests atomic.Int64
	)
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				version, body, err := g.get("/cart")
				if err != nil || version == "" || body != "one" && body != "two" {
					t.Errorf("after %d requests: %q %q %v", requests.Load(), version, body, err)
					return
				}
				requests.Add(1)
				time.Sleep(time.Millisecond) // leave the machine some room
			}
		})
	}
	stopLoad := sync.OnceFunc(func() {
		close(stop)
		load.Wait()
	})
	defer stopLoad()

	best := time.Hour
	for i := 1; i <= 20; i++ {
		want := fmt.Sprint(i)
		start := time.Now()
		g.write("route.yaml", fill(shopRoute, "VERSION", want))
		g.await("version "+want, func() bool {
			version, _, err := g.get("/cart")
			return err == nil && version == want
		})
		best = min(best, time.Since(start))
	}
	// On a machine that is busy not every change is that quick, but one in twenty is.
	if best > 100*time.Millisecond {
		t.Errorf("a change is served after %v at best", best)
	}

	// A broken file changes nothing, and is reported.
	g.write("route.yaml", fill(shopRoute, "VERSION", "21", "backendRefs", "backendRef"))
	g.await("report", func() bool { return len(g.report()) > 0 })
	e := g.report()[0]
	if filepath.Base(e.File) != "route.yaml" || e.Line != 12 || e.Object != "HTTPRoute default/shop" ||
		e.Field != "spec.rules[0].backendRef" || e.Want != `did you mean "backendRefs"?` {
		t.Errorf("reported: %+v", e)
	}
	if version, _, err := g.get("/cart"); version != "20" || err != nil {
		t.Errorf("the broken file serves: %q %v", version, err)
	}
	if !strings.Contains(g.log.String(), "route.yaml:12: HTTPRoute default/shop: spec.rules[0].backendRef") {
		t.Error("the log does not say where")
	}
	g.write("route.yaml", fill(shopRoute, "VERSION", "22"))
	g.await("mended version", func() bool { version, _, _ := g.get("/cart"); return version == "22" })
	if r := g.report(); len(r) != 0 {
		t.Errorf("still reported: %+v", r)
	}

	g.write("shop.yaml", g.shop(other.URL))
	g.await("other endpoint", func() bool { _, body, _ := g.get("/cart"); return body == "two" })
	stopLoad()
	if requests.Load() == 0 {
		t.Error("there was no load")
	}

	for path, want := range map[string]string{
		"/":          "200 <!doctype html>",
		"/healthz":   "200 ok\n",
		"/metrics":   "headgate_",
		"/routes":    `"listener": "default/web/http"`,
		"/endpoints": `"address": "127.0.0.1:` + portOf(t, other.URL) + `"`,
		"/ports":     `"address": "127.0.0.1:` + g.port + `"`,
		"/snapshot":  `"hostname": "shop.example.com"`,
		"/nowhere":   "404 ",
	} {
		if got := g.page(path); !strings.Contains(got, want) {
			t.Errorf("%s lacks %q: %.300s", path, want, got)
		}
	}
	for _, name := range []string{"routes", "endpoints"} {
		out, stderr, code := command(t, name, "--admin-address", g.admin)
		if code != exitOK || !strings.Contains(out, "Service/default/shop/80") {
			t.Errorf("%s: exit code %d, %q, %q", name, code, out, stderr)
		}
	}
	if err := os.Remove(filepath.Join(g.dir, "route.yaml")); err != nil {
		t.Fatal(err)
	}
	g.await("404", func() bool { _, _, err := g.get("/cart"); return err != nil && strings.HasPrefix(err.Error(), "404") })

	g.signal(syscall.SIGTERM)
	if code := g.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSIGTERMDrains(t *testing.T) {
	g := startProcess(t, "--shutdown-delay", "300ms")
	answer := make(chan error, 1)
	go func() {
		_, body, err := g.get("/cart/slow")
		if err == nil && body != "one" {
			err = fmt.Errorf("got %q", body)
		}
		answer <- err
	}()
	<-g.slowBegins
	g.signal(syscall.SIGTERM)
	g.await("failing readiness", func() bool { return g.page("/readyz") == "503 draining\n" })
	if _, _, err := g.get("/cart"); err != nil {
		t.Errorf("before the delay is over: %v", err)
	}
	g.await("closed port", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+g.port)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case <-g.exited:
		t.Fatal("it did not wait for the request in flight")
	default:
	}
	close(g.slow)
	if err := <-answer; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if code := g.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	g := startProcess(t)
	defer close(g.slow)
	go func() { _, _, _ = g.get("/cart/slow") }() // it is cut off
	<-g.slowBegins
	g.signal(syscall.SIGTERM)
	g.await("draining", func() bool { return g.page("/readyz") == "503 draining\n" })
	g.signal(os.Interrupt)
	if code := g.exitCode(); code != exitFault {
		t.Errorf("exit code %d", code)
	}
}
