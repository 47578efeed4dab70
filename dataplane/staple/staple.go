// Package staple keeps the OCSP responses (RFC 6960) that servers send along
// with their certificates, RFC 6066 section 8, so that clients need not ask
// whether one was revoked.
//
// Responses are fetched in the background from the responder that a certificate
// names, or given together with it. Only those are kept that the certificate's
// issuer vouches for, that say "good", and that are valid now. Whatever fails,
// handshakes go on, without a response if need be; it is tried again.
package staple

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/crypto/ocsp"
)

// Options are what a Keeper needs of the world.
type Options struct {
	// Fetch posts a request to a responder's URL, RFC 6960 appendix A.1, and
	// returns what it answers. It keeps the context, and bounds time and size.
	// nil means that nothing is fetched.
	Fetch func(ctx context.Context, url string, request []byte) ([]byte, error)
	Log   logr.Logger
	// Now and After are the clock; nil means package time's.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
}

const (
	// fetches is how many run at the same time.
	fetches = 4
	// A failed fetch is repeated after retryFirst, then after twice as long each
	// time, up to retryMost.
	retryFirst = time.Minute
	retryMost  = time.Hour
	// skew is by how much a responder's clock may be ahead.
	skew = 5 * time.Minute
	// unsaid is how long a response holds that does not say it.
	unsaid = time.Hour
)

// Keeper owns the staples. Its methods are safe for concurrent use.
type Keeper struct {
	opts  Options
	slots chan struct{}
	busy  sync.WaitGroup

	mu      sync.Mutex
	staples map[identity]*Staple
}

// identity is what two uses of a certificate must have in common to share a Staple.
type identity struct {
	chain, given [sha256.Size]byte
	fetch        bool
}

// NewKeeper returns a Keeper without staples.
func NewKeeper(opts Options) *Keeper {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.After == nil {
		opts.After = time.After
	}
	return &Keeper{opts: opts, slots: make(chan struct{}, fetches), staples: map[identity]*Staple{}}
}

// Staple is the response for one certificate, as it is at the moment. A nil
// Staple has none. Its methods are safe for concurrent use.
type Staple struct {
	keeper       *Keeper
	leaf, issuer *x509.Certificate
	current      atomic.Pointer[response]
	stop         context.CancelFunc // nil unless it is fetched
}

type response struct {
	der   []byte
	until time.Time
}

// Response returns the response to send, DER-encoded; nil if there is none that
// is valid now. It must not be edited.
func (s *Staple) Response() []byte {
	if s == nil {
		return nil
	}
	if r := s.current.Load(); r != nil && s.keeper.opts.Now().Before(r.until) {
		return r.der
	}
	return nil
}

// Until returns the end of the response's validity, the zero time if there
// never was one.
func (s *Staple) Until() time.Time {
	if r := s.current.Load(); r != nil {
		return r.until
	}
	return time.Time{}
}

// Required reports whether a certificate tells clients to expect a response,
// RFC 7633 ("must-staple").
func Required(leaf *x509.Certificate) bool {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(tlsFeature) {
			var features []int
			_, err := asn1.Unmarshal(e.Value, &features)
			return err == nil && slices.Contains(features, statusRequest)
		}
	}
	return false
}

var tlsFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

const statusRequest = 5

// For returns the staple of a certificate, the same one for the same arguments
// for as long as it is retained: with given as its response, if that is not
// empty, and with what the certificate's responder says, if it is to be asked.
// It is nil if there is neither. The error says what cannot be used, or cannot be asked.
func (k *Keeper) For(pair *tls.Certificate, given []byte, fetch bool) (*Staple, error) {
	fetch = fetch && k.opts.Fetch != nil
	if len(given) == 0 && !fetch {
		return nil, nil
	}
	id := identity{chain: sha256.Sum256(slices.Concat(pair.Certificate...)), given: sha256.Sum256(given), fetch: fetch}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.staples[id]; s != nil {
		return s, nil
	}
	issuer, err := issuerOf(pair)
	if err != nil {
		return nil, err
	}
	s := &Staple{keeper: k, leaf: pair.Leaf, issuer: issuer}
	var errs []error
	if len(given) > 0 {
		if _, err := s.take(given); err != nil {
			errs = append(errs, fmt.Errorf("the OCSP response that comes with it: %w", err))
		}
	}
	if fetch {
		if urls := s.responders(); len(urls) > 0 {
			var ctx context.Context
			ctx, s.stop = context.WithCancel(context.Background())
			k.busy.Go(func() { s.refresh(ctx, urls) })
		} else {
			errs = append(errs, errors.New("it names no OCSP responder"))
		}
	}
	k.staples[id] = s
	return s, errors.Join(errs...)
}

// issuerOf returns the certificate that signed the leaf, which stands after it.
func issuerOf(pair *tls.Certificate) (*x509.Certificate, error) {
	if len(pair.Certificate) < 2 {
		return nil, errors.New("OCSP needs the certificate of its issuer, which is to follow it")
	}
	issuer, err := x509.ParseCertificate(pair.Certificate[1])
	if err == nil {
		err = pair.Leaf.CheckSignatureFrom(issuer)
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate that follows it is not its issuer's: %w", err)
	}
	return issuer, nil
}

// responders are the URLs that can be asked.
func (s *Staple) responders() (urls []string) {
	for _, url := range s.leaf.OCSPServer {
		if strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://") {
			urls = append(urls, url)
		}
	}
	return urls
}

// Retain stops all staples that which does not report true for.
func (k *Keeper) Retain(which func(*Staple) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.staples {
		if !which(s) {
			delete(k.staples, id)
			if s.stop != nil {
				s.stop()
			}
		}
	}
}

// Close stops all staples and waits for what is being fetched.
func (k *Keeper) Close() {
	k.Retain(func(*Staple) bool { return false })
	k.busy.Wait()
}

// refresh fetches a response, and the next one when half the time is over for
// which the last one is valid, until the context ends.
func (s *Staple) refresh(ctx context.Context, urls []string) {
	failures := 0
	for {
		until, err := s.fetch(ctx, urls)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err == nil {
			failures = 0
			wait = max(until.Sub(s.keeper.opts.Now())/2, retryFirst)
		} else {
			wait = min(retryFirst<<min(failures, 10), retryMost)
			failures++
			s.keeper.opts.Log.Info("No OCSP response could be had for a certificate", "subject", s.leaf.Subject.String(),
				"names", s.leaf.DNSNames, "retryIn", wait.String(), "cause", err.Error())
		}
		// Replicas, and certificates that were issued together, do not ask in step.
		wait -= time.Duration(rand.Int64N(int64(wait)/10 + 1))
		select {
		case <-s.keeper.opts.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (s *Staple) fetch(ctx context.Context, urls []string) (until time.Time, err error) {
	select {
	case s.keeper.slots <- struct{}{}:
		defer func() { <-s.keeper.slots }()
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	request, err := ocsp.CreateRequest(s.leaf, s.issuer, nil)
	if err != nil {
		return time.Time{}, err
	}
	var errs []error
	for _, url := range urls {
		der, err := s.keeper.opts.Fetch(ctx, url, request)
		if err == nil {
			until, err = s.take(der)
		}
		if err == nil {
			return until, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", url, err))
	}
	return time.Time{}, errors.Join(errs...)
}

// take makes a response the current one, if it is good. Once the certificate is
// known to be revoked, nobody is told any more that it is good.
func (s *Staple) take(der []byte) (until time.Time, err error) {
	until, err = verify(der, s.leaf, s.issuer, s.keeper.opts.Now())
	if err == nil {
		s.current.Store(&response{der, until})
	} else if errors.Is(err, errRevoked) {
		s.current.Store(nil)
	}
	return until, err
}

var errRevoked = errors.New("the certificate was revoked")

// verify returns until when a response can be sent.
func verify(der []byte, leaf, issuer *x509.Certificate, now time.Time) (until time.Time, err error) {
	r, err := ocsp.ParseResponseForCert(der, leaf, issuer)
	if err != nil {
		return time.Time{}, err
	}
	// Who else signs must be authorised by the issuer to do so, RFC 6960 section
	// 4.2.2.2: any other certificate of the same issuer is not.
	if by := r.Certificate; by != nil && !by.Equal(issuer) {
		if !slices.Contains(by.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
			return time.Time{}, errors.New("it is signed by a certificate that is not for signing OCSP responses")
		}
		if now.Before(by.NotBefore) || now.After(by.NotAfter) {
			return time.Time{}, errors.New("it is signed by a certificate that is not valid now")
		}
	}
	until = r.NextUpdate
	if until.IsZero() {
		until = r.ThisUpdate.Add(unsaid)
	}
	switch {
	case r.Status == ocsp.Revoked:
		return time.Time{}, fmt.Errorf("%w at %s", errRevoked, r.RevokedAt.UTC().Format(time.RFC3339))
	case r.Status != ocsp.Good:
		return time.Time{}, errors.New("the responder does not know the certificate")
	case r.ThisUpdate.After(now.Add(skew)):
		return time.Time{}, fmt.Errorf("it is valid from %s only", r.ThisUpdate.UTC().Format(time.RFC3339))
	case !until.After(now):
		return time.Time{}, fmt.Errorf("it was valid until %s", until.UTC().Format(time.RFC3339))
	}
	return until, nil
}

// Check reports what is wrong with a response for the certificate that a chain
// begins with, apart from when it is valid.
func Check(der []byte, pair *tls.Certificate) error {
	issuer, err := issuerOf(pair)
	if err != nil {
		return err
	}
	r, err := ocsp.ParseResponseForCert(der, pair.Leaf, issuer)
	if err != nil {
		return err
	}
	_, err = verify(der, pair.Leaf, issuer, r.ThisUpdate)
	return err
}
