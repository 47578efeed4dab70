package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

//go:embed conf
var conf embed.FS

// settings fill in the templates in conf.
type settings struct {
	Dir string
	// Addresses of the listeners: HTTP/1.1, HTTP/2 without and HTTP/1.1 with
	// TLS, and TCP, which goes to the echo backend.
	HTTP, H2C, HTTPS, TCP string
	backends
	Host, APIKey string
	// Hosts and Paths are other routes beside those that are asked for, so that
	// there is something to choose among.
	Hosts, Paths []string
	// Workers is how many requests a limited backend serves at a time, AtOnce how many
	// others have under overload. QueueLength is how many requests wait for any of the
	// backends, for QueueTimeout at most, where they are served in turn; and LongQueue
	// where the newest goes first, so that a queue can be as long as the time allows.
	Workers, AtOnce, QueueLength, LongQueue int
	QueueTimeout                            time.Duration
	// Certificate and Key are PEM; also in the folder as cert.pem, key.pem and both.pem.
	Certificate, Key string
}

func newSettings(dir string) (settings, error) {
	s := settings{Dir: dir, Host: host, APIKey: apiKey, Workers: limitedWorkers, AtOnce: 16, QueueLength: 200, LongQueue: 1000, QueueTimeout: deadline - 50*time.Millisecond}
	for _, address := range []*string{&s.HTTP, &s.H2C, &s.HTTPS, &s.TCP} {
		var err error
		if *address, err = freeAddress(); err != nil {
			return s, err
		}
	}
	for i := range 10 {
		s.Hosts = append(s.Hosts, fmt.Sprintf("tenant-%d.example.com", i))
		s.Paths = append(s.Paths, fmt.Sprintf("/section-%d", i))
	}
	var err error
	if s.Certificate, s.Key, err = certificate(); err != nil {
		return s, err
	}
	for name, text := range map[string]string{"cert.pem": s.Certificate, "key.pem": s.Key, "both.pem": s.Certificate + s.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Deep is what a limited backend serves at a time, and its share of the queue.
func (s *settings) Deep() int { return s.Workers + s.QueueLength/len(s.Limited) }

// certificate makes a key on the curve P-256 and signs it with itself.
func certificate() (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return "", "", err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: plain})), nil
}

// write fills a template in and returns the file's path.
func (s *settings) write(name string) (string, error) {
	t, err := template.New(name).Funcs(template.FuncMap{
		"port": func(address string) (string, error) {
			_, port, err := net.SplitHostPort(address)
			return port, err
		},
		"base64": func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
	}).ParseFS(conf, "conf/"+name)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, out.Bytes(), 0o644)
}
