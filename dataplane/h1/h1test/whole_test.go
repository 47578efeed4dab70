package h1test_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/h1/h1test"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// The tables hold for the whole data plane as for the codec alone.
func TestWholeProxy(t *testing.T) {
	for _, file := range []string{"../testdata/requests.txt", "../testdata/responses.txt"} {
		cases := h1test.Load(t, file)
		for name, oneByte := range map[string]bool{"": false, " one byte at a time": true} {
			t.Run(file+name, func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				u := h1test.NewUpstream(l)
				t.Cleanup(u.Close)
				h1test.Run(t, proxyTo(t, l.Addr()), u, cases, h1test.Options{OneByte: oneByte, Ignore: added, Skip: func(c *h1test.Case) string {
					if strings.HasPrefix(c.Saw, "OPTIONS * ") {
						return "the pipeline answers it: the server that is asked is Headgate, RFC 9110 section 9.3.7"
					}
					return ""
				}})
			})
		}
	}
}

// added are the fields that the pipeline adds.
func added(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "x-forwarded-") || name == "via" || name == "x-request-id"
}

// proxyTo starts a proxy that sends everything to one address.
func proxyTo(t *testing.T, upstream net.Addr) (address string) {
	t.Helper()
	const listener, cluster = "ns/gateway/http", "upstream"
	to := upstream.(*net.TCPAddr)
	hosts := snapshot.HostKey(listener, "*")
	snap := snapshot.Snapshot{Ports: []*snapshot.Port{{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: listener, Port: 80, Protocol: "HTTP"},
	}}}}
	snap.Hosts = snap.Hosts.With(hosts, &snapshot.VirtualHost{Listener: listener, Hostname: "*", Routes: []*snapshot.Route{{
		Match: snapshot.Match{Path: snapshot.PathMatch{Type: "PathPrefix", Value: "/"}},
		Rule: &snapshot.Rule{
			Source:   snapshot.Ref{Kind: "HTTPRoute", Namespace: "ns", Name: "all", Section: "0"},
			Backends: []snapshot.Backend{{Cluster: cluster, Weight: 1}},
		},
	}}})
	snap.Clusters = snap.Clusters.With(cluster, &snapshot.Cluster{Key: cluster, Protocol: "http1"})
	snap.Endpoints = snap.Endpoints.With(cluster, &snapshot.Endpoints{
		Endpoints: []snapshot.Endpoint{{Address: to.IP.String(), Port: uint16(to.Port)}},
	})
	p := dataplane.New(dataplane.Options{BindAddresses: []string{"127.0.0.1"}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.Shutdown(ctx)
	})
	if err := p.Apply(&snap, nil); err != nil {
		t.Fatal(err)
	}
	ports := p.Ports()
	if len(ports) != 1 || ports[0].Error != "" {
		t.Fatalf("ports: %+v", ports)
	}
	return ports[0].Address
}
