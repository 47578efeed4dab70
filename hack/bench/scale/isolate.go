package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedEnv says to the inner process where it runs.
const isolatedEnv = "HEADGATE_SCALE"

// backendAddress is where the echo listens, in a network of our own: an API
// server refuses endpoints in 127.0.0.0/8.
const backendAddress = "192.0.2.1"

// isolated calls f in a process of its own, in a network where nothing else is
// and among processes that end with it; where the kernel refuses that, in the
// machine's network.
func isolated(f func() int) (int, error) {
	switch os.Getenv(isolatedEnv) {
	case "namespace":
		if err := setUp(); err != nil {
			return 1, err
		}
		return f(), nil
	case "machine":
		return f(), nil
	}
	code, err := again("namespace", syscall.CLONE_NEWNET|syscall.CLONE_NEWPID|syscall.CLONE_NEWNS)
	if err != nil {
		fmt.Fprintf(os.Stderr, "scale: no network namespace (%v); using the machine's network\n", err)
		code, err = again("machine", 0)
	}
	return code, err
}

// again runs this program once more. The error is about starting it.
func again(where string, flags uintptr) (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"="+where)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
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

// setUp brings up the loopback device with the addresses that there are, and
// mounts a /proc of the processes that there are.
func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for name, address := range map[string]string{"lo": "127.0.0.1", "lo:1": backendAddress} {
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
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

// endpointAddress is where backends may listen so that an API server takes
// them for endpoints.
func endpointAddress() (string, error) {
	if os.Getenv(isolatedEnv) == "namespace" {
		return backendAddress, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), nil
		}
	}
	return "", errors.New("this machine has no IPv4 address but loopback, which an API server refuses as an endpoint")
}
