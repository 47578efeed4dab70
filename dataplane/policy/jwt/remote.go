package jwt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/policy"
)

const (
	// minRefresh is the least time between fetches that tokens cause.
	minRefresh = 10 * time.Second
	// maxWait bounds how long a request waits for keys.
	maxWait = time.Second
	// fetchTimeout bounds a fetch.
	fetchTimeout = 5 * time.Second
	// maxBackoff bounds the pause after failed fetches, which begins with minBackoff.
	minBackoff, maxBackoff = time.Second, 30 * time.Second
	// maxKeySet bounds a key set's text, in bytes.
	maxKeySet = 1 << 20
)

// remote is a key set at a URL. One goroutine fetches it, again and again, and
// sooner if a token names a key that it lacks. What was fetched last and could
// be read stays in use while fetching fails.
type remote struct {
	url    string
	every  time.Duration
	client *http.Client
	log    logr.Logger
	set    atomic.Pointer[keySet]
	text   []byte // what set was read from; run's own
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	fetching bool
	fetched  time.Time     // when the last fetch ended
	round    chan struct{} // closed when the next fetch ends
}

func newRemote(env *policy.Env, url string, every time.Duration) *remote {
	ctx, cancel := context.WithCancel(env.Context)
	r := &remote{
		url: url, every: every, client: env.HTTP, log: env.Log.WithValues("url", url),
		wake: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{}),
		fetching: true, round: make(chan struct{}),
	}
	go r.run(ctx)
	return r
}

// Close ends the goroutine. policy.State calls it with the last user.
func (r *remote) Close() {
	r.cancel()
	<-r.ended
}

func (r *remote) current() *keySet { return r.set.Load() }

// lookup waits for a fetch if the key is not known, at most maxWait.
func (r *remote) lookup(kid string) (*keySet, error) {
	set := r.set.Load()
	if set != nil && set.has(kid) {
		return set, nil
	}
	if round := r.ask(); round != nil {
		timer := time.NewTimer(maxWait)
		select {
		case <-round:
		case <-timer.C:
		case <-r.ended:
		}
		timer.Stop()
		set = r.set.Load()
	}
	if set == nil {
		return nil, errNoKeys
	}
	return set, nil
}

// ask asks for a fetch and returns what is closed when it ended, or nil if the
// last one is too recent.
func (r *remote) ask() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fetching {
		if time.Since(r.fetched) < minRefresh {
			return nil
		}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return r.round
}

func (r *remote) run(ctx context.Context) {
	defer close(r.ended)
	backoff := minBackoff
	for {
		err := r.fetch(ctx)
		r.mu.Lock()
		r.fetching, r.fetched = false, time.Now()
		close(r.round)
		r.round = make(chan struct{})
		r.mu.Unlock()

		pause := r.every
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.log.Error(err, "cannot fetch the key set", "kept", r.set.Load() != nil, "again", backoff.String())
			pause = min(backoff, r.every)
			backoff = min(2*backoff, maxBackoff)
		default:
			backoff = minBackoff
			// Up to a tenth earlier, so that many processes do not ask at once.
			pause -= rand.N(r.every/10 + 1)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.fetching = true
		r.mu.Unlock()
	}
}

func (r *remote) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return err
	}
	if len(text) > maxKeySet {
		return errors.New("the key set is larger than 1 MiB")
	}
	if bytes.Equal(text, r.text) {
		return nil // the set knows tokens that it has verified
	}
	set, err := parseKeys(text)
	if err != nil {
		return err
	}
	// Whoever answers at a URL must not be able to hand out a shared secret.
	for i := range set.keys {
		if _, shared := set.keys[i].public.([]byte); shared {
			return errors.New("the key set holds a shared secret")
		}
	}
	r.set.Store(set)
	r.text = text
	return nil
}
