package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proxy is one that runs.
type proxy struct {
	settings
	name  string
	admin string // Headgate's
	pid   int
}

// processes are what was started, and end with ctx.
type processes struct {
	ctx  context.Context
	list []<-chan struct{}
}

func (p *processes) start(core int, logs string, args ...string) (pid int, err error) {
	out, err := os.Create(logs)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	// taskset becomes the program, so that the process is the program's.
	cmd := exec.CommandContext(p.ctx, "taskset", append([]string{"-c", strconv.Itoa(core)}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.list = append(p.list, ended)
	return cmd.Process.Pid, nil
}

func (p *processes) wait() {
	for _, ended := range p.list {
		<-ended
	}
}

// proxy starts one beside the backends.
func (p *processes) proxy(o *options, name, dir string, b *backends) (*proxy, error) {
	sub := filepath.Join(dir, name)
	if err := os.Mkdir(sub, 0o755); err != nil {
		return nil, err
	}
	s, err := newSettings(sub)
	if err != nil {
		return nil, err
	}
	s.backends = *b
	one := &proxy{settings: s, name: name}
	var args []string
	switch name {
	case "nginx":
		file, err := s.write("nginx.conf")
		if err != nil {
			return nil, err
		}
		args = []string{"nginx", "-p", sub, "-c", file}
	case "haproxy":
		file, err := s.write("haproxy.cfg")
		if err != nil {
			return nil, err
		}
		args = []string{"haproxy", "-db", "-f", file}
	case "headgate":
		if _, err := s.write("headgate.yaml"); err != nil {
			return nil, err
		}
		if one.admin, err = freeAddress(); err != nil {
			return nil, err
		}
		args = []string{o.headgate, "--manifests", sub, "--bind-address", "127.0.0.1", "--admin-address", one.admin}
	}
	logs := filepath.Join(dir, name+".log")
	if one.pid, err = p.start(o.proxyCore, logs, args...); err != nil {
		return nil, err
	}
	if err := answers(p.ctx, one.HTTP, "/catalogue/item", nil); err != nil {
		return nil, fmt.Errorf("%s: %w", name, withLog(err, logs))
	}
	if name == "headgate" {
		if err := answers(p.ctx, one.HTTP, "/orders/item", http.Header{"X-Api-Key": {apiKey}}); err != nil {
			return nil, fmt.Errorf("%s with policies: %w", name, withLog(err, logs))
		}
	}
	return one, nil
}

// profile writes what Headgate's CPU time goes to while it is measured.
func (p *processes) profile(one *proxy, file string, duration time.Duration) {
	ended := make(chan struct{})
	p.list = append(p.list, ended)
	go func() {
		defer close(ended)
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", one.admin, int(duration.Seconds()))
		resp, err := http.Get(url)
		if err == nil {
			defer resp.Body.Close()
			var out *os.File
			if out, err = os.Create(file); err == nil {
				_, err = io.Copy(out, resp.Body)
				err = errors.Join(err, out.Close())
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: no profile:", err)
		}
	}()
}

// freeAddress returns a loopback address that nobody listens at just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// answers waits until a GET is answered 200.
func answers(ctx context.Context, address, path string, header http.Header) error {
	return eventually(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return err
		}
		req.Host, req.Close = host, true
		if header != nil {
			req.Header = header.Clone()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", path, resp.Status)
		}
		return nil
	})
}

// listens waits until connections are accepted.
func listens(ctx context.Context, address string) error {
	return eventually(ctx, func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// eventually tries until it succeeds, for 20 seconds at most.
func eventually(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	last := errors.New("no answer")
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func withLog(err error, path string) error {
	text, _ := os.ReadFile(path)
	if log := strings.TrimSpace(string(text)); log != "" {
		return fmt.Errorf("%w\nits log:\n%s", err, log)
	}
	return err
}
