package manifests

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched collects what a Watch calls.
type watched struct {
	t       *testing.T
	dir     string
	folder  *Folder
	changes chan Change
	have    map[string]string // ConfigMaps' data.k by name
}

func watch(t *testing.T, dir string) *watched {
	t.Helper()
	w := &watched{t: t, dir: dir, folder: open(t, dir), changes: make(chan Change, 1000), have: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.folder.Watch(ctx, testr.New(t), func(c Change) { w.changes <- c })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	w.next()
	return w
}

func (w *watched) next() {
	w.t.Helper()
	select {
	case c := <-w.changes:
		for ref, obj := range c.Put {
			if ref.Kind == "ConfigMap" {
				w.have[ref.Name] = obj.(*corev1.ConfigMap).Data["k"]
			}
		}
		for _, ref := range c.Deleted {
			delete(w.have, ref.Name)
		}
	case <-time.After(time.Minute):
		w.t.Fatalf("no change; have %v", w.have)
	}
}

// until takes changes until the ConfigMaps are as wanted ("a=1 b=2").
func (w *watched) until(want string) {
	w.t.Helper()
	for {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(w.have)) {
			words = append(words, name+"="+w.have[name])
		}
		if strings.Join(words, " ") == want {
			return
		}
		w.next()
	}
}

func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	write(t, dir, "a.yaml", configMap("a", "1"))
	w := watch(t, dir)
	w.until("a=1")

	write(t, dir, "a.yaml", configMap("a", "2")) // by rename
	w.until("a=2")
	path := filepath.Join(dir, "a.yaml")
	for i := range 50 { // in place, of the same size, faster than a clock may tick
		if err := os.WriteFile(path, []byte(configMap("a", fmt.Sprint(10+i))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.until("a=59")

	write(t, dir, "new/deep/b.yaml", configMap("b", "1"))
	w.until("a=59 b=1")
	write(t, dir, "new/deep/b.yaml", configMap("b", "2"))
	w.until("a=59 b=2")

	write(t, dir, "a.yaml", "apiVersion: [") // broken, then mended
	for len(w.folder.Problems()) == 0 {
		w.next()
	}
	w.until("a=59 b=2")
	write(t, dir, "a.yaml", configMap("a", "3"))
	w.until("a=3 b=2")

	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "moved/deep/b.yaml", configMap("b", "3"))
	w.until("a=3 b=3")
	if err := os.RemoveAll(filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	w.until("a=3")

	// The folder itself is replaced.
	write(t, dir+".next", "a.yaml", configMap("a", "4"))
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".next", dir); err != nil {
		t.Fatal(err)
	}
	w.until("a=4")
	write(t, dir, "a.yaml", configMap("a", "5"))
	w.until("a=5")
}

// A mounted ConfigMap is a link to a hidden folder, which is replaced by a rename.
func TestWatchMountedConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, value string) {
		t.Helper()
		write(t, dir, "..v"+version+"/a.yaml", configMap("a", value))
		if err := os.Symlink("..v"+version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("1", "1")
	if err := os.Symlink(filepath.Join("..data", "a.yaml"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	w := watch(t, dir)
	w.until("a=1")
	for i := 2; i < 6; i++ {
		publish(fmt.Sprint(i), fmt.Sprint(i))
		w.until(fmt.Sprintf("a=%d", i))
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..v%d", i-1))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchFollowsALinkToTheFolder(t *testing.T) {
	base := t.TempDir()
	write(t, base, "one/a.yaml", configMap("a", "1"))
	write(t, base, "two/a.yaml", configMap("a", "2"))
	link := filepath.Join(base, "current")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	w := watch(t, link)
	w.until("a=1")
	if err := os.Symlink("two", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	w.until("a=2")
	write(t, base, "two/a.yaml", configMap("a", "3"))
	w.until("a=3")
}

func TestWatchIsQuick(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", configMap("a", "0"))
	w := watch(t, dir)
	w.until("a=0")
	// The machine may be busy at times, but not each time.
	best, began := time.Hour, time.Now()
	for i := 1; best > 100*time.Millisecond; i++ {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("of %d changes each took %v or more", i-1, best)
		}
		start := time.Now()
		write(t, dir, "a.yaml", configMap("a", fmt.Sprint(i)))
		w.until(fmt.Sprintf("a=%d", i))
		best = min(best, time.Since(start))
	}
}
