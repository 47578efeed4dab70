package jwt

import (
	"crypto/sha256"
	"sync"
)

// verified remembers tokens whose signature a key set has verified, since that
// is most of a token's cost. It belongs to the key set, so that a key that is
// withdrawn takes its tokens along; whatever else makes a token valid is checked
// each time. Only who can sign can fill it, and it is bounded all the same.
type verified struct {
	shards [verifiedShards]struct {
		mu     sync.RWMutex
		tokens map[tokenSum]*token
		_      [32]byte
	}
}

const (
	verifiedShards = 16
	// maxVerified bounds a shard: 4,096 tokens for each key set.
	maxVerified = 256
)

type tokenSum [sha256.Size]byte

// token is a token with a good signature. It is immutable.
type token struct {
	algorithm string
	payload   map[string]any
}

func (v *verified) get(sum tokenSum) *token {
	s := &v.shards[sum[0]%verifiedShards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tokens[sum]
}

func (v *verified) put(sum tokenSum, t *token) {
	s := &v.shards[sum[0]%verifiedShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[tokenSum]*token{}
	}
	if len(s.tokens) >= maxVerified {
		for victim := range s.tokens {
			delete(s.tokens, victim)
			break
		}
	}
	s.tokens[sum] = t
}
