package snapshot

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/benbjohnson/immutable"
)

// Table is an immutable map from keys to values. A changed copy shares all but
// a few nodes with its original, so that one change in a large table costs the
// same as in a small one. The zero Table is empty.
type Table[V any] struct {
	m *immutable.Map[string, V]
}

// Len returns the number of keys.
func (t Table[V]) Len() int {
	if t.m == nil {
		return 0
	}
	return t.m.Len()
}

// Get returns the value under key.
func (t Table[V]) Get(key string) (V, bool) {
	if t.m == nil {
		var none V
		return none, false
	}
	return t.m.Get(key)
}

// With returns a table that has value under key.
func (t Table[V]) With(key string, value V) Table[V] {
	if t.m == nil {
		t.m = immutable.NewMap[string, V](immutable.NewHasher(key))
	}
	return Table[V]{t.m.Set(key, value)}
}

// Without returns a table that lacks key.
func (t Table[V]) Without(key string) Table[V] {
	if t.m == nil {
		return t
	}
	return Table[V]{t.m.Delete(key)}
}

// Keys returns all keys, sorted.
func (t Table[V]) Keys() []string {
	if t.m == nil {
		return nil
	}
	keys := make([]string, 0, t.m.Len())
	for itr := t.m.Iterator(); !itr.Done(); {
		key, _, _ := itr.Next()
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// MarshalJSON writes an object with sorted keys.
func (t Table[V]) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, key := range t.Keys() {
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		value, _ := t.Get(key)
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(text)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}
