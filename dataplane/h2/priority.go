package h2

const urgencies = 8

// queue orders the streams that have something to send: by urgency, and among
// the equally urgent those that came first stay first until they have nothing
// to send, unless they take turns.
type queue struct {
	first, last [urgencies]*stream
}

// push appends a stream that is not in the queue.
func (q *queue) push(st *stream) {
	u := st.priority.Urgency
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
	if st.priority.Incremental || st.at != st.priority.Urgency {
		q.remove(st)
		q.push(st)
	}
}
