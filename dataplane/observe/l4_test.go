package observe

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConnectionLines(t *testing.T) {
	start := time.Date(2026, 11, 23, 20, 38, 18, 123456789, time.UTC)
	full := Connection{
		Start: start, Protocol: "TLS", Remote: netip.MustParseAddrPort("[2001:db8::1]:4567"), ServerName: "shop \"x\".example.com",
		Listener: "shop/edge/tls", Route: "TLSRoute/shop/orders", Cluster: "Service/shop/orders/443", Endpoint: "10.0.0.7:8443",
		Received: 7, Sent: 42, Duration: 2 * time.Millisecond, Wait: 1500 * time.Microsecond, Reason: "client_reset",
	}
	refused := Connection{Start: start, Protocol: "TCP", Remote: netip.MustParseAddrPort("192.0.2.9:4567"), Listener: "shop/edge/db", Reason: "no_route"}
	for _, tt := range []struct {
		c          Connection
		json, text string
	}{
		{full,
			`{"time":"2026-11-23T20:38:18.123456Z","remote":"[2001:db8::1]:4567","client":"2001:db8::1","protocol":"TLS",` +
				`"server_name":"shop \"x\".example.com","received_bytes":7,"sent_bytes":42,"duration_us":2000,"upstream_wait_us":1500,` +
				`"listener":"shop/edge/tls","route":"TLSRoute/shop/orders","cluster":"Service/shop/orders/443","endpoint":"10.0.0.7:8443","reason":"client_reset"}`,
			`2001:db8::1 - - [23/Nov/2026:20:38:18 +0000] "TLS shop\x20\x22x\x22.example.com -" 0 42 "-" "-" received=7 ` +
				`listener=shop/edge/tls route=TLSRoute/shop/orders cluster=Service/shop/orders/443 endpoint=10.0.0.7:8443 us=2000 upstream_wait_us=1500 reason=client_reset`},
		{refused,
			`{"time":"2026-11-23T20:38:18.123456Z","remote":"192.0.2.9:4567","client":"192.0.2.9","protocol":"TCP",` +
				`"received_bytes":0,"sent_bytes":0,"duration_us":0,"upstream_wait_us":0,"listener":"shop/edge/db","reason":"no_route"}`,
			`192.0.2.9 - - [23/Nov/2026:20:38:18 +0000] "TCP - -" 0 0 "-" "-" received=0 ` +
				`listener=shop/edge/db route=- cluster=- endpoint=- us=0 upstream_wait_us=0 reason=no_route`},
	} {
		if diff := cmp.Diff(tt.json+"\n", string(tt.c.appendJSON(nil))); diff != "" {
			t.Errorf("JSON (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tt.text+"\n", string(tt.c.appendText(nil))); diff != "" {
			t.Errorf("text (-want +got):\n%s", diff)
		}
	}
	(*AccessLog)(nil).LogConnection(&full)
}

func TestConnectionsAreCounted(t *testing.T) {
	m := NewMetrics("test")
	labels := RouteLabels{Listener: "shop/edge/db", Route: "TCPRoute/shop/db", Cluster: "Service/shop/db/5432"}
	a, b := m.L4(labels), m.L4(labels)
	if a != b {
		t.Fatal("two handles for the same labels")
	}
	unused := m.L4(RouteLabels{Listener: "shop/edge/db"})
	defer unused.Release()
	a.Begin()
	a.Begin()
	a.Begin()
	a.Received(7)
	a.Sent(40)
	a.Sent(2)
	a.Done("")
	a.Done("idle_timeout")
	a.Refused("connect_refused")
	series := func() (all []string) {
		for line := range scrape(t, m) {
			if strings.HasPrefix(line, "headgate_l4_") {
				all = append(all, line)
			}
		}
		return all
	}
	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_l4_connections_active{} 1`,
		`headgate_l4_received_bytes_total{} 7`,
		`headgate_l4_sent_bytes_total{} 42`,
		`headgate_l4_connections_total{reason="ended"} 1`,
		`headgate_l4_connections_total{reason="idle_timeout"} 1`,
		`headgate_l4_connections_total{reason="connect_refused"} 1`,
	} {
		if !lines[want] {
			t.Errorf("missing %s in %q", want, series())
		}
	}
	if n := len(series()); n != 6 {
		t.Errorf("%d series, want 6: what was never used has none", n)
	}
	a.Release()
	if n := len(series()); n != 6 {
		t.Errorf("%d series after the first release, want 6", n)
	}
	b.Release()
	if n := len(series()); n != 0 {
		t.Errorf("%d series after the last release", n)
	}
}
