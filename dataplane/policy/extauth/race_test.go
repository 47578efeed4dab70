//go:build race

package extauth

const raceEnabled = true
