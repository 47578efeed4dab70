package upstream

import (
	"math/rand/v2"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/hashkey"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// hashOn returns what an algorithm needs to hash on, nothing for one that does
// not hash.
func hashOn(b *snapshot.Balance) []snapshot.HashKey {
	switch b.Algorithm {
	case "IPHash":
		return []snapshot.HashKey{{Type: "ClientIP"}}
	case "RingHash", "Maglev":
		return b.HashOn
	}
	return nil
}

// setKeys compiles what to hash on.
func (c *Cluster) setKeys() {
	var err error
	if c.keys, err = hashkey.New(hashOn(&c.cfg.Balance)); err != nil {
		c.m.opts.Log.Error(err, "Not hashed on", "cluster", c.cfg.Key)
	}
}

// hash returns the hash of what the exchange is kept at an endpoint by, a random
// one if it has nothing of that.
func (st *state) hash(ex *exchange.Exchange) uint64 {
	hash, ok := st.keys.Hash(ex)
	if !ok {
		hash = rand.Uint64()
	}
	return hash
}
