// Package admin serves the admin address: health, readiness, metrics, and what
// Headgate currently does, as JSON.
package admin
