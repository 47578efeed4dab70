package main

import (
	"bytes"
	"context"
	"embed"
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
	"text/template"
	"time"
)

//go:embed conf
var conf embed.FS

// proxy is one that runs.
type proxy struct {
	name    string
	address string // of its listener
	admin   string // Headgate's
	pid     int
	report  string // wrk's script
}

// settings fill in the templates in conf. Hosts and Paths are other routes
// beside those that are asked for, so that there is something to choose among.
type settings struct {
	Dir, Address, Port string
	Backends           []backend
	Host, APIKey       string
	Hosts              []string
	Paths              []string
}

type backend struct{ Address, Port string }

func newSettings(dir, address string, backends []backend) settings {
	_, port, _ := net.SplitHostPort(address)
	s := settings{Dir: dir, Address: address, Port: port, Backends: backends, Host: host, APIKey: apiKey}
	for i := range 10 {
		s.Hosts = append(s.Hosts, fmt.Sprintf("tenant-%d.example.com", i))
		s.Paths = append(s.Paths, fmt.Sprintf("/section-%d", i))
	}
	return s
}

// write fills a template in and returns the file's path.
func (s *settings) write(name string) (string, error) {
	t, err := template.ParseFS(conf, "conf/"+name)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, out.Bytes(), 0o644)
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

// backends starts three, and returns where they are.
func (p *processes) backends(o *options, dir string) ([]backend, error) {
	var list []backend
	for i := range 3 {
		sub := filepath.Join(dir, fmt.Sprintf("backend-%d", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, err
		}
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		s := newSettings(sub, address, nil)
		file, err := s.write("backend.conf")
		if err != nil {
			return nil, err
		}
		logs := filepath.Join(sub, "log")
		if _, err := p.start(o.clientCore, logs, "nginx", "-p", sub, "-c", file); err != nil {
			return nil, err
		}
		if err := answers(p.ctx, address, "/", nil); err != nil {
			return nil, withLog(err, logs)
		}
		_, port, _ := net.SplitHostPort(address)
		list = append(list, backend{address, port})
	}
	return list, nil
}

func (p *processes) proxy(o *options, name, dir string, backends []backend) (*proxy, error) {
	sub := filepath.Join(dir, name)
	if err := os.Mkdir(sub, 0o755); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := newSettings(sub, address, backends)
	one := &proxy{name: name, address: address, report: filepath.Join(dir, "report.lua")}
	if err := os.WriteFile(one.report, []byte(report), 0o644); err != nil {
		return nil, err
	}
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
	if err := answers(p.ctx, address, "/catalogue/item", nil); err != nil {
		return nil, fmt.Errorf("%s: %w", name, withLog(err, logs))
	}
	if name == "headgate" {
		if err := answers(p.ctx, address, "/orders/item", http.Header{"X-Api-Key": {apiKey}}); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	last := errors.New("no answer")
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return err
		}
		req.Host, req.Close = host, true
		if header != nil {
			req.Header = header.Clone()
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = fmt.Errorf("GET %s: %s", path, resp.Status)
		} else if ctx.Err() == nil {
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
