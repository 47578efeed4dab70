package pipeline

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestForwarding(t *testing.T) {
	trusting := &snapshot.Client{TrustedProxies: []string{"192.0.2.0/24", "2001:db8::/32"}}
	tests := []struct {
		name     string
		client   *snapshot.Client
		remote   string
		fields   []string
		clientIP string
		want     []string // lines that the backend must see
		not      []string // texts that it must not
	}{
		{
			"plain", nil, "198.51.100.7:1", nil, "198.51.100.7",
			[]string{"X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: example.com:81", "X-Forwarded-Port: 8080", "Via: 1.1 headgate"},
			[]string{"Forwarded: ", "X-Real-IP"},
		},
		{
			"an untrusted client's words are replaced", trusting, "198.51.100.7:1",
			[]string{"X-Forwarded-For: 1.2.3.4", "x-forwarded-proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1", "X-Real-IP: 1.2.3.4", "Forwarded: for=1.2.3.4;host=evil"},
			"198.51.100.7",
			[]string{"X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: example.com:81", "X-Forwarded-Port: 8080", `Forwarded: for=198.51.100.7;proto=http;host="example.com:81"`},
			[]string{"1.2.3.4", "evil"},
		},
		{
			"a trusted proxy's words are kept", trusting, "192.0.2.9:1",
			[]string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop", "X-Forwarded-Port: 443", "X-Real-IP: 1.2.3.4"},
			"1.2.3.4",
			[]string{"X-Forwarded-For: 1.2.3.4, 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop", "X-Forwarded-Port: 443", "X-Real-IP: 1.2.3.4"},
			nil,
		},
		{
			"rightmost untrusted", trusting, "192.0.2.9:1",
			[]string{"X-Forwarded-For: 6.6.6.6, 5.5.5.5", "X-Forwarded-For: 192.0.2.1"}, "5.5.5.5",
			[]string{"X-Forwarded-For: 6.6.6.6, 5.5.5.5, 192.0.2.1, 192.0.2.9"}, nil,
		},
		{
			"behind what cannot be read is hearsay", trusting, "192.0.2.9:1",
			[]string{"X-Forwarded-For: 5.5.5.5, unknown, 192.0.2.1"}, "192.0.2.1", nil, nil,
		},
		{"nothing that can be read", trusting, "192.0.2.9:1", []string{"X-Forwarded-For: unknown"}, "192.0.2.9", nil, nil},
		{"all are trusted", trusting, "192.0.2.9:1", []string{"X-Forwarded-For: 192.0.2.1, 192.0.2.2"}, "192.0.2.1", nil, nil},
		{"with ports", trusting, "192.0.2.9:1", []string{"X-Forwarded-For: 5.5.5.5:80, [2001:db8::1]:80"}, "5.5.5.5", nil, nil},
		{
			"Forwarded", trusting, "[2001:db8::9]:1",
			[]string{`Forwarded: for="[2001:db9::5]:4711";proto=https;by="a,b;for=1.1.1.1", For=192.0.2.1`}, "2001:db9::5",
			[]string{`Forwarded: for="[2001:db9::5]:4711";proto=https;by="a,b;for=1.1.1.1", For=192.0.2.1, for="[2001:db8::9]";proto=http;host="example.com:81"`}, nil,
		},
		{
			"X-Forwarded-For goes before Forwarded", trusting, "192.0.2.9:1",
			[]string{"Forwarded: for=6.6.6.6", "X-Forwarded-For: 5.5.5.5"}, "5.5.5.5", nil, nil,
		},
		{"4 in 6", trusting, "[::ffff:192.0.2.9]:1", []string{"X-Forwarded-For: ::ffff:5.5.5.5"}, "5.5.5.5",
			[]string{"X-Forwarded-For: ::ffff:5.5.5.5, 192.0.2.9"}, nil},
		{
			"hop by hop", nil, "198.51.100.7:1",
			[]string{"Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: 5", "Proxy-Authorization: secret", "TE: gzip", "Stays: 1"},
			"198.51.100.7",
			[]string{"Stays: 1"}, []string{"X-Hop", "Keep-Alive", "Proxy-Authorization", "TE: ", "Connection"},
		},
		{
			"who nominates our fields does not lose them", nil, "198.51.100.7:1",
			[]string{"Connection: X-Forwarded-For, Via, X-Request-ID", "X-Forwarded-For: 1.1.1.1"},
			"198.51.100.7", []string{"X-Forwarded-For: 198.51.100.7", "Via: 1.1 headgate"}, nil,
		},
		{"earlier proxies", nil, "198.51.100.7:1", []string{"Via: 1.0 fred"}, "198.51.100.7", []string{"Via: 1.0 fred", "Via: 1.1 headgate"}, nil},
		{"a client's word on its certificate", nil, "198.51.100.7:1", []string{"X-Forwarded-Client-Cert: Hash=0"}, "198.51.100.7", nil, []string{"Client-Cert", "Hash"}},
		{
			"a trusted proxy's word on its client's certificate", trusting, "192.0.2.9:1", []string{"x-forwarded-client-cert: Hash=0"}, "192.0.2.9",
			[]string{"X-Forwarded-Client-Cert: Hash=0"}, nil,
		},
		{"request ID", nil, "198.51.100.7:1", []string{"X-Request-ID: abc-123"}, "198.51.100.7", []string{"X-Request-ID: abc-123"}, nil},
		{"odd request ID", nil, "198.51.100.7:1", []string{"X-Request-ID: abc 123"}, "198.51.100.7", []string{"X-Request-ID: "}, []string{"abc 123"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.listen(&snapshot.Listener{Key: gateway, Port: 8080, Client: tt.client})
			b.host(gateway, "*", to("a"))
			b.must()
			ex := request("GET /", append(tt.fields, "Host: example.com:81")...)
			ex.Conn.Remote = netip.MustParseAddrPort(tt.remote)
			b.Serve(ex)
			if ex.ClientIP.String() != tt.clientIP {
				t.Errorf("client %v, want %s", ex.ClientIP, tt.clientIP)
			}
			if via := ex.Response.Fields.Value(exchange.KeyVia); via != "1.1 headgate" {
				t.Errorf("Via of the response: %q", via)
			}
			if len(ex.RequestID) == 0 {
				t.Error("no request ID")
			}
			b.Done(ex, nil)
			got := b.fakes["a"].seen()[0] + "\n"
			for _, line := range tt.want {
				if !strings.Contains(got, "\n"+line) {
					t.Errorf("missing %q in\n%s", line, got)
				}
			}
			for _, text := range tt.not {
				if strings.Contains(got, text) {
					t.Errorf("%q is in\n%s", text, got)
				}
			}
			for _, name := range []string{"\nX-Forwarded-For:", "\nX-Forwarded-Host:", "\nX-Request-ID:"} {
				if strings.Count(got, name) != 1 {
					t.Errorf("%d lines of %s in\n%s", strings.Count(got, name), name, got)
				}
			}
		})
	}
}

// What is known of the client's certificate stands last, after what trusted
// proxies say of those before.
func TestForwardedClientCert(t *testing.T) {
	for said, want := range map[string]string{"": "Hash=1;DNS=a", "Hash=0": "Hash=0,Hash=1;DNS=a"} {
		b := newBench(t)
		b.listen(&snapshot.Listener{Key: gateway, Port: 443, TLS: &snapshot.TLS{}, Client: &snapshot.Client{TrustedProxies: []string{"0.0.0.0/0", "::/0"}}})
		b.host(gateway, "*", to("a"))
		b.must()
		ex := request("GET /", "Host: example.com")
		if said != "" {
			ex = request("GET /", "Host: example.com", "X-Forwarded-Client-Cert: "+said)
		}
		ex.Conn.TLS = &exchange.TLS{Listener: gateway, ForwardedCert: "Hash=1;DNS=a"}
		b.Serve(ex)
		b.Done(ex, nil)
		if got := b.fakes["a"].seen()[0] + "\n"; !strings.Contains(got, "\nX-Forwarded-Client-Cert: "+want+"\n") {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

func FuzzClient(f *testing.F) {
	f.Add("1.2.3.4, [2001:db8::1]:80, unknown", `for="[2001:db8::1]:4711";by="a\",b", for=_hidden;proto=https`)
	f.Add(",,", `for=";for="`)
	l := &listener{trusted: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("::/0")}}
	f.Fuzz(func(t *testing.T, xff, forwarded string) {
		ex := request("GET /", "X-Forwarded-For: "+xff, "Forwarded: "+forwarded)
		addr := l.client(ex, true)
		if !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" {
			t.Errorf("client %v", addr)
		}
		if got := l.client(ex, false); got != ex.Conn.Remote.Addr() {
			t.Errorf("untrusted: %v", got)
		}
	})
}
