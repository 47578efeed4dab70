package compile

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// String returns the finding as a condition's message says it.
func (f Finding) String() string {
	text := f.Message
	if f.Field != "" {
		text = f.Field + ": " + text
	}
	if f.Want != "" {
		text += "; want " + f.Want
	}
	return text
}

// verdict is a condition in the making. The zero verdict is fine; the first
// failure gives the reason, and every one adds to the message.
type verdict struct {
	reason  string
	message string
}

func (v *verdict) ok() bool { return v.reason == "" }

// maxMessage keeps messages far below the 32,768 bytes that metav1.Condition allows.
const maxMessage = 4096

func (v *verdict) fail(reason, message string) {
	switch {
	case v.reason == "":
		v.reason, v.message = reason, message
	case v.message == message || len(v.message)+len(message) > maxMessage:
	case !strings.Contains(v.message, message):
		v.message += ". " + message
	}
}

// add makes a verdict part of another one.
func (v *verdict) add(other verdict) {
	if !other.ok() {
		v.fail(other.reason, other.message)
	}
}

// report gathers the findings of one object.
type report struct {
	object   objects.Ref
	findings []Finding
}

// fail records a finding and makes it part of a verdict, which may be nil.
func (r *report) fail(v *verdict, f Finding) {
	f.Object = r.object
	r.findings = append(r.findings, f)
	if v != nil {
		v.fail(f.Reason, f.String())
	}
}

// sorted returns the findings in the order of their fields.
func (r *report) sorted() []Finding {
	slices.SortStableFunc(r.findings, func(a, b Finding) int { return compareFields(a.Field, b.Field) })
	return r.findings
}

// compareFields compares field paths, with indexes as numbers.
func compareFields(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			if c := cmp.Or(cmp.Compare(x, y), strings.Compare(a[:x], b[:y])); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits returns how many digits a path begins with. Indexes have no leading zeros.
func digits(path string) int {
	n := 0
	for n < len(path) && '0' <= path[n] && path[n] <= '9' {
		n++
	}
	return n
}

// newCondition returns a condition that is True with reason fine unless the
// verdict says otherwise.
func newCondition(kind, fine, fineMessage string, v verdict, generation int64) metav1.Condition {
	c := metav1.Condition{
		Type: kind, Status: metav1.ConditionTrue, Reason: fine, Message: fineMessage, ObservedGeneration: generation,
	}
	if !v.ok() {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v.reason, v.message
	}
	return c
}
