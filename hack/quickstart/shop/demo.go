package shop

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Echo is what a demo instance answers: who it is, and what reached it.
type Echo struct {
	Instance string            `json:"instance"`
	Method   string            `json:"method"`
	Host     string            `json:"host"`
	Path     string            `json:"path"`
	Query    string            `json:"query,omitempty"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body,omitempty"`
	// Seen is how many requests for the path of /seen?path=… came before.
	Seen int `json:"seen,omitempty"`
}

// Demo is a service that answers every request with an Echo. Query parameters
// make it misbehave: delay=300ms answers late, status=503 otherwise, and
// chunks=5 in parts, one in a tenth of a second.
func Demo(instance string) http.Handler {
	var (
		mu   sync.Mutex
		seen = map[string]int{}
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		body, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10))
		echo := Echo{
			Instance: instance, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery,
			Headers: map[string]string{}, Body: string(body),
		}
		for name, values := range r.Header {
			echo.Headers[name] = strings.Join(values, ", ")
		}
		mu.Lock()
		if r.URL.Path == "/seen" {
			echo.Seen = seen[query.Get("path")]
		} else if len(seen) < 10_000 {
			seen[r.URL.Path]++
		}
		mu.Unlock()

		if d, err := time.ParseDuration(query.Get("delay")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Instance", instance)
		if status, err := strconv.Atoi(query.Get("status")); err == nil && status >= 200 && status <= 599 {
			w.WriteHeader(status)
		}
		if n, err := strconv.Atoi(query.Get("chunks")); err == nil {
			for range min(n, 100) {
				io.WriteString(w, "{}\n")
				http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
			return
		}
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		out.Encode(echo)
	})
}
