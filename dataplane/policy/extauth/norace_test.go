//go:build !race

package extauth

const raceEnabled = false
