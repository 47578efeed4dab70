// Command quickstart shows Headgate at work: it starts three demo instances and
// Headgate on a copy of the shop, sends the requests of the shop's table, prints
// what was sent and what came back, and stays up for the reader's own requests.
//
// With -check it ends after the requests, with status 1 if any answer was not
// as expected. It ends only what it started.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/headgate/headgate/hack/quickstart/shop"
)

type options struct {
	headgate, demo, manifests string
	httpPort, httpsPort       uint
	admin                     string
	check                     bool
}

func main() {
	var o options
	flag.StringVar(&o.headgate, "headgate", "bin/headgate", "the `program` headgate")
	flag.StringVar(&o.demo, "demo", "bin/demo", "the `program` demo")
	flag.StringVar(&o.manifests, "manifests", "config/samples/shop", "the `folder` to serve a copy of")
	flag.UintVar(&o.httpPort, "http-port", 8080, "the HTTP listener's port")
	flag.UintVar(&o.httpsPort, "https-port", 8443, "the HTTPS listener's port")
	flag.StringVar(&o.admin, "admin-address", "127.0.0.1:9901", "Headgate's admin address")
	flag.BoolVar(&o.check, "check", false, "end after the requests, with status 1 if any answer was wrong")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := newPrinter(os.Stdout)
	ok, err := run(ctx, &o, out)
	switch {
	case ctx.Err() != nil && !o.check:
		out.printf("\n")
	case err != nil:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
	if !ok && o.check {
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options, out *printer) (ok bool, err error) {
	if err := portsAreFree(o); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "headgate-shop-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)

	ctx, cancel := context.WithCancel(ctx)
	started := &processes{ctx: ctx}
	defer started.wait() // second
	defer cancel()       // first

	var instances [3]netip.AddrPort
	for i := range instances {
		if instances[i], err = started.demo(o.demo, fmt.Sprintf("demo-%d", i+1)); err != nil {
			return false, err
		}
	}
	s, err := shop.Prepare(o.manifests, dir, shop.Options{
		Instances: instances, HTTPPort: uint16(o.httpPort), HTTPSPort: uint16(o.httpsPort),
	})
	if err != nil {
		return false, err
	}
	logs, err := os.Create(filepath.Join(dir, "headgate.log"))
	if err != nil {
		return false, err
	}
	defer logs.Close()
	ended, err := started.headgate(o.headgate, logs, "--manifests", dir, "--admin-address", o.admin)
	if err != nil {
		return false, err
	}
	if err := ready(ctx, "http://"+o.admin+"/readyz", ended); err != nil {
		return false, withLog(err, logs.Name())
	}
	out.started(o, dir, instances)

	client, err := s.NewClient(net.JoinHostPort("127.0.0.1", s.Vars["HTTP_PORT"]), net.JoinHostPort("127.0.0.1", s.Vars["HTTPS_PORT"]))
	if err != nil {
		return false, err
	}
	defer client.Close()
	cases, err := s.Table()
	if err != nil {
		return false, err
	}
	wrong := 0
	for i := range cases {
		outcome := client.Do(ctx, &cases[i])
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		out.result(&cases[i], outcome)
		if len(outcome.Problems) > 0 {
			wrong++
		}
	}
	out.summary(len(cases), wrong)
	if wrong > 0 {
		err = withLog(fmt.Errorf("%d of %d answers are not as expected", wrong, len(cases)), logs.Name())
	}
	if o.check {
		return wrong == 0, err
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
	}
	out.invitation(o, s, dir)
	select {
	case <-ctx.Done():
		return wrong == 0, nil
	case <-ended:
		return false, withLog(errors.New("headgate ended"), logs.Name())
	}
}

// portsAreFree tells a taken port before anything is started, and what to do about it.
func portsAreFree(o *options) error {
	for _, p := range []struct{ address, flag string }{
		{fmt.Sprintf(":%d", o.httpPort), "-http-port"},
		{fmt.Sprintf(":%d", o.httpsPort), "-https-port"},
		{o.admin, "-admin-address"},
	} {
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			return fmt.Errorf("%w; free it, or choose another with: make quickstart ARGS=%q", err, p.flag+" …")
		}
		l.Close()
	}
	for _, program := range []string{o.headgate, o.demo} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%w; make quickstart builds it", err)
		}
	}
	return nil
}

// processes are what was started, and end with ctx.
type processes struct {
	ctx  context.Context
	list []<-chan struct{}
}

// start returns a channel that is closed when the process has ended.
func (p *processes) start(cmd *exec.Cmd) (<-chan struct{}, error) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.list = append(p.list, ended)
	return ended, nil
}

func (p *processes) wait() {
	for _, ended := range p.list {
		<-ended
	}
}

// demo starts an instance and returns its address.
func (p *processes) demo(program, name string) (netip.AddrPort, error) {
	cmd := exec.CommandContext(p.ctx, program, "-name", name, "-attached")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // ends with this process
		return netip.AddrPort{}, err
	}
	r, w := io.Pipe()
	cmd.Stdout = w
	if _, err := p.start(cmd); err != nil {
		return netip.AddrPort{}, err
	}
	time.AfterFunc(time.Minute, func() { w.CloseWithError(errors.New("it did not say its address in time")) })
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("starting %s: %w", name, err)
	}
	return netip.ParseAddrPort(strings.TrimSpace(line))
}

func (p *processes) headgate(program string, logs *os.File, args ...string) (<-chan struct{}, error) {
	cmd := exec.CommandContext(p.ctx, program, args...)
	cmd.Stdout, cmd.Stderr = logs, logs
	return p.start(cmd)
}

// ready waits until url answers 200.
func ready(ctx context.Context, url string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := errors.New("no answer")
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
		}
		select {
		case <-ended:
			return errors.New("headgate ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("headgate is not ready: %w", last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// withLog adds the end of Headgate's log.
func withLog(err error, path string) error {
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > 20 {
		lines = lines[len(lines)-20:]
	}
	if log := strings.Join(lines, "\n  "); log != "" {
		return fmt.Errorf("%w\nheadgate's log ends with:\n  %s", err, log)
	}
	return err
}
