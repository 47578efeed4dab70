package exchange

// Field is one header or trailer field line, RFC 9110 section 5.
//
// Name keeps the case in which it arrived; Key is its index among the names
// that Headgate itself looks at, so that finding a field costs an integer
// comparison. A Field with an unknown name has Key KeyOther.
type Field struct {
	Key   Key
	Name  string
	Value string
}

// Fields is an ordered list of field lines. Order and repetition are kept as
// received. Its strings are views, see the package comment.
type Fields []Field

// NewField returns the field line with its Key filled in.
func NewField(name, value string) Field {
	return Field{Key: KeyOf(name), Name: name, Value: value}
}

// Find returns the index of the first line with this key, or -1. It must not
// be asked for KeyOther.
func (f Fields) Find(key Key) int {
	for i := range f {
		if f[i].Key == key {
			return i
		}
	}
	return -1
}

// Value returns the value of the first line with this key, or "".
func (f Fields) Value(key Key) string {
	if i := f.Find(key); i >= 0 {
		return f[i].Value
	}
	return ""
}

// Get returns the value of the first line with this name, in any case.
func (f Fields) Get(name string) (string, bool) {
	key := KeyOf(name)
	for i := range f {
		if f[i].is(key, name) {
			return f[i].Value, true
		}
	}
	return "", false
}

// Add appends a line.
func (f *Fields) Add(name, value string) {
	*f = append(*f, NewField(name, value))
}

// Set replaces the first line of this name and removes the others, or appends
// one if there was none.
func (f *Fields) Set(name, value string) {
	key := KeyOf(name)
	for i := range *f {
		if (*f)[i].is(key, name) {
			(*f)[i].Value = value
			rest := (*f)[i+1:]
			*f = append((*f)[:i+1], rest.without(key, name)...)
			return
		}
	}
	*f = append(*f, Field{Key: key, Name: name, Value: value})
}

// Del removes every line of this name.
func (f *Fields) Del(name string) {
	*f = f.without(KeyOf(name), name)
}

// DelKey removes every line with this key, which must not be KeyOther.
func (f *Fields) DelKey(key Key) {
	*f = f.without(key, "")
}

// AppendEndToEnd appends the lines of from that may be forwarded: without the
// hop-by-hop fields and those that Connection nominates, RFC 9110 section 7.6.1.
func (f *Fields) AppendEndToEnd(from Fields) {
	nominated := false
	for i := range from {
		if from[i].Key == KeyConnection && nominatesMore(from[i].Value) {
			nominated = true
		}
	}
	for i := range from {
		if from[i].Key.HopByHop() || nominated && from.nominates(from[i].Name) {
			continue
		}
		*f = append(*f, from[i])
	}
}

// nominatesMore reports whether a Connection line names a field that is not
// hop-by-hop by itself.
func nominatesMore(options string) bool {
	for options != "" {
		var item string
		item, options = NextItem(options)
		if item != "" && !EqualFold(item, "close") && !KeyOf(item).HopByHop() {
			return true
		}
	}
	return false
}

func (f Fields) nominates(name string) bool {
	for i := range f {
		if f[i].Key == KeyConnection && HasToken(f[i].Value, name) {
			return true
		}
	}
	return false
}

// without filters in place.
func (f Fields) without(key Key, name string) Fields {
	kept := f[:0]
	for i := range f {
		if !f[i].is(key, name) {
			kept = append(kept, f[i])
		}
	}
	return kept
}

func (f *Field) is(key Key, name string) bool {
	if f.Key != key {
		return false
	}
	return key != KeyOther || EqualFold(f.Name, name)
}

// EqualFold reports whether two ASCII strings are equal in any case. Field
// names, schemes, hosts and tokens are ASCII by their grammars.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// HasToken reports whether a comma-separated list, RFC 9110 section 5.6.1,
// has this token, in any case.
func HasToken(list, token string) bool {
	for list != "" {
		var item string
		item, list = NextItem(list)
		if EqualFold(item, token) {
			return true
		}
	}
	return false
}

// NextItem cuts the first element, without the white space around it, off a
// comma-separated list that has no quoted strings.
func NextItem(list string) (item, rest string) {
	end := 0
	for end < len(list) && list[end] != ',' {
		end++
	}
	item = list[:end]
	if end < len(list) {
		rest = list[end+1:]
	}
	for item != "" && (item[0] == ' ' || item[0] == '\t') {
		item = item[1:]
	}
	for item != "" && (item[len(item)-1] == ' ' || item[len(item)-1] == '\t') {
		item = item[:len(item)-1]
	}
	return item, rest
}
