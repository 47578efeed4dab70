// Command bench compares Headgate with nginx and HAProxy: the same work, on one
// core, in interleaved runs.
//
// Each proxy is pinned to one core, clients and backends to another. What
// counts is the CPU time that all of a proxy's processes took, user and system,
// divided by the requests that were answered; the ratios are medians over the
// rounds of the ratio within a round, so that what else the machine does falls
// on all alike. Linux only.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	headgate   string
	scenarios  string
	proxies    string
	duration   time.Duration
	warmup     time.Duration
	rounds     int
	proxyCore  int
	clientCore int
	json       string
	profile    string
	echo       string
	limited    string
}

func main() {
	var o options
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	flag.StringVar(&o.headgate, "headgate", "bin/headgate", "the `program` headgate")
	flag.StringVar(&o.scenarios, "scenario", strings.Join(names, ","), "the scenarios to run")
	flag.StringVar(&o.proxies, "proxies", "nginx,haproxy,headgate", "the proxies to compare")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long one run takes")
	flag.DurationVar(&o.warmup, "warmup", 2*time.Second, "how long each proxy is warmed up before the first round")
	flag.IntVar(&o.rounds, "rounds", 5, "how many runs of each proxy")
	flag.IntVar(&o.proxyCore, "proxy-core", 0, "the core for the proxies")
	flag.IntVar(&o.clientCore, "client-core", 1, "the core for clients and backends")
	flag.StringVar(&o.json, "json", "", "write the results to this `file` too")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of Headgate's last run to this `file`")
	flag.StringVar(&o.echo, "echo", "", "be nothing but a backend at this `address`; bench starts it itself")
	flag.StringVar(&o.limited, "limited", "", "be nothing but limited backends at these `addresses`; bench starts them itself")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [flags]")
		for _, s := range scenarios {
			fmt.Fprintf(os.Stderr, "  %-12s %s\n", s.name, s.about)
		}
		flag.PrintDefaults()
	}
	flag.Parse()

	if o.echo != "" {
		fmt.Fprintln(os.Stderr, "bench:", echo(o.echo))
		os.Exit(1)
	}
	if o.limited != "" {
		fmt.Fprintln(os.Stderr, "bench:", limited(strings.Split(o.limited, ",")))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	if err := programs(o); err != nil {
		return err
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "headgate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's workers read it as another user
		return err
	}

	var all []result
	for _, s := range chosen {
		results, err := measure(ctx, o, s, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		print(os.Stdout, o, s, results)
		all = append(all, results...)
	}
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(text, '\n'), 0o644)
}

func choose(o *options) ([]*scenario, error) {
	var chosen []*scenario
	for _, name := range strings.Split(o.scenarios, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-scenario %q: there is none of this name; see -help", name)
		}
		chosen = append(chosen, &scenarios[i])
	}
	for _, name := range strings.Split(o.proxies, ",") {
		if !slices.Contains([]string{"nginx", "haproxy", "headgate"}, name) {
			return nil, fmt.Errorf("-proxies %q: want nginx, haproxy or headgate", name)
		}
	}
	if n := runtime.NumCPU(); o.proxyCore >= n || o.clientCore >= n || o.proxyCore == o.clientCore {
		return nil, fmt.Errorf("the proxies and the client need a core each of their own, of %d", n)
	}
	if o.rounds < 1 || o.duration < time.Second {
		return nil, fmt.Errorf("-rounds must be at least 1, -duration at least 1s")
	}
	return chosen, nil
}

// programs says which programs are missing, and where they come from.
func programs(o *options) error {
	var missing []string
	for program, pkg := range map[string]string{
		"nginx": "nginx", "haproxy": "haproxy", "taskset": "util-linux",
		"wrk": "wrk", "h2load": "nghttp2-client", "nghttpd": "nghttp2-server",
	} {
		if program == "haproxy" && !strings.Contains(o.proxies, program) {
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if _, err := os.Stat("/usr/lib/nginx/modules/ngx_stream_module.so"); err != nil {
		missing = append(missing, "libnginx-mod-stream")
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("missing: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	if _, err := os.Stat(o.headgate); err != nil {
		return fmt.Errorf("%w; make bench builds it", err)
	}
	return nil
}

// raiseFileLimit lets this process and those that it starts hold 10,000
// connections and those behind them.
func raiseFileLimit() error {
	const most, least = 32_768, 12_000
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most}) == nil {
		return nil
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < least {
		return fmt.Errorf("the limit of open files is %d; want at least %d (ulimit -Hn)", limit.Max, least)
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
