// Package deadline bounds how long connections may take, without a timer call
// for every phase of every request.
//
// A connection is registered once. Each phase then stores when it must be over
// (one atomic operation); a janitor looks through the connections a few times
// a second and makes the blocked reads or writes of those that are late fail
// with os.ErrDeadlineExceeded. It is meant for timeouts of seconds: a phase
// ends up to Precision late, never early. Who needs milliseconds calls
// SetReadDeadline.
package deadline
