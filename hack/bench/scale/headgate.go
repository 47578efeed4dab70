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

	"golang.org/x/sys/unix"
)

// headgate is a running Headgate.
type headgate struct {
	cmd   *exec.Cmd
	admin string
	began time.Time
	ended chan error
}

// start starts Headgate with the rights of its account.
func start(binary, kubeconfig string) (*headgate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &headgate{admin: l.Addr().String(), began: time.Now(), ended: make(chan error, 1)}
	l.Close()
	h.cmd = exec.Command(binary, "--kubeconfig", kubeconfig, "--namespace", namespace, "--identity", "scale",
		"--service-type", "ClusterIP", "--bind-address", "127.0.0.1", "--admin-address", h.admin,
		"--shutdown-delay", "0s", "--shutdown-timeout", "1s", "--log-level", "error")
	h.cmd.Stdout, h.cmd.Stderr = os.Stderr, os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { h.ended <- h.cmd.Wait() }()
	return h, nil
}

// ready waits until it serves.
func (h *headgate) ready(ctx context.Context) error {
	return await(ctx, 5*time.Minute, "Headgate is ready", 5*time.Millisecond, func() error {
		select {
		case err := <-h.ended:
			h.ended <- err
			return fatal{fmt.Errorf("it ended: %w", err)}
		default:
		}
		response, err := http.Get("http://" + h.admin + "/readyz")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

func (h *headgate) stop() {
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.ended:
	case <-time.After(10 * time.Second):
		_ = h.cmd.Process.Kill()
		<-h.ended
	}
}

// cpu returns the CPU time so far, user and system.
func (h *headgate) cpu() time.Duration {
	// The clock of a process, as clock_getcpuclockid(3) makes it: finer than
	// what /proc counts in.
	const scheduled = 2
	var spent unix.Timespec
	if err := unix.ClockGettime(int32(^h.cmd.Process.Pid<<3|scheduled), &spent); err != nil {
		return 0
	}
	return time.Duration(spent.Nano())
}

// memory is what the kernel says of a process, in MiB.
type memory struct {
	// resident is what it has now: anonymous pages, and pages of files (the
	// binary). peak is the most it ever had.
	resident, anonymous, file, peak float64
}

func (m memory) String() string {
	return fmt.Sprintf("%.0f MiB resident (%.0f anonymous, %.0f of the binary), peak %.0f MiB", m.resident, m.anonymous, m.file, m.peak)
}

func (h *headgate) memory() (m memory, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.cmd.Process.Pid), "status"))
	if err != nil {
		return m, err
	}
	for name, into := range map[string]*float64{"VmRSS:": &m.resident, "RssAnon:": &m.anonymous, "RssFile:": &m.file, "VmHWM:": &m.peak} {
		_, rest, _ := strings.Cut(string(text), name)
		if _, err := fmt.Sscan(rest, into); err != nil {
			return m, fmt.Errorf("%s of /proc: %w", name, err)
		}
		*into /= 1024
	}
	return m, nil
}

// profile writes a profile of Headgate's to a file; it takes as long as the path says.
func (h *headgate) profile(path, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	response, err := http.Get("http://" + h.admin + "/debug/pprof/" + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, response.Body)
	return errors.Join(err, out.Close())
}

// fatal is an error that waiting does not mend.
type fatal struct{ error }

// await tries until it works.
func await(ctx context.Context, timeout time.Duration, what string, every time.Duration, try func() error) error {
	var err error
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(every) {
		if err = try(); err == nil {
			return nil
		}
		if errors.As(err, new(fatal)) || ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("not within %s: %s: %w", timeout, what, err)
}
