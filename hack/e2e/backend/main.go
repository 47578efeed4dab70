// Backend is what the end-to-end tests send their requests to. It answers with
// the name of its pod, after ?after=DURATION if the request says so.
//
// With FAIL_PERCENT in its environment it answers so many of them 500.
//
// Told to end, it goes on serving for -delay, and then finishes what it has
// begun. With no delay it closes its connections at once, as programs do that
// have not heard of rolling updates.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

var failPercent, _ = strconv.Atoi(os.Getenv("FAIL_PERCENT"))

func main() {
	address := flag.String("address", ":8080", "where to listen")
	delay := flag.Duration("delay", 0, "how long to go on serving after SIGTERM")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	server := &http.Server{Addr: *address, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		time.Sleep(*delay)
		grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			log.Print(err)
		}
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		log.Fatal(err)
	}
	<-ended
}

func answer(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if after, err := time.ParseDuration(r.URL.Query().Get("after")); err == nil {
		select {
		case <-time.After(after):
		case <-r.Context().Done():
			return
		}
	}
	if rand.IntN(100) < failPercent {
		w.WriteHeader(http.StatusInternalServerError)
	}
	fmt.Fprintln(w, os.Getenv("HOSTNAME"))
}
