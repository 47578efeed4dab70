//go:build race

package observe

// The race detector empties pools at random.
const raceEnabled = true
