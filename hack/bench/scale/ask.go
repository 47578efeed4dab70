package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// target is a request and the answer that is right.
type target struct {
	host, path, mark string
}

// asker asks a listener.
type asker struct {
	url    string
	client *http.Client
}

// newAsker asks over connections of its own, with TLS if the scheme is https.
func newAsker(scheme, address string) *asker {
	return &asker{url: scheme + "://", client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // of our own making
		MaxIdleConnsPerHost: 1,
	}}}
}

func (a *asker) close() { a.client.CloseIdleConnections() }

// get returns the status, and of the echo's answer who it is and the mark.
func (a *asker) get(t target) (status int, echo, mark string, err error) {
	request, err := http.NewRequest(http.MethodGet, a.url+t.host+t.path, nil)
	if err != nil {
		return 0, "", "", err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return 0, "", "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	echo, mark, _ = strings.Cut(string(body), " ")
	return response.StatusCode, echo, mark, err
}

// right is an error unless the answer is.
func (a *asker) right(t target) error {
	status, _, mark, err := a.get(t)
	if err == nil && (status != http.StatusOK || mark != t.mark) {
		err = fmt.Errorf("%s%s was answered %d by route %q, want %q", t.host, t.path, status, mark, t.mark)
	}
	return err
}

// traffic asks for what is served, one request after the other, until it is
// stopped, and counts the answers that are not right.
type traffic struct {
	stop     context.CancelFunc
	done     chan struct{}
	requests int
	wrong    int
	first    error
}

// begin starts traffic, about rate requests a second. next returns what to ask
// for; right says whether the answer is.
func begin(ctx context.Context, address string, rate int, right func(*asker) error) *traffic {
	ctx, cancel := context.WithCancel(ctx)
	t := &traffic{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		a := newAsker("http", address)
		defer a.close()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			t.requests++
			if err := right(a); err != nil {
				t.wrong++
				if t.first == nil {
					t.first = err
				}
			}
		}
	}()
	return t
}

// end stops the traffic and says what came of it.
func (t *traffic) end(w *world) string {
	t.stop()
	<-t.done
	w.failed += t.wrong
	text := fmt.Sprintf("%d requests meanwhile, %d failed or wrong", t.requests, t.wrong)
	if t.first != nil {
		text += fmt.Sprintf(" (%v)", t.first)
	}
	return text
}

// latencies are sorted when they are printed.
type latencies []time.Duration

func (l latencies) String() string {
	if len(l) == 0 {
		return "none"
	}
	slices.Sort(l)
	sum := time.Duration(0)
	for _, d := range l {
		sum += d
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("mean %.1f ms, p50 %.1f, p99 %.1f, max %.1f (%d)", ms(sum/time.Duration(len(l))), ms(l[len(l)/2]), ms(l[len(l)*99/100]), ms(l[len(l)-1]), len(l))
}
