package observe

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headgate/headgate/dataplane/overload"
)

// The descriptions of what collector makes at each scrape.
var (
	requestsDesc = desc("http_requests_total",
		"Requests that are over, by the class of the status sent; none if no response was sent.",
		"listener", "route", "cluster", "code_class")
	retriesDesc = desc("http_retries_total",
		"Requests sent once more because a try was in vain, as their rule's retry asks.",
		"listener", "route", "cluster")
	retriesRefusedDesc = desc("http_retries_refused_total",
		"Requests not sent once more because the backend's retry budget was used up, or too many were under way.",
		"listener", "route", "cluster")
	hedgesDesc = desc("http_hedges_total",
		"Requests that were sent beside another one because its response took long, those of them that brought the response, and those refused.",
		"listener", "route", "cluster", "outcome")
	fallbacksDesc = desc("http_fallbacks_total",
		"Requests that another backend has taken in place of the cluster, or that were answered with its fallback's response.",
		"listener", "route", "cluster", "to")
	durationDesc = desc("http_request_duration_seconds",
		"Time from a request's first byte to its response's last.",
		"listener", "route", "cluster", "code_class")
	addedDesc = desc("http_added_latency_seconds",
		"The share of a request's time that was not spent waiting for the upstream.",
		"listener", "route")
	inFlightDesc = desc("http_requests_in_flight",
		"Requests being served.",
		"listener", "route")
	localDesc = desc("http_local_replies_total",
		"Responses that Headgate itself made, by reason.",
		"reason")
	malformedDesc = desc("http_malformed_requests_total",
		"Requests that could not be read, by reason.",
		"port", "reason")
	acceptedDesc = desc("connections_accepted_total",
		"Connections from clients.",
		"port")
	activeDesc = desc("connections_active",
		"Open connections from clients.",
		"port")
	rejectedDesc = desc("connections_rejected_total",
		"Connections closed before a request was read from them, by reason.",
		"port", "reason")
	certificateExpiryDesc = desc("tls_certificate_expiry_timestamp_seconds",
		"When a certificate that a listener serves expires, in seconds since 1970.",
		"listener", "certificate")
	stapleExpiryDesc = desc("tls_ocsp_staple_expiry_timestamp_seconds",
		"Until when the OCSP response of a certificate is valid, in seconds since 1970; 0 if there never was one.",
		"listener", "certificate")
	endpointHealthyDesc = desc("upstream_endpoint_healthy",
		"1 if requests may be sent to the endpoint, 0 while it is ejected or unhealthy.",
		"cluster", "endpoint")
	endpointDrainingDesc = desc("upstream_endpoint_draining",
		"1 while the endpoint is about to go and takes no new requests.",
		"cluster", "endpoint")
	endpointInFlightDesc = desc("upstream_endpoint_requests_in_flight",
		"Requests that the endpoint is serving.",
		"cluster", "endpoint")
	endpointIdleDesc = desc("upstream_endpoint_connections_idle",
		"Connections kept open to the endpoint for requests to come.",
		"cluster", "endpoint")
	endpointConnectionsDesc = desc("upstream_endpoint_connections",
		"Open connections to the endpoint.",
		"cluster", "endpoint")
	endpointRequestsDesc = desc("upstream_endpoint_requests_total",
		"Requests sent to the endpoint, retries included.",
		"cluster", "endpoint")
	endpointFailuresDesc = desc("upstream_endpoint_failures_total",
		"Requests and attempts to connect that brought no response.",
		"cluster", "endpoint")
	endpointConnectFailuresDesc = desc("upstream_endpoint_connect_failures_total",
		"Attempts to connect that failed.",
		"cluster", "endpoint")
	endpointTLSFailuresDesc = desc("upstream_endpoint_tls_failures_total",
		"Attempts to connect that failed in the TLS handshake, by reason.",
		"cluster", "endpoint", "reason")
	endpointEjectionsDesc = desc("upstream_endpoint_ejections_total",
		"How often the endpoint was taken out of use because of what requests came to, by reason.",
		"cluster", "endpoint", "reason")
	endpointChecksDesc = desc("upstream_endpoint_health_checks_total",
		"Health checks of the endpoint, by result: passed or failed.",
		"cluster", "endpoint", "result")
	queueLengthDesc = desc("upstream_queue_length",
		"Requests that wait for an endpoint with room.",
		"cluster")
	queueWaitDesc = desc("upstream_queue_wait_seconds",
		"How long requests have waited for an endpoint with room.",
		"cluster")
	circuitOpenDesc = desc("upstream_circuit_open_total",
		"Requests, connections and retries that the circuit breaker has refused, by reason.",
		"cluster", "reason")
	maxInFlightDesc = desc("upstream_max_requests_in_flight",
		"How many requests to the cluster may be in flight at the moment.",
		"cluster")
	minLatencyDesc = desc("upstream_min_latency_seconds",
		"What requests to the cluster take where none waits for another, as adaptive concurrency has measured it.",
		"cluster")
	pressureDesc = desc("overload_pressure",
		"How near a resource of the process is to where requests are refused; 1 is there.",
		"resource")
	shedRatioDesc = desc("overload_shed_ratio",
		"The share of the requests that is refused at the moment because the process has not enough of a resource.")
	shedDesc = desc("overload_shed_requests_total",
		"Requests that were refused because the process had not enough of a resource.",
		"priority", "resource")
	logDroppedDesc = desc("access_log_dropped_total",
		"Access log lines that were dropped because they could not be written fast enough.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("headgate_"+name, help, labels, nil)
}

// collector turns the counts into Prometheus' metrics at each scrape.
type collector struct{ m *Metrics }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		requestsDesc, retriesDesc, retriesRefusedDesc, hedgesDesc, fallbacksDesc, durationDesc, addedDesc, inFlightDesc, localDesc, malformedDesc,
		acceptedDesc, activeDesc, rejectedDesc, certificateExpiryDesc, stapleExpiryDesc,
		endpointHealthyDesc, endpointDrainingDesc, endpointInFlightDesc, endpointIdleDesc,
		endpointConnectionsDesc, endpointRequestsDesc, endpointFailuresDesc, endpointConnectFailuresDesc,
		endpointTLSFailuresDesc, endpointEjectionsDesc, endpointChecksDesc,
		queueLengthDesc, queueWaitDesc, circuitOpenDesc, maxInFlightDesc, minLatencyDesc, logDroppedDesc,
		pressureDesc, shedRatioDesc, shedDesc,
		l4ConnectionsDesc, l4ActiveDesc, l4ReceivedDesc, l4SentDesc,
		externalAuthDesc, externalAuthDurationDesc,
		bandwidthBytesDesc, bandwidthWaitDesc, mirrorRequestsDesc, mirrorDurationDesc,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	shares := slices.Collect(maps.Values(c.m.shares))
	var routes []*Route
	for _, s := range shares {
		routes = append(routes, s.routes...)
	}
	ports := slices.Collect(maps.Values(c.m.ports))
	unread := slices.Collect(maps.Values(c.m.l4))
	externalAuth := slices.Collect(maps.Values(c.m.externalAuth))
	bandwidth := slices.Collect(maps.Values(c.m.bandwidth))
	mirrors := slices.Collect(maps.Values(c.m.mirrors))
	c.m.mu.Unlock()

	for _, r := range routes {
		r.collect(ch)
	}
	for _, s := range shares {
		s.collect(ch)
	}
	for _, p := range ports {
		p.collect(ch)
	}
	for _, l := range unread {
		l.collect(ch)
	}
	for _, a := range externalAuth {
		a.collect(ch)
	}
	for _, b := range bandwidth {
		b.collect(ch)
	}
	for _, r := range mirrors {
		r.collect(ch)
	}
	c.m.local.collect(ch, localDesc)
	if each := c.m.endpoints.Load(); each != nil {
		(*each)(func(e Endpoint) { e.collect(ch) })
	}
	if each := c.m.circuits.Load(); each != nil {
		(*each)(func(b Circuit) { b.collect(ch) })
	}
	if state := c.m.overload.Load(); state != nil {
		collectOverload(ch, (*state)())
	}
	counter(ch, logDroppedDesc, c.m.accessLog.Load().Dropped())
}

func (x *extras) collect(ch chan<- prometheus.Metric, l shareLabels, cluster string) {
	if n := x.retries.Load(); n > 0 {
		counter(ch, retriesDesc, n, l.listener, l.route, cluster)
	}
	if n := x.retriesRefused.Load(); n > 0 {
		counter(ch, retriesRefusedDesc, n, l.listener, l.route, cluster)
	}
	for outcome, hedges := range map[string]*atomic.Uint64{"sent": &x.hedges, "won": &x.hedgesWon, "refused": &x.hedgesRefused} {
		if n := hedges.Load(); n > 0 {
			counter(ch, hedgesDesc, n, l.listener, l.route, cluster, outcome)
		}
	}
	for to, name := range [...]string{"backend", "response"} {
		if n := x.fallbacks[to].Load(); n > 0 {
			counter(ch, fallbacksDesc, n, l.listener, l.route, cluster, name)
		}
	}
}

func (r *Route) collect(ch chan<- prometheus.Metric) {
	l := r.share.labels
	if x := r.extras.Load(); x != nil {
		x.collect(ch, l, r.cluster)
	}
	for class, name := range classNames {
		var h tally
		all := r.shards.all()
		for i := range all {
			h.add(&all[i].total[class])
		}
		if h.count == 0 {
			continue
		}
		counter(ch, requestsDesc, h.count, l.listener, l.route, r.cluster, name)
		h.collect(ch, durationDesc, totalBounds[:], l.listener, l.route, r.cluster, name)
	}
}

func (s *share) collect(ch chan<- prometheus.Metric) {
	var inFlight int64
	var h tally
	all := s.shards.all()
	for i := range all {
		inFlight += all[i].inFlight.Load()
		h.add(&all[i].added)
	}
	gauge(ch, inFlightDesc, float64(inFlight), s.labels.listener, s.labels.route)
	if h.count > 0 {
		h.collect(ch, addedDesc, addedBounds[:], s.labels.listener, s.labels.route)
	}
}

func (p *Port) collect(ch chan<- prometheus.Metric) {
	counter(ch, acceptedDesc, p.accepted.Load(), p.key)
	gauge(ch, activeDesc, float64(p.active.Load()), p.key)
	p.rejected.collect(ch, rejectedDesc, p.key)
	p.malformed.collect(ch, malformedDesc, p.key)
	if all := p.certificates.Load(); all != nil {
		for _, c := range *all {
			gauge(ch, certificateExpiryDesc, float64(c.NotAfter.Unix()), c.Listener, c.Name)
			if c.StapleUntil != nil {
				until := 0.0
				if at := c.StapleUntil(); !at.IsZero() {
					until = float64(at.Unix())
				}
				gauge(ch, stapleExpiryDesc, until, c.Listener, c.Name)
			}
		}
	}
}

func (e *Endpoint) collect(ch chan<- prometheus.Metric) {
	gauge(ch, endpointHealthyDesc, truth(e.Healthy), e.Cluster, e.Address)
	gauge(ch, endpointDrainingDesc, truth(e.Draining), e.Cluster, e.Address)
	gauge(ch, endpointInFlightDesc, float64(e.InFlight), e.Cluster, e.Address)
	gauge(ch, endpointConnectionsDesc, float64(e.Connections), e.Cluster, e.Address)
	gauge(ch, endpointIdleDesc, float64(e.Idle), e.Cluster, e.Address)
	counter(ch, endpointRequestsDesc, e.Requests, e.Cluster, e.Address)
	counter(ch, endpointFailuresDesc, e.Failures, e.Cluster, e.Address)
	counter(ch, endpointConnectFailuresDesc, e.ConnectFailures, e.Cluster, e.Address)
	for reason, n := range e.TLSFailures {
		counter(ch, endpointTLSFailuresDesc, n, e.Cluster, e.Address, reason)
	}
	for reason, n := range e.Ejections {
		counter(ch, endpointEjectionsDesc, n, e.Cluster, e.Address, reason)
	}
	if e.ChecksPassed+e.ChecksFailed > 0 {
		counter(ch, endpointChecksDesc, e.ChecksPassed, e.Cluster, e.Address, "passed")
		counter(ch, endpointChecksDesc, e.ChecksFailed, e.Cluster, e.Address, "failed")
	}
}

func (b *Circuit) collect(ch chan<- prometheus.Metric) {
	gauge(ch, queueLengthDesc, float64(b.Queued), b.Cluster)
	ch <- prometheus.MustNewConstSummary(queueWaitDesc, b.Waits, b.Waited.Seconds(), nil, b.Cluster)
	for reason, n := range b.Refused {
		counter(ch, circuitOpenDesc, n, b.Cluster, reason)
	}
	if b.MaxInFlight > 0 {
		gauge(ch, maxInFlightDesc, float64(b.MaxInFlight), b.Cluster)
	}
	if b.MinLatency > 0 {
		gauge(ch, minLatencyDesc, b.MinLatency.Seconds(), b.Cluster)
	}
}

func collectOverload(ch chan<- prometheus.Metric, s *overload.State) {
	for resource, p := range s.Pressure {
		gauge(ch, pressureDesc, p, resource)
	}
	gauge(ch, shedRatioDesc, s.ShedRatio)
	for priority, by := range s.Shed {
		for resource, n := range by {
			counter(ch, shedDesc, n, priority, resource)
		}
	}
}

func (r *reasons) collect(ch chan<- prometheus.Metric, d *prometheus.Desc, labels ...string) {
	counts := r.counts.Load()
	if counts == nil {
		return
	}
	for reason, n := range *counts {
		counter(ch, d, n.Load(), append(slices.Clip(labels), reason)...)
	}
}

// tally is a histogram's sum over its shards.
type tally struct {
	sum     int64
	count   uint64
	buckets [len(totalBounds) + 1]uint64
}

func (t *tally) add(p *atomic.Pointer[histogram]) {
	h := p.Load()
	if h == nil {
		return
	}
	t.sum += h.sum.Load()
	for i := range h.buckets {
		n := h.buckets[i].Load()
		t.buckets[i] += n
		t.count += n
	}
}

func (t *tally) collect(ch chan<- prometheus.Metric, d *prometheus.Desc, bounds []int64, labels ...string) {
	cumulative := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, bound := range bounds {
		n += t.buckets[i]
		cumulative[time.Duration(bound).Seconds()] = n
	}
	ch <- prometheus.MustNewConstHistogram(d, t.count, time.Duration(t.sum).Seconds(), cumulative, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// snapshots are the times of compiling and swapping: rare enough for
// Prometheus' own types.
type snapshots struct {
	compile prometheus.Histogram
	swaps   prometheus.Counter

	mu   sync.Mutex
	last time.Time
}

func newSnapshots(registry *prometheus.Registry) *snapshots {
	s := &snapshots{
		compile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "headgate_compile_duration_seconds",
			Help:    "Time from objects to a snapshot and statuses.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 4, 9),
		}),
		swaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_snapshots_applied_total",
			Help: "Snapshots that were made the one that serves.",
		}),
	}
	registry.MustRegister(s.compile, s.swaps, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "headgate_snapshot_age_seconds",
		Help: "Time since the snapshot that serves was applied; 0 before the first.",
	}, s.age))
	return s
}

func (s *snapshots) applied(now time.Time) {
	s.swaps.Inc()
	s.mu.Lock()
	s.last = now
	s.mu.Unlock()
}

func (s *snapshots) age() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() {
		return 0
	}
	return time.Since(s.last).Seconds()
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "headgate_build_info", Help: "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	g.Set(1)
	return g
}
