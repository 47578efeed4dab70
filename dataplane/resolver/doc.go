// Package resolver resolves the names of hosts, by hosts(5) and DNS, and keeps
// what it has found up to date: an answer counts for its time to live, and
// stays while name servers fail.
//
// Who is interested in a name subscribes to it, is told of changes, and reads the
// latest answer without waiting.
package resolver
