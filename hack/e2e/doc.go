// Package e2e holds Headgate to what it promises of a cluster's life, in the
// real one-node cluster that hack/cluster makes: rollouts, upgrades and faults
// under load, with not one request lost where none need be; what is left when
// it is uninstalled; who sees whose routes; canaries that Flagger steers; and a
// new user's first steps.
//
// The tests are behind the build tag e2e, since they need that cluster and
// change what is installed there: make e2e brings both.
package e2e
