package manifests

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/go-logr/logr"

	"github.com/headgate/headgate/controllers/manifests/schema"
	"github.com/headgate/headgate/controllers/objects"
)

// How long Watch waits after an event for another, as a write is rarely one
// event, and for how long at most.
const (
	quiet   = 10 * time.Millisecond
	ceiling = 40 * time.Millisecond
	// poll is how often Watch looks where the system can't tell of changes.
	poll = 250 * time.Millisecond
	// forget is after how long without a change the schemas are given up: compiled
	// rules take megabytes, and to compile them again some 100 ms.
	forget = 10 * time.Second
)

// Watch reads the folder, and again whenever something in it changes, until
// the context ends. It calls changed with each change, the first of all even
// if it is empty.
func (f *Folder) Watch(ctx context.Context, log logr.Logger, changed func(Change)) {
	w := &watcher{folder: f, log: log, changed: changed, watched: map[string]bool{}}
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer notify.Close()
		w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
		// The folder itself may be replaced: a new one renamed into its place, or a link set anew.
		w.add(filepath.Dir(f.dir))
	} else {
		w.poll(err)
	}
	w.follow()
	change, later := f.Refresh()
	w.follow()
	changed(change)
	w.forget = time.AfterFunc(forget, schema.Forget)
	defer w.forget.Stop()
	w.run(ctx, later)
}

type watcher struct {
	folder  *Folder
	log     logr.Logger
	changed func(Change)

	notify  *fsnotify.Watcher // nil: poll
	events  <-chan fsnotify.Event
	errors  <-chan error
	ticks   <-chan time.Time
	watched map[string]bool
	forget  *time.Timer
}

func (w *watcher) run(ctx context.Context, later time.Duration) {
	timer := time.NewTimer(later)
	if later == 0 {
		timer.Stop()
	}
	defer timer.Stop()
	var (
		paths []string
		all   bool      // paths are not all that changed
		since time.Time // the first event not yet looked at
	)
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.events:
			path := filepath.Clean(event.Name)
			if !w.within(path) || event.Op == fsnotify.Chmod {
				continue
			}
			if event.Has(fsnotify.Create) && w.watched[path] {
				w.drop(path) // another folder took the place of the watched one
			}
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
			if since.IsZero() {
				since = time.Now()
			}
			timer.Reset(min(quiet, max(0, ceiling-time.Since(since))))
		case err := <-w.errors:
			w.log.Info("Events may have been lost; reading the folder again", "reason", err.Error())
			all = true
			timer.Reset(quiet)
		case <-w.ticks:
			all = true
			timer.Reset(0)
		case <-timer.C:
			if all {
				paths = nil
			}
			if later := w.refresh(paths); later > 0 {
				timer.Reset(later)
			}
			paths, all, since = nil, false, time.Time{}
		}
	}
}

// within tells whether an event is about the folder: of its parent's entries
// only the folder itself matters.
func (w *watcher) within(path string) bool {
	parent := filepath.Dir(w.folder.dir)
	return filepath.Dir(path) != parent || path == w.folder.dir || slices.Contains(w.folder.dirs, parent) || slices.Contains(w.folder.linked, parent)
}

func (w *watcher) refresh(paths []string) (later time.Duration) {
	change, later := w.folder.Refresh(paths...)
	// What was written into a new folder before it was watched made no event.
	for w.follow() {
		more, again := w.folder.Refresh()
		later = max(later, again)
		change = merge(change, more)
	}
	if !change.Empty() || change.Problems {
		w.changed(change)
		w.forget.Reset(forget)
	}
	return later
}

// follow watches the folders that the last scan found, and reports whether
// there was a new one.
func (w *watcher) follow() bool {
	if w.notify == nil {
		return false
	}
	// A folder that was removed, or replaced by another of its name, is no longer watched.
	alive := w.notify.WatchList()
	news := false
	dirs := slices.Concat(w.folder.dirs, w.folder.linked)
	for _, dir := range dirs {
		if !slices.Contains(alive, dir) && w.add(dir) {
			news = true
		}
	}
	for _, dir := range alive {
		if dir != filepath.Dir(w.folder.dir) && !slices.Contains(dirs, dir) {
			w.drop(dir)
		}
	}
	return news
}

func (w *watcher) add(dir string) bool {
	if err := w.notify.Add(dir); err != nil {
		w.poll(err)
		return false
	}
	w.watched[dir] = true
	return true
}

func (w *watcher) drop(dir string) {
	_ = w.notify.Remove(dir) // it may have gone by itself
	delete(w.watched, dir)
}

// poll makes the watcher look by itself, once something can't be watched.
func (w *watcher) poll(err error) {
	if w.ticks == nil {
		w.log.Info("Changes are not told of; looking for them every 250 ms", "reason", err.Error())
		w.ticks = time.Tick(poll)
	}
}

func merge(a, b Change) Change {
	for ref, obj := range b.Put {
		if a.Put == nil {
			a.Put = b.Put
			break
		}
		a.Put[ref] = obj
		a.Deleted = slices.DeleteFunc(a.Deleted, func(d objects.Ref) bool { return d == ref })
	}
	for _, ref := range b.Deleted {
		delete(a.Put, ref)
		a.Deleted = append(a.Deleted, ref)
	}
	a.Problems = a.Problems || b.Problems
	return a
}
