package observe

import (
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// L4 counts the connections, or flows of datagrams, of one listener, route and
// cluster that are passed on unread. It is safe for concurrent use.
type L4 struct {
	labels         RouteLabels
	active         atomic.Int64
	received, sent atomic.Uint64
	begun          atomic.Bool // at least once
	over           reasons
	m              *Metrics
	users          int // guarded by m.mu
}

// L4 returns the handle for these labels. Every handle that was got is given
// back with Release.
func (m *Metrics) L4(labels RouteLabels) *L4 {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.l4[labels]
	if l == nil {
		l = &L4{labels: labels, m: m}
		m.l4[labels] = l
	}
	l.users++
	return l
}

// Release gives the handle back. Open connections may still use it.
func (l *L4) Release() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(l.m.l4, l.labels)
	}
}

// Begin counts a connection or flow that goes to an endpoint.
func (l *L4) Begin() {
	l.begun.Store(true)
	l.active.Add(1)
}

// Received counts bytes from the client that the endpoint was sent.
func (l *L4) Received(bytes int64) { l.received.Add(uint64(bytes)) }

// Sent counts bytes from the endpoint that the client was sent.
func (l *L4) Sent(bytes int64) { l.sent.Add(uint64(bytes)) }

// Done counts one that is over and had begun, by why it is; "" means that it
// ended well.
func (l *L4) Done(reason string) {
	l.active.Add(-1)
	l.Refused(reason)
}

// Refused counts one that never began.
func (l *L4) Refused(reason string) {
	if reason == "" {
		reason = "ended"
	}
	l.over.count(reason)
}

var (
	l4ConnectionsDesc = desc("l4_connections_total",
		"Connections and flows of datagrams passed on unread that are over, by why.",
		"listener", "route", "cluster", "reason")
	l4ActiveDesc = desc("l4_connections_active",
		"Connections and flows of datagrams that are passed on unread.",
		"listener", "route", "cluster")
	l4ReceivedDesc = desc("l4_received_bytes_total",
		"Bytes that were received from clients and passed on unread.",
		"listener", "route", "cluster")
	l4SentDesc = desc("l4_sent_bytes_total",
		"Bytes that were sent to clients as endpoints sent them.",
		"listener", "route", "cluster")
)

func (l *L4) collect(ch chan<- prometheus.Metric) {
	at := []string{l.labels.Listener, l.labels.Route, l.labels.Cluster}
	l.over.collect(ch, l4ConnectionsDesc, at...)
	if l.begun.Load() {
		gauge(ch, l4ActiveDesc, float64(l.active.Load()), at...)
		counter(ch, l4ReceivedDesc, l.received.Load(), at...)
		counter(ch, l4SentDesc, l.sent.Load(), at...)
	}
}

// Connection is a connection, or a flow of datagrams, that was passed on unread
// and is over.
type Connection struct {
	Start time.Time
	// Protocol is the listener's: "TCP", "TLS" or "UDP".
	Protocol string
	Remote   netip.AddrPort
	// ServerName is what the client of a TLS listener asked for.
	ServerName string
	// Listener, Route and Cluster are as in RouteLabels, Endpoint is "ip:port";
	// "" for what was not found.
	Listener, Route, Cluster, Endpoint string
	// Received and Sent count the bytes from the client and to it.
	Received, Sent int64
	// Duration is from Start to the end, Wait the part of it that connecting took.
	Duration, Wait time.Duration
	// Reason is why it ended, "" if it ended well.
	Reason string
}

// LogConnection writes the line of a connection or flow that is over. It keeps
// nothing of c.
func (l *AccessLog) LogConnection(c *Connection) {
	if l == nil {
		return
	}
	line := l.lines.Get().(*[]byte)
	if l.format == Text {
		*line = c.appendText((*line)[:0])
	} else {
		*line = c.appendJSON((*line)[:0])
	}
	l.add(*line)
	if cap(*line) <= maxLine {
		l.lines.Put(line)
	}
}

// appendJSON appends an object and a newline. Empty values are left out.
func (c *Connection) appendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = c.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","remote":"`...)
	b = c.Remote.AppendTo(b)
	b = append(b, `","client":"`...)
	b = c.Remote.Addr().AppendTo(b)
	b = append(b, '"')
	b = jsonString(b, "protocol", c.Protocol)
	b = jsonString(b, "server_name", c.ServerName)
	b = jsonInt(b, "received_bytes", c.Received)
	b = jsonInt(b, "sent_bytes", c.Sent)
	b = jsonInt(b, "duration_us", c.Duration.Microseconds())
	b = jsonInt(b, "upstream_wait_us", c.Wait.Microseconds())
	b = jsonString(b, "listener", c.Listener)
	b = jsonString(b, "route", c.Route)
	b = jsonString(b, "cluster", c.Cluster)
	b = jsonString(b, "endpoint", c.Endpoint)
	b = jsonString(b, "reason", c.Reason)
	return append(b, "}\n"...)
}

// appendText appends a line that begins as that of a request does, with the
// protocol as its method and the server name as its path, and a newline.
func (c *Connection) appendText(b []byte) []byte {
	b = c.Remote.Addr().AppendTo(b)
	b = append(b, " - - ["...)
	b = c.Start.AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = append(b, c.Protocol...)
	b = append(b, ' ')
	b = textWord(b, c.ServerName)
	b = append(b, ` -" 0 `...)
	b = strconv.AppendInt(b, c.Sent, 10)
	b = append(b, ` "-" "-" received=`...)
	b = strconv.AppendInt(b, c.Received, 10)
	for _, pair := range [...][2]string{{"listener", c.Listener}, {"route", c.Route}, {"cluster", c.Cluster}, {"endpoint", c.Endpoint}} {
		b = append(append(append(b, ' '), pair[0]...), '=')
		b = textWord(b, pair[1])
	}
	b = append(b, " us="...)
	b = strconv.AppendInt(b, c.Duration.Microseconds(), 10)
	b = append(b, " upstream_wait_us="...)
	b = strconv.AppendInt(b, c.Wait.Microseconds(), 10)
	b = append(b, " reason="...)
	b = textWord(b, c.Reason)
	return append(b, '\n')
}
