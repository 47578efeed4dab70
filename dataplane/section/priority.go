package section

import "github.com/headgate/headgate/dataplane/exchange"

// Priority is how urgent a response is, RFC 9218 section 4.
type Priority struct {
	// Urgency is 0, the highest, to 7.
	Urgency uint8
	// Incremental says that a part of it is of use, so that responses of the
	// same urgency take turns.
	Incremental bool
}

// noPriority is for who says nothing: like the RFC's default, but turn by turn.
var noPriority = Priority{Urgency: 3, Incremental: true}

// ParsePriority reads a Priority field's value: a dictionary of RFC 8941, of
// which u and i count. What cannot be read is ignored, RFC 9218 section 4.
func ParsePriority(s string) Priority {
	if s == "" {
		return noPriority
	}
	p := Priority{Urgency: 3}
	for s != "" {
		var item string
		item, s = exchange.NextItem(s)
		for i := range len(item) {
			if item[i] == ';' { // parameters, which mean nothing
				item = item[:i]
				break
			}
		}
		switch {
		case len(item) == 3 && item[:2] == "u=" && '0' <= item[2] && item[2] <= '7':
			p.Urgency = item[2] - '0'
		case item == "i" || item == "i=?1":
			p.Incremental = true
		case item == "i=?0":
			p.Incremental = false
		}
	}
	return p
}
