// Package integration_test runs Headgate in Kubernetes mode as it is run for
// real: its binary, against an etcd and a kube-apiserver, with the rights that
// the chart gives it and no others. What is missing is a kubelet: backends
// listen in this process, and requests go to the ports that a Gateway's
// Service would lead to.
//
// The control plane's programs are those in KUBEBUILDER_ASSETS, else
// hack/cluster builds them once.
package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These pass what the outer process made on to the inner one.
const (
	innerEnv    = "HEADGATE_INTEGRATION"
	assetsEnv   = "KUBEBUILDER_ASSETS"
	gatewayAPI  = "HEADGATE_INTEGRATION_GATEWAY_API"
	headgateBin = "HEADGATE_INTEGRATION_BINARY"
	chartEnv    = "HEADGATE_INTEGRATION_CHART"
)

// TestMain builds what the tests need and then runs them in a network of their
// own, where nothing but they listen, nothing leaves, and where the addresses
// that the examples name exist. Where the kernel refuses that, they run in the
// machine's network.
func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) (int, error) {
	switch os.Getenv(innerEnv) {
	case "namespace":
		if err := setUpNamespace(); err != nil {
			return 0, err
		}
		return runTests(m)
	case "machine":
		return runTests(m)
	}
	dir, err := os.MkdirTemp("", "headgate-integration-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	env, err := build(dir)
	if err != nil {
		return 0, err
	}
	flags := uintptr(syscall.CLONE_NEWNET | syscall.CLONE_NEWPID) // what it starts ends with it
	code, err := again(env, "namespace", &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL})
	if err != nil && os.Geteuid() != 0 {
		id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		gid := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		code, err = again(env, "namespace", &syscall.SysProcAttr{Cloneflags: flags | syscall.CLONE_NEWUSER,
			UidMappings: id, GidMappings: gid, Pdeathsig: syscall.SIGKILL})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "integration: no network namespace (%v); using the machine's network\n", err)
		code, err = again(env, "machine", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	}
	return code, err
}

// again runs this test binary once more. The error is about starting it.
func again(env []string, mode string, attr *syscall.SysProcAttr) (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), append(env, innerEnv+"="+mode)...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, attr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, nil // a signal
}

// build makes everything that needs a compiler or a registry.
func build(dir string) (env []string, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	assets, err := output(root, "hack/cluster/cluster", "assets")
	if err != nil {
		return nil, err
	}
	crds, err := output(root, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "headgate")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if _, err := output(root, "go", append(args, "./cmd/headgate")...); err != nil {
		return nil, err
	}
	helm := filepath.Join(root, "bin", "helm")
	if _, err := os.Stat(helm); err != nil {
		if _, err := output(filepath.Join(root, "hack", "tools"), "go", "build", "-o", helm, "helm.sh/helm/v3/cmd/helm"); err != nil {
			return nil, err
		}
	}
	rendered, err := output(root, helm, "template", release, "charts/headgate", "--namespace", namespace, "--include-crds",
		"--set", "autoscaling.enabled=true", "--set", "readPods=true") // all that a plain API server knows
	if err != nil {
		return nil, err
	}
	chart := filepath.Join(dir, "chart.yaml")
	if err := os.WriteFile(chart, []byte(rendered), 0o600); err != nil {
		return nil, err
	}
	return []string{assetsEnv + "=" + assets, gatewayAPI + "=" + crds, headgateBin + "=" + binary, chartEnv + "=" + chart}, nil
}

func output(dir, name string, args ...string) (string, error) {
	var out, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		cmd = exec.Command(filepath.Join(dir, name), args...)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

// setUpNamespace gives the new network's loopback device the addresses that
// the shop's instances have. An API server refuses endpoints in 127.0.0.0/8.
func setUpNamespace() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i, address := range []string{"127.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		name := "lo"
		if i > 0 {
			name = fmt.Sprint("lo:", i)
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		ip := netip.MustParseAddr(address).As4()
		if err := ifr.SetInet4Addr(ip[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, address, err)
		}
		if i > 0 {
			continue
		}
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

// instanceAddress is where the i-th instance may listen, so that an API server
// takes it for an endpoint and nobody beyond this machine reaches it by chance:
// the port is any that is free.
func instanceAddress(i int) (string, error) {
	if os.Getenv(innerEnv) == "namespace" {
		return fmt.Sprintf("192.0.2.%d:0", i), nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String() + ":0", nil
		}
	}
	return "", errors.New("this machine has no IPv4 address but loopback, which an API server refuses as an endpoint")
}
