package h2

import "sync"

// task is what a worker does.
type task interface{ run() }

// workers are goroutines that wait for the next task, so that their stacks,
// which serving a request makes grow, are used again. There are as many as
// tasks at once, and when no connection is left there are none.
type workers struct {
	mu    sync.Mutex
	idle  []chan task // the last one has waited the shortest
	users int
}

// maxIdle is how many may wait for a task.
const maxIdle = 256

var pool workers

// use keeps workers alive until unuse.
func (w *workers) use() {
	w.mu.Lock()
	w.users++
	w.mu.Unlock()
}

func (w *workers) unuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users > 0 {
		return
	}
	for i, tasks := range w.idle {
		close(tasks)
		w.idle[i] = nil
	}
	w.idle = w.idle[:0]
}

// start runs t soon.
func (w *workers) start(t task) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		tasks := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		tasks <- t
		return
	}
	w.mu.Unlock()
	go w.work(t)
}

func (w *workers) work(t task) {
	tasks := make(chan task, 1)
	for {
		t.run()
		t = nil
		w.mu.Lock()
		if w.users == 0 || len(w.idle) >= maxIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, tasks)
		w.mu.Unlock()
		var ok bool
		if t, ok = <-tasks; !ok {
			return
		}
	}
}
