package exchange

// Action is what an Edit does where the field is there already.
type Action uint8

// The actions.
const (
	// Overwrite leaves one line of the name, the new one.
	Overwrite Action = iota
	// Append adds a line.
	Append
	// AddIfAbsent leaves what is there.
	AddIfAbsent
	// OverwriteIfExists is Overwrite, and adds nothing if there is none.
	OverwriteIfExists
)

// Edit is a change of one field. Its strings must last as long as the exchange.
type Edit struct {
	Name, Value string
	Action      Action
}

// Apply makes a change. Who made the Edit has checked name and value.
func (f *Fields) Apply(e *Edit) {
	_, exists := f.Get(e.Name)
	switch {
	case e.Action == Append:
		f.Add(e.Name, e.Value)
	case e.Action == AddIfAbsent && exists, e.Action == OverwriteIfExists && !exists:
	default:
		f.Set(e.Name, e.Value)
	}
}
