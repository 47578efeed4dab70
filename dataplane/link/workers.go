package link

import "sync"

// Task is what a worker does.
type Task interface{ Run() }

// Workers are goroutines that wait for the next task, so that their stacks,
// which serving a request makes grow, are used again. There are as many as
// tasks at once, and when no connection is left there are none. The zero value
// is ready for use.
type Workers struct {
	mu    sync.Mutex
	idle  []chan Task // the last one has waited the shortest
	users int
}

// maxIdle is how many may wait for a task.
const maxIdle = 256

// Use keeps workers alive until Unuse.
func (w *Workers) Use() {
	w.mu.Lock()
	w.users++
	w.mu.Unlock()
}

// Unuse takes back one Use.
func (w *Workers) Unuse() {
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

// Start runs t soon.
func (w *Workers) Start(t Task) {
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

func (w *Workers) work(t Task) {
	tasks := make(chan Task, 1)
	for {
		t.Run()
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
