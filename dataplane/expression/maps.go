package expression

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// entries is a map of CEL that is looked up in an exchange. Who wants more than
// one entry of it gets a copy.
type entries struct {
	in    *input
	find  func(in *input, name string) (ref.Val, bool)
	names func(in *input, yield func(string))
}

var _ traits.Mapper = (*entries)(nil)

// Find implements traits.Mapper.
func (m *entries) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	return m.find(m.in, string(name))
}

// Get implements traits.Indexer.
func (m *entries) Get(key ref.Val) ref.Val {
	value, ok := m.Find(key)
	if !ok {
		return types.ValOrErr(value, "no such key: %v", key)
	}
	return value
}

// Contains implements traits.Container.
func (m *entries) Contains(key ref.Val) ref.Val {
	value, ok := m.Find(key)
	if !ok && types.IsError(value) {
		return value
	}
	return types.Bool(ok)
}

// copied is the map with all its entries.
func (m *entries) copied() traits.Mapper {
	all := map[string]ref.Val{}
	m.names(m.in, func(name string) {
		if _, known := all[name]; !known {
			if value, ok := m.find(m.in, name); ok {
				all[name] = value
			}
		}
	})
	return types.DefaultTypeAdapter.NativeToValue(all).(traits.Mapper)
}

// Iterator implements traits.Iterable.
func (m *entries) Iterator() traits.Iterator { return m.copied().Iterator() }

// Size implements traits.Sizer.
func (m *entries) Size() ref.Val { return m.copied().Size() }

// ConvertToNative implements ref.Val.
func (m *entries) ConvertToNative(to reflect.Type) (any, error) {
	return m.copied().ConvertToNative(to)
}

// ConvertToType implements ref.Val.
func (m *entries) ConvertToType(to ref.Type) ref.Val { return m.copied().ConvertToType(to) }

// Equal implements ref.Val.
func (m *entries) Equal(other ref.Val) ref.Val { return m.copied().Equal(other) }

// Type implements ref.Val.
func (m *entries) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (m *entries) Value() any { return m.copied().Value() }

// claims are those of the consumer's token. Each can be asked for by name, and
// no others told: that is all that exchange.Claims can do.
type claims struct{ in *input }

var (
	_ traits.Indexer   = (*claims)(nil)
	_ traits.Container = (*claims)(nil)

	errClaims = errors.New("claims can only be asked for by name")
)

func (c *claims) find(key ref.Val) (string, bool) {
	name, ok := key.(types.String)
	if !ok || c.in.ex.Consumer.Claims == nil {
		return "", false
	}
	return c.in.ex.Consumer.Claims.Claim(string(name))
}

// Get implements traits.Indexer.
func (c *claims) Get(key ref.Val) ref.Val {
	value, ok := c.find(key)
	if !ok {
		return types.WrapErr(fmt.Errorf("no such claim: %v", key.Value()))
	}
	return types.String(value)
}

// Contains implements traits.Container.
func (c *claims) Contains(key ref.Val) ref.Val {
	_, ok := c.find(key)
	return types.Bool(ok)
}

// IsSet implements traits.FieldTester.
func (c *claims) IsSet(key ref.Val) ref.Val { return c.Contains(key) }

// ConvertToNative implements ref.Val.
func (c *claims) ConvertToNative(reflect.Type) (any, error) { return nil, errClaims }

// ConvertToType implements ref.Val.
func (c *claims) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errClaims) }

// Equal implements ref.Val.
func (c *claims) Equal(ref.Val) ref.Val { return types.WrapErr(errClaims) }

// Type implements ref.Val.
func (c *claims) Type() ref.Type { return claimsType }

// claimsType has the traits that claims have.
var claimsType = types.NewObjectType("claims", traits.ContainerType)

// Value implements ref.Val.
func (c *claims) Value() any { return c }
