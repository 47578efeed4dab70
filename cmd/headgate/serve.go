package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
	"github.com/spf13/pflag"

	"github.com/headgate/headgate/controllers/admin"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/loop"
	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/upstream"
)

const defaultAdminAddress = "127.0.0.1:9901"

// serveOptions are the flags of the bare command.
type serveOptions struct {
	manifests        string
	bindAddresses    []string
	adminAddress     string
	metricsAddress   string
	accessLog        string
	zone, node       string
	overload         overload.Options
	log              logOptions
	shutdownDelay    time.Duration
	shutdownDelaySet bool
	shutdownTimeout  time.Duration
	cluster          clusterOptions
}

func newServeOptions() *serveOptions {
	return &serveOptions{
		adminAddress:    defaultAdminAddress,
		accessLog:       "off",
		zone:            os.Getenv("ZONE"),
		node:            os.Getenv("NODE_NAME"),
		overload:        overload.Options{MemoryPercent: 90},
		log:             logOptions{level: "info", format: "text"},
		shutdownTimeout: 30 * time.Second,
		cluster:         newClusterOptions(),
	}
}

func (o *serveOptions) register(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&o.manifests, "manifests", o.manifests, "serve this `folder` of YAML and JSON, with no cluster")
	f.StringSliceVar(&o.bindAddresses, "bind-address", nil, "bind listeners at this IP `address`; repeatable (default all addresses)")
	f.StringVar(&o.adminAddress, "admin-address", o.adminAddress, "serve health, metrics, state and profiles at this `address`; \"\" for nowhere")
	f.StringVar(&o.metricsAddress, "metrics-address", "", "serve /metrics, /healthz and /readyz at this `address` too, such as :9902")
	f.StringVar(&o.accessLog, "access-log", o.accessLog, "write a line for each request to standard output: off, json or text")
	f.StringVar(&o.zone, "zone", o.zone, "where this process runs, for backends that prefer endpoints in the same `zone` (default $ZONE)")
	f.StringVar(&o.node, "node", o.node, "which `node` it runs on, for backends that prefer endpoints on the same one (default $NODE_NAME)")
	f.StringVar(&o.log.level, "log-level", o.log.level, "log at this level: error, info or debug")
	f.StringVar(&o.log.format, "log-format", o.log.format, "log as text or json, to standard error")
	f.DurationVar(&o.overload.SchedulingDelay, "overload-scheduling-delay", o.overload.SchedulingDelay, "refuse requests, of the lowest priority first, so that the others wait for a CPU no longer than this, such as 50ms (default never)")
	f.IntVar(&o.overload.MemoryPercent, "overload-memory-percent", o.overload.MemoryPercent, "refuse the more requests the more of the memory limit beyond this `percentage` is in use; 0 for never")
	f.DurationVar(&o.shutdownDelay, "shutdown-delay", 0, "after SIGTERM, go on serving for so long with readiness failing (default 0s with --manifests, else 5s)")
	f.DurationVar(&o.shutdownTimeout, "shutdown-timeout", o.shutdownTimeout, "then let requests in flight finish for at most so long")
	o.cluster.register(f)
}

func (o *serveOptions) validate() error {
	for _, a := range o.bindAddresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("--bind-address %q: want an IP address such as 192.0.2.1 or ::1", a)
		}
	}
	for _, flag := range []struct{ name, value string }{
		{"admin-address", o.adminAddress}, {"metrics-address", o.metricsAddress},
	} {
		if _, _, err := net.SplitHostPort(flag.value); flag.value != "" && err != nil {
			return fmt.Errorf("--%s %q: want host:port, such as 127.0.0.1:9901 or :9901", flag.name, flag.value)
		}
	}
	if o.accessLog != "off" {
		if _, err := observe.ParseFormat(o.accessLog); err != nil {
			return fmt.Errorf("--access-log %q: want off, json or text", o.accessLog)
		}
	}
	if d := o.overload.SchedulingDelay; d != 0 && (d < time.Millisecond || d > time.Minute) {
		return fmt.Errorf("--overload-scheduling-delay %s: want a duration from 1ms to 1m, or 0s", d)
	}
	if p := o.overload.MemoryPercent; p < 0 || p > 99 {
		return fmt.Errorf("--overload-memory-percent %d: want a number from 1 to 99, or 0", p)
	}
	if o.shutdownDelay < 0 || o.shutdownTimeout < 0 {
		return errors.New("--shutdown-delay and --shutdown-timeout: want a duration of 0s or more")
	}
	return o.log.validate()
}

// server is what both modes have in common.
type server struct {
	opts    *serveOptions
	log     logr.Logger
	metrics *observe.Metrics
	proxy   *dataplane.Proxy
	admin   *admin.Server
	loop    atomic.Pointer[loop.Loop] // nil until the mode is connected
}

// mode is where the objects come from.
type mode interface {
	// connect waits until there is something to get objects from, or the context ends.
	connect(ctx context.Context) error
	// waiting says what connect waits for; "" if it does not.
	waiting() string
	// loopOptions completes what the loop is told.
	loopOptions(*loop.Options)
	// report returns everything that is not fine; result may be nil.
	report(result *compile.Result) []admin.Entry
	// run feeds the loop until the context ends.
	run(ctx context.Context, l *loop.Loop) error
	// shutdownDelay is the default of --shutdown-delay.
	shutdownDelay() time.Duration
}

// serve runs until a signal, and then drains.
func serve(ctx context.Context, o *serveOptions, s streams, signals <-chan os.Signal) error {
	if err := o.validate(); err != nil {
		return usageError{err}
	}
	log, err := o.log.logger(s.err)
	if err != nil {
		return err
	}
	metrics := observe.NewMetrics(shortVersion())
	var m mode
	if o.manifests != "" {
		m, err = newStandalone(o, log)
	} else {
		m, err = newKubernetes(o, metrics, log)
	}
	if err != nil {
		return err
	}

	srv := &server{opts: o, log: log, metrics: metrics}
	var accessLog *observe.AccessLog
	if o.accessLog != "off" {
		format, err := observe.ParseFormat(o.accessLog)
		if err != nil {
			return usageError{err}
		}
		accessLog = observe.NewAccessLog(s.out, format)
		defer accessLog.Close()
		metrics.SetAccessLog(accessLog)
	}
	o.overload.CPUTime, o.overload.CPUs = measuredCPU()
	srv.proxy = dataplane.New(dataplane.Options{
		Overload:      o.overload,
		BindAddresses: o.bindAddresses,
		Upstream:      upstream.Options{Zone: o.zone, Node: o.node},
		Log:           log.WithName("proxy"),
		Metrics:       metrics,
		AccessLog:     accessLog,
	})
	srv.admin = admin.New(srv.sources(m))

	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	if err := srv.listen(background, &wg); err != nil {
		return err
	}
	// Near a container's limit the collector works harder, so that the kernel need
	// not end us. Where GOMEMLIMIT is set, or there is no limit, nothing changes.
	if _, err := memlimit.Set(); err != nil {
		log.V(1).Info("It is not known how much memory there may be", "error", err.Error())
	}
	wg.Go(func() { boundMemory(background) })
	log.Info("Headgate starts", "version", shortVersion(), "admin", o.adminAddress, "zone", o.zone, "node", o.node)

	feeding, stopFeeding := context.WithCancel(background)
	defer stopFeeding()
	var fed sync.WaitGroup
	failed := make(chan error, 1)
	fed.Go(func() {
		if err := srv.feed(feeding, m); err != nil && feeding.Err() == nil {
			failed <- err
		}
	})

	select {
	case err := <-failed:
		stopFeeding()
		fed.Wait()
		return errors.Join(err, srv.proxy.Shutdown(ended(ctx)))
	case sig := <-signals:
		log.Info("Draining", "signal", sig.String(), "timeout", o.shutdownTimeout.String())
	case <-ctx.Done():
		log.Info("Draining", "timeout", o.shutdownTimeout.String())
	}
	return srv.drain(m, signals, func() {
		stopFeeding()
		fed.Wait()
	})
}

// feed has the loop compile what the mode has, and the proxy serve that, until
// the context ends.
func (s *server) feed(ctx context.Context, m mode) error {
	if err := m.connect(ctx); err != nil {
		return err
	}
	options := loop.Options{
		Apply:    s.proxy.Apply,
		Measured: func(compiled, _ time.Duration) { s.metrics.Compiled(compiled) },
		Log:      s.log,
	}
	m.loopOptions(&options)
	l := loop.New(options)
	s.loop.Store(l)
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { l.Run(ctx) })
	return m.run(ctx, l)
}

// result returns what was compiled last, and when; nil before the first.
func (s *server) result() (*compile.Result, time.Time) {
	if l := s.loop.Load(); l != nil {
		return l.Result()
	}
	return nil, time.Time{}
}

// ended returns a context that is over: what is asked for under it is done at once.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	return ctx
}

// listen serves the admin and metrics addresses.
func (s *server) listen(ctx context.Context, wg *sync.WaitGroup) error {
	if s.opts.adminAddress != "" {
		l, err := net.Listen("tcp", s.opts.adminAddress)
		if err != nil {
			return fmt.Errorf("admin address: %w; choose another with --admin-address", err)
		}
		wg.Go(func() { s.admin.Serve(ctx, l, s.admin.Handler()) })
	}
	if s.opts.metricsAddress != "" {
		l, err := net.Listen("tcp", s.opts.metricsAddress)
		if err != nil {
			return fmt.Errorf("metrics address: %w; choose another with --metrics-address", err)
		}
		wg.Go(func() { s.admin.Serve(ctx, l, s.admin.ProbeHandler()) })
	}
	return nil
}

// drain fails readiness, and goes on serving for the delay while clients are told
// that their connections end; then it accepts nothing new and lets what is in
// flight finish. Another signal ends it at once.
func (s *server) drain(m mode, signals <-chan os.Signal, stopFeeding func()) error {
	s.admin.Drain()
	s.proxy.Drain()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hurried := make(chan struct{})
	go func() {
		select {
		case sig := <-signals:
			s.log.Info("Stopping at once", "signal", sig.String())
			close(hurried)
			cancel()
		case <-ctx.Done():
		}
	}()
	delay := s.opts.shutdownDelay
	if !s.opts.shutdownDelaySet {
		delay = m.shutdownDelay()
	}
	if !s.proxy.Ready() {
		delay = 0 // nobody was sent here
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
	stopFeeding()
	timeout, cancelTimeout := context.WithTimeout(ctx, s.opts.shutdownTimeout)
	defer cancelTimeout()
	drained := make(chan error, 1)
	go func() { drained <- s.proxy.Shutdown(timeout) }()
	var err error
	select {
	case err = <-drained:
	case <-hurried:
	case <-time.After(s.opts.shutdownTimeout + time.Second):
		err = timeout.Err() // it closes what is left by itself; the process ends anyway
	}
	select {
	case <-hurried:
		return quietError{errors.New("stopped by a second signal")}
	default:
	}
	if err != nil {
		s.log.Info("Requests in flight were cut off", "after", s.opts.shutdownTimeout.String())
	}
	s.log.Info("Headgate ends")
	return nil
}

func (s *server) sources(m mode) admin.Sources {
	return admin.Sources{
		Version: versionLine(),
		Ready: func() (bool, string) {
			if s.proxy.Ready() {
				return true, ""
			}
			if why := m.waiting(); why != "" {
				return false, why
			}
			return false, "no configuration serves yet"
		},
		Snapshot: s.proxy.Snapshot,
		Result:   s.result,
		Report: func() []admin.Entry {
			result, _ := s.result()
			return m.report(result)
		},
		Endpoints: s.endpoints,
		Ports:     func() any { return s.proxy.Ports() },
		Metrics:   s.metrics.Registry(),
		Log:       s.log.WithName("admin"),
	}
}

func (s *server) endpoints() []admin.Endpoint {
	rows := []admin.Endpoint{}
	for _, c := range s.proxy.Clusters() {
		for _, e := range c.Endpoints {
			rows = append(rows, admin.Endpoint{Cluster: c.Cluster, EndpointState: e, CircuitBreaker: c.CircuitBreaker})
		}
	}
	return rows
}
