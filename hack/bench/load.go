package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// script has wrk send the method and content that its environment asks for, and
// print what bench reads, exactly.
const script = `
wrk.method = os.getenv("BENCH_METHOD")
local size = tonumber(os.getenv("BENCH_CONTENT"))
if size > 0 then
  wrk.body = string.rep("x", size)
  wrk.headers["Content-Type"] = "application/octet-stream"
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("bench: %d %d %d %d %f %f\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50), latency:percentile(99)))
end
`

// wrk loads a proxy over HTTP/1.1. Any error or status that is not fine fails
// the run: a proxy that refuses work is not fast.
func wrk(ctx context.Context, o *options, s *scenario, p *proxy, duration time.Duration) (sample, error) {
	one, refused, err := closedLoop(ctx, o, s, p, duration)
	if err == nil && refused > 0 {
		err = fmt.Errorf("%.1f %% of the requests were not answered 2xx or 3xx", 100*refused)
	}
	return one, err
}

// closedLoop is wrk where some may be refused, and returns how many were of those
// answered. The rate is that of the others.
func closedLoop(ctx context.Context, o *options, s *scenario, p *proxy, duration time.Duration) (one sample, refused float64, err error) {
	file := filepath.Join(p.Dir, "wrk.lua")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		return sample{}, 0, err
	}
	url := "http://" + p.HTTP
	switch s.listener {
	case https:
		url = "https://" + p.HTTPS
		if err := handshake(p); err != nil {
			return sample{}, 0, err
		}
	case tcp:
		url = "http://" + p.TCP
	}
	method := "GET"
	if s.content > 0 {
		method = "POST"
	}
	path, headers := s.asked(p)
	args := []string{"wrk", "-t1", fmt.Sprintf("-c%d", s.connections),
		fmt.Sprintf("-d%ds", int(duration.Seconds())), "--timeout", "5s", "-s", file, "-H", "Host: " + host}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	env := []string{"BENCH_METHOD=" + method, "BENCH_CONTENT=" + strconv.Itoa(s.content)}
	one, out, err := loaded(ctx, o, p, env, append(args, url+path)...)
	if err != nil {
		return sample{}, 0, err
	}

	_, line, _ := strings.Cut(out, "bench: ")
	var requests, micros, broken, unserved int64
	if _, err := fmt.Sscan(line, &requests, &micros, &broken, &unserved, &one.p50, &one.p99); err != nil {
		return sample{}, 0, fmt.Errorf("wrk's output: %w: %s", err, out)
	}
	if broken > 0 || requests == 0 {
		return sample{}, 0, fmt.Errorf("%d requests, %d errors of connections", requests, broken)
	}
	one.cpu /= float64(requests)
	one.rate = float64(requests-unserved) / (float64(micros) / 1e6)
	return one, float64(unserved) / float64(requests), nil
}

// h2load loads a proxy over HTTP/2, as strictly. It tells no percentiles.
func h2load(ctx context.Context, o *options, s *scenario, p *proxy, duration time.Duration) (sample, error) {
	path, headers := s.asked(p)
	args := []string{"h2load", "-t1", fmt.Sprintf("-c%d", s.connections), fmt.Sprintf("-m%d", s.streams),
		fmt.Sprintf("-D%d", int(duration.Seconds())), "--connect-to", p.H2C}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	if s.grpc {
		file := filepath.Join(p.Dir, "message")
		if err := os.WriteFile(file, []byte(message), 0o644); err != nil {
			return sample{}, err
		}
		args = append(args, "-d", file, "-H", "content-type: application/grpc", "-H", "te: trailers")
	}
	one, out, err := loaded(ctx, o, p, nil, append(args, "http://"+host+path)...)
	if err != nil {
		return sample{}, err
	}

	var total, begun, done, succeeded, failed, errored, late int64
	_, line, _ := strings.Cut(out, "requests: ")
	_, err = fmt.Sscanf(line, "%d total, %d started, %d done, %d succeeded, %d failed, %d errored, %d timeout",
		&total, &begun, &done, &succeeded, &failed, &errored, &late)
	if err == nil {
		_, line, _ = strings.Cut(out, "finished in ")
		_, line, _ = strings.Cut(line, "s, ")
		_, err = fmt.Sscanf(line, "%f req/s", &one.rate)
	}
	content := int64(-1)
	if err == nil {
		_, line, _ = strings.Cut(out, "(space savings ")
		_, line, _ = strings.Cut(line, "(")
		_, err = fmt.Sscanf(line, "%d) data", &content)
	}
	if err != nil {
		return sample{}, fmt.Errorf("h2load's output: %w: %s", err, out)
	}
	if done == 0 || succeeded < done || failed+errored+late > 0 {
		return sample{}, fmt.Errorf("%d requests, %d of them answered 2xx or 3xx; %d failed, %d errors, %d timeouts", done, succeeded, failed, errored, late)
	}
	// A call that fails has status 200, and no message.
	if s.grpc && content < done*int64(len(message)) {
		return sample{}, fmt.Errorf("%d calls, answered with %d bytes: not all have succeeded", done, content)
	}
	one.cpu /= float64(done)
	return one, nil
}

// loaded runs a program that loads the proxy. The sample has the proxy's CPU
// time meanwhile in microseconds, and its memory.
func loaded(ctx context.Context, o *options, p *proxy, env []string, args ...string) (one sample, output string, err error) {
	before, err := p.cpu()
	if err != nil {
		return one, "", err
	}
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(o.clientCore)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return one, "", fmt.Errorf("%s: %w: %s", args[0], err, out)
	}
	after, err := p.cpu()
	if err != nil {
		return one, "", err
	}
	one.cpu = float64((after - before).Microseconds())
	one.resident, err = p.resident()
	return one, string(out), err
}

// handshake checks that what is compared is the same: TLS 1.3 with the same
// key exchange and cipher, and no resumption.
func handshake(p *proxy) error {
	cache := tls.NewLRUClientSessionCache(1)
	for range 2 {
		c, err := tls.Dial("tcp", p.HTTPS, &tls.Config{
			ServerName: host, InsecureSkipVerify: true, ClientSessionCache: cache,
			CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		})
		if err != nil {
			return err
		}
		err = ask(c, "/catalogue/item") // and so reads what comes after the handshake
		c.Close()
		if err != nil {
			return err
		}
		state := c.ConnectionState()
		if state.Version != tls.VersionTLS13 || state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || state.CurveID != tls.X25519 {
			return fmt.Errorf("TLS with %s, %s, %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID)
		}
		if state.DidResume {
			return errors.New("a TLS session was resumed")
		}
	}
	return nil
}
