package protocols

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEdgeSample serves config/samples/edge, and uses each of its listeners as
// docs/tls.md says.
func TestEdgeSample(t *testing.T) {
	curl := installed(t, "curl")
	installed(t, "openssl")
	sample, made := filepath.Join("..", "..", "config", "samples", "edge"), t.TempDir()
	if out, err := exec.Command(filepath.Join(sample, "certificates"), made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pem := func(name string) string { return filepath.Join(made, name+".pem") }

	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Host, r.Header.Get("X-Forwarded-Client-Cert"))
	}))
	t.Cleanup(web.Close)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	greeter := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "0")
	}))
	greeter.Config.Protocols = protocols
	greeter.Start()
	t.Cleanup(greeter.Close)
	chain, err := tls.LoadX509KeyPair(pem("mqtt"), pem("mqtt.key"))
	if err != nil {
		t.Fatal(err)
	}

	// The sample's ports and addresses become those of the test.
	edge := map[string]string{}
	replace := []string{"192.0.2.", "127.0.0."}
	for _, port := range []string{"8443", "8444", "8883", "2525", "5353"} {
		edge[port] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		replace = append(replace, "port: "+port, "port: "+edge[port][len("127.0.0.1:"):])
	}
	for backend, ln := range map[string]net.Addr{
		"ip: 192.0.2.10\n      port: 8080":  web.Listener.Addr(),
		"ip: 192.0.2.20\n      port: 50051": greeter.Listener.Addr(),
		"ip: 192.0.2.30\n      port: 5432":  echoTCP(t, &tls.Config{Certificates: []tls.Certificate{chain}}),
		"ip: 192.0.2.40\n      port: 1883":  echoTCP(t, nil),
		"ip: 192.0.2.50\n      port: 25":    echoTCP(t, nil),
		"ip: 192.0.2.51\n      port: 25":    echoTCP(t, nil),
		"ip: 192.0.2.60\n      port: 53":    echoUDP(t),
	} {
		_, port, _ := net.SplitHostPort(ln.String())
		replace = append([]string{backend, "ip: 127.0.0.1\n      port: " + port}, replace...)
	}
	h := &headgate{folder: t.TempDir()}
	files, err := filepath.Glob(filepath.Join(sample, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, filepath.Join(made, "secrets.yaml")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h.write(t, filepath.Base(file), strings.NewReplacer(replace...).Replace(string(text)))
	}
	h.run(t)
	for _, port := range []string{"8443", "8444", "8883", "2525"} {
		awaitThat(t, "a listener for "+port, func() bool {
			nc, err := net.Dial("tcp", edge[port])
			if err == nil {
				nc.Close()
			}
			return err == nil
		})
	}

	ask := func(host, port string, args ...string) (string, error) {
		_, bound, _ := net.SplitHostPort(edge[port])
		args = append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "30", "--cacert", pem("ca"),
			"--connect-to", fmt.Sprintf("%s:%s:127.0.0.1:%s", host, port, bound)}, args...)
		out, err := exec.Command(curl, append(args, fmt.Sprintf("https://%s:%s/", host, port))...).CombinedOutput()
		return string(out), err
	}
	partner := []string{"--cert", pem("partner"), "--key", pem("partner.key")}
	www := []string{"--cert", pem("www-ecdsa"), "--key", pem("www-ecdsa.key")}
	for _, test := range []struct {
		name, host, port string
		args             []string
		want             string // a part of the answer; "" means that there is none
	}{
		{"an ECDSA certificate", "www.example.com", "8443", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"}, "www.example.com:8443 "},
		{"an RSA certificate", "www.example.com", "8443", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"}, "www.example.com:8443 "},
		{"a cipher that is off", "www.example.com", "8443", []string{"--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-SHA"}, ""},
		{"TLS 1.1", "www.example.com", "8443", []string{"--tls-max", "1.1"}, ""},
		{"TLS 1.3", "modern.example.com", "8443", nil, "modern.example.com:8443 "},
		{"TLS 1.2 where it is off", "modern.example.com", "8443", []string{"--tls-max", "1.2"}, ""},
		{"a partner", "partners.example.com", "8444", partner, "DNS=agent.partner.example"},
		{"a partner who lies", "partners.example.com", "8444", append(partner, "-H", "X-Forwarded-Client-Cert: DNS=ceo.example.com"), "partners.example.com:8444 Hash="},
		{"nobody", "partners.example.com", "8444", nil, ""},
		{"another's certificate", "partners.example.com", "8444", www, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := ask(test.host, test.port, test.args...)
			if (err == nil) != (test.want != "") || !strings.Contains(out, test.want) || strings.Contains(out, "ceo.") {
				t.Errorf("%q %v, want %q", out, err, test.want)
			}
		})
	}

	roots := x509.NewCertPool()
	authority, err := os.ReadFile(pem("ca"))
	if err != nil || !roots.AppendCertsFromPEM(authority) {
		t.Fatal(err)
	}
	t.Run("gRPC", func(t *testing.T) {
		tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "grpc.example.com"}}
		defer tr.CloseIdleConnections()
		for path, want := range map[string]string{"/helloworld.Greeter/SayHello": "0", "/helloworld.Other/SayHello": "12"} {
			req, _ := http.NewRequest("POST", "https://"+edge["8443"]+path, strings.NewReader("\x00\x00\x00\x00\x00"))
			req.Host = "grpc.example.com"
			req.Header.Set("Content-Type", "application/grpc")
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("Grpc-Status"); got != want || resp.ProtoMajor != 2 {
				t.Errorf("%s: status %q over %s, want %s", path, got, resp.Proto, want)
			}
		}
	})
	for name, dial := range map[string]func() (net.Conn, error){
		// The database has the certificate of another name, which nobody but the client minds.
		"passthrough": func() (net.Conn, error) {
			return tls.Dial("tcp", edge["8883"], &tls.Config{ServerName: "orders.db.example.com", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
				VerifyConnection: func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname("mqtt.example.com") }})
		},
		"terminated": func() (net.Conn, error) {
			return tls.Dial("tcp", edge["8883"], &tls.Config{ServerName: "mqtt.example.com", RootCAs: roots})
		},
		"TCP": func() (net.Conn, error) { return net.Dial("tcp", edge["2525"]) },
		"UDP": func() (net.Conn, error) { return net.Dial("udp", edge["5353"]) },
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(nc, "hello\n")
			if got, err := bufio.NewReader(nc).ReadString('\n'); got != "hello\n" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

// echoTCP returns the address of a server that answers with what it gets, with
// TLS if there is a configuration.
func echoTCP(t *testing.T, secure *tls.Config) net.Addr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			if secure != nil {
				nc = tls.Server(nc, secure)
			}
			go func() {
				defer nc.Close()
				_, _ = io.Copy(nc, nc)
			}()
		}
	}()
	return ln.Addr()
}

func echoUDP(t *testing.T) net.Addr {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	return pc.LocalAddr()
}
