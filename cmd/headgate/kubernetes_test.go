package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/observe"
)

func TestClusterDomain(t *testing.T) {
	for text, want := range map[string]string{
		"search shop.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\n": "cluster.local",
		"nameserver 10.0.0.1\nsearch shop.svc.c.example. svc.c.example. c.example.\n":                        "c.example",
		"search example.com\n": "",
		"":                     "",
	} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := clusterDomain(file); got != want {
			t.Errorf("%q: the domain is %q, want %q", text, got, want)
		}
	}
	if got := clusterDomain(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("without a file the domain is %q", got)
	}
}

// Without an API server it serves nothing, and says so, until there is one: it
// does not end.
func TestNoAPIServer(t *testing.T) {
	var answers atomic.Value
	answers.Store(http.StatusServiceUnavailable)
	asked := make(chan struct{}, 100)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		w.WriteHeader(answers.Load().(int))
	}))
	defer api.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n", api.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := newServeOptions()
	o.cluster.kubeconfig = kubeconfig
	k, err := newKubernetes(o, observe.NewMetrics(""), logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- k.connect(ctx) }()
	for range 2 {
		select {
		case <-asked:
		case err := <-ended:
			t.Fatalf("it gave up: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("it does not ask again")
		}
	}
	if why := k.waiting(); !strings.Contains(why, "the API server cannot be reached") {
		t.Errorf("it waits for %q", why)
	}
	// One that answers, and has no CRDs.
	answers.Store(http.StatusOK)
	for deadline := time.Now().Add(time.Minute); strings.Contains(k.waiting(), "cannot be reached"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it waits for %q", k.waiting())
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
