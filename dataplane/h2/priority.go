package h2

import "github.com/headgate/headgate/dataplane/exchange"

// priority is how urgent a response is, RFC 9218 section 4.
type priority struct {
	// urgency is 0, the highest, to 7.
	urgency uint8
	// incremental says that a part of it is of use, so that responses of the
	// same urgency take turns.
	incremental bool
}

const urgencies = 8

// noPriority is for who says nothing: like the RFC's default, but turn by turn.
var noPriority = priority{urgency: 3, incremental: true}

// parsePriority reads a Priority field's value: a dictionary of RFC 8941, of
// which u and i count. What cannot be read is ignored, RFC 9218 section 4.
func parsePriority(s string) priority {
	if s == "" {
		return noPriority
	}
	p := priority{urgency: 3}
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
			p.urgency = item[2] - '0'
		case item == "i" || item == "i=?1":
			p.incremental = true
		case item == "i=?0":
			p.incremental = false
		}
	}
	return p
}

// queue orders the streams that have something to send: by urgency, and among
// the equally urgent those that came first stay first until they have nothing
// to send, unless they take turns.
type queue struct {
	first, last [urgencies]*stream
}

// push appends a stream that is not in the queue.
func (q *queue) push(st *stream) {
	u := st.priority.urgency
	st.queued, st.at, st.next = true, u, nil
	if q.first[u] == nil {
		q.first[u] = st
	} else {
		q.last[u].next = st
	}
	q.last[u] = st
}

// peek returns the stream whose turn it is, or nil.
func (q *queue) peek() *stream {
	for u := range q.first {
		if q.first[u] != nil {
			return q.first[u]
		}
	}
	return nil
}

// remove takes a stream out if it is in the queue.
func (q *queue) remove(st *stream) {
	if !st.queued {
		return
	}
	u := st.at
	var before *stream
	for at := q.first[u]; at != st; at = at.next {
		before = at
	}
	if before == nil {
		q.first[u] = st.next
	} else {
		before.next = st.next
	}
	if q.last[u] == st {
		q.last[u] = before
	}
	st.queued, st.next = false, nil
}

// rotate lets the others go first.
func (q *queue) rotate(st *stream) {
	if st.priority.incremental || st.at != st.priority.urgency {
		q.remove(st)
		q.push(st)
	}
}
