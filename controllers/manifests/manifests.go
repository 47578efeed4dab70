// Package manifests reads a folder of YAML and JSON files as an API server
// would read them from kubectl apply: unknown fields are refused, defaults are
// filled in, and the CRDs' schemas and CEL rules hold. It knows the file and
// line of every object and field.
//
// What is broken changes nothing that was good: a file that cannot be parsed
// keeps all objects that it last held, and an object that is refused stays as
// it last was, while the others of its file go on.
package manifests

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/controllers/objects"
)

// Place is where something stands.
type Place struct {
	// File is the path as the folder was named, joined with the path in it; Line counts from 1.
	File string `json:"file"`
	Line int    `json:"line"`
}

// String returns "file:line".
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Problem is something in a file that is not as it should be.
type Problem struct {
	Place
	// Object is as far as it could be read: parts may be "".
	Object objects.Ref
	// Field is the path in the object.
	Field string
	// Message says what is wrong, Want what would be right.
	Message string
	Want    string
	// Warning problems are nothing that an API server would refuse.
	Warning bool
}

// String is one line with everything in it.
func (p Problem) String() string {
	text := p.Place.String() + ": "
	if p.Object.Kind != "" {
		text += p.Object.String() + ": "
	}
	if p.Field != "" {
		text += p.Field + " "
	}
	text += p.Message
	if p.Want != "" {
		text += "; want: " + p.Want
	}
	return text
}

func sortProblems(list []Problem) {
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(
			strings.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			a.Object.Compare(b.Object),
			strings.Compare(a.Field, b.Field),
			strings.Compare(a.Message, b.Message))
	})
}

// Change is what differs from before.
type Change struct {
	// Put are new and changed objects. They must not be edited.
	Put map[objects.Ref]objects.Object
	// Deleted are sorted.
	Deleted []objects.Ref
	// Problems says that the folder's Problems may differ.
	Problems bool
}

// Empty reports whether no object differs.
func (c *Change) Empty() bool { return len(c.Put) == 0 && len(c.Deleted) == 0 }
