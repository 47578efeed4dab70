package jwt

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// server is an issuer's web server, without a network.
type server struct {
	mu      sync.Mutex
	keys    policy.Secret
	status  int
	err     error
	delay   time.Duration
	fetches int
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.fetches++
	keys, status, err, delay := s.keys, s.status, s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(keys))), Request: r}, nil
}

func (s *server) set(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

// remotely runs a test in a bubble of synthetic time.
func remotely(t *testing.T, s *server, test func(t *testing.T, ask func(token string) (status int, took time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if s.status == 0 {
			s.status = 200
		}
		c := config()
		c.Issuers = c.Issuers[:1]
		c.Issuers[0].Keys, c.Issuers[0].URL, c.Issuers[0].CacheDuration = nil, "https://id.example.com/keys", 5*time.Minute
		env := env(t)
		env.HTTP = &http.Client{Transport: s}
		filter, err := c.Build(env)
		if err != nil {
			t.Fatal(err)
		}
		defer filter.Release() // ends the goroutine, or the bubble complains
		test(t, func(token string) (int, time.Duration) {
			start := time.Now()
			ex := request("Authorization: Bearer " + token)
			if filter.Request(ex) == exchange.Continue {
				return 200, time.Since(start)
			}
			return ex.Response.Status, time.Since(start)
		})
	})
}

func TestRemoteKeysAreAwaitedAtFirst(t *testing.T) {
	remotely(t, &server{keys: jwks("ed", edKey), delay: 300 * time.Millisecond}, func(t *testing.T, ask func(string) (int, time.Duration)) {
		if status, took := ask(sign("EdDSA", "ed", edKey, nil)); status != 200 || took != 300*time.Millisecond {
			t.Errorf("%d after %v", status, took)
		}
		if status, took := ask(sign("EdDSA", "ed", edKey, nil)); status != 200 || took != 0 {
			t.Errorf("then %d after %v", status, took)
		}
	})
}

func TestNoRequestWaitsLong(t *testing.T) {
	remotely(t, &server{keys: jwks("ed", edKey), delay: time.Hour}, func(t *testing.T, ask func(string) (int, time.Duration)) {
		for range 3 {
			if status, took := ask(sign("EdDSA", "ed", edKey, nil)); status != 503 || took > maxWait {
				t.Errorf("%d after %v", status, took)
			}
		}
	})
}

func TestWithoutKeysItFailsClosedAndRecovers(t *testing.T) {
	s := &server{err: errors.New("down")}
	remotely(t, s, func(t *testing.T, ask func(string) (int, time.Duration)) {
		token := sign("EdDSA", "ed", edKey, nil)
		if status, _ := ask(token); status != 503 {
			t.Errorf("without keys: %d", status)
		}
		s.set(func(s *server) { s.err, s.keys = nil, jwks("ed", edKey) })
		time.Sleep(2 * maxBackoff)
		if status, _ := ask(token); status != 200 {
			t.Errorf("with keys: %d", status)
		}
	})
}

func TestRotation(t *testing.T) {
	s := &server{keys: jwks("1", edKey)}
	remotely(t, s, func(t *testing.T, ask func(string) (int, time.Duration)) {
		before, after := sign("EdDSA", "1", edKey, nil), sign("EdDSA", "2", otherEdKey, nil)
		if status, _ := ask(before); status != 200 {
			t.Fatal(status)
		}
		s.set(func(s *server) { s.keys = jwks("2", otherEdKey) })
		// Too soon after the last fetch: tokens must not cause a flood of them.
		if status, took := ask(after); status != 401 || took != 0 || s.count() != 1 {
			t.Errorf("at once: %d after %v, %d fetches", status, took, s.count())
		}
		time.Sleep(minRefresh)
		if status, _ := ask(after); status != 200 || s.count() != 2 {
			t.Errorf("an unknown kid: %d, %d fetches", status, s.count())
		}
		if status, _ := ask(before); status != 401 {
			t.Errorf("a withdrawn key: %d", status)
		}
		for range 100 {
			ask(sign("EdDSA", "invented", otherEdKey, nil))
		}
		if s.count() != 2 {
			t.Errorf("%d fetches", s.count())
		}
	})
}

func TestLastGoodKeysAreKept(t *testing.T) {
	s := &server{keys: jwks("ed", edKey)}
	remotely(t, s, func(t *testing.T, ask func(string) (int, time.Duration)) {
		token := sign("EdDSA", "ed", edKey, nil)
		ask(token)
		for name, broken := range map[string]func(*server){
			"down":            func(s *server) { s.err = errors.New("down") },
			"500":             func(s *server) { s.status = 500 },
			"no key set":      func(s *server) { s.keys = policy.Secret("<html>") },
			"empty key set":   func(s *server) { s.keys = policy.Secret(`{"keys":[]}`) },
			"a shared secret": func(s *server) { s.keys = jwks("ed", secret) },
			"endless":         func(s *server) { s.keys = policy.Secret(strings.Repeat(" ", maxKeySet+1)) },
		} {
			s.set(func(s *server) { s.err, s.status, s.keys = nil, 200, jwks("ed", edKey); broken(s) })
			n := s.count()
			time.Sleep(10 * time.Minute)
			if status, _ := ask(token); status != 200 || s.count() == n {
				t.Errorf("%s: %d after %d fetches", name, status, s.count()-n)
			}
		}
	})
}

func TestKeysAreFetchedAgain(t *testing.T) {
	s := &server{keys: jwks("ed", edKey)}
	remotely(t, s, func(t *testing.T, ask func(string) (int, time.Duration)) {
		time.Sleep(time.Hour)
		if n := s.count(); n < 12 || n > 14 {
			t.Errorf("%d fetches in an hour, want one in five minutes", n)
		}
	})
}
