// Package observe is what can be seen of the data plane from outside: metrics
// for Prometheus and the access log.
//
// It costs a request a few atomic additions and no allocation. Handles (Route,
// Port, L4) are resolved once, when a table is linked, and given back with
// Release when the table goes; a series disappears with its last handle.
//
// Caller owes: Done exactly once for each Begin, on a handle of the same
// listener and route; Closed exactly once for each Accepted.
package observe
