package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// maxFileSize bounds a file, in bytes.
const maxFileSize = 64 << 20

// halfWritten is how long a file that became empty is taken for one that is
// just being written.
const halfWritten = 100 * time.Millisecond

// Folder is a folder of manifests. Refresh and Watch belong to one goroutine;
// the other methods are safe for concurrent use.
type Folder struct {
	dir string

	mu    sync.Mutex
	files map[string]*file // by path
	// holders are the files that hold an object, sorted; owner is the one whose object counts.
	holders map[objects.Ref][]string
	owner   map[objects.Ref]string
	current map[objects.Ref]objects.Object
	// inNamespace counts the objects in each namespace; those without a
	// Namespace object of their own get one, as every namespace of a cluster has.
	inNamespace map[string]int
	// trouble is what kept the folder itself from being read.
	trouble []Problem

	// As of the last scan: the folder with those in it, and where links in them lead.
	dirs, linked []string

	// parsedText is the text that parsedNodes came from: errors tend to come from one file.
	parsedText  []byte
	parsedNodes []*yaml.Node
}

// file is one file as it was last read.
type file struct {
	stamp    stamp
	text     []byte
	docs     map[objects.Ref]document
	problems []Problem
	// closed says that the file never could be read so far, and may hold an
	// AuthPolicy or BackendTLSPolicy: what that would guard is not known.
	closed bool
}

// stamp tells whether a file may have changed.
type stamp struct {
	modified time.Time
	size     int64
	info     os.FileInfo
}

func (s stamp) same(other stamp) bool {
	return s.size == other.size && s.modified.Equal(other.modified) &&
		(s.info == nil) == (other.info == nil) && (s.info == nil || os.SameFile(s.info, other.info))
}

// Open returns the folder, nothing read yet. It fails if dir is not a folder
// that can be read.
func Open(dir string) (*Folder, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is a file, not a folder", dir)
	}
	if err == nil {
		_, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, err
	}
	return &Folder{
		dir:         filepath.Clean(dir),
		files:       map[string]*file{},
		holders:     map[objects.Ref][]string{},
		owner:       map[objects.Ref]string{},
		current:     map[objects.Ref]objects.Object{},
		inNamespace: map[string]int{},
	}, nil
}

// Refresh looks at what is said to have changed, or at everything if nothing is
// said, and returns what follows from it. Later, if not 0, is when to look
// again, for a file that seems to be half written.
func (f *Folder) Refresh(paths ...string) (change Change, later time.Duration) {
	found, gone, all := f.look(paths)
	trouble := f.trouble
	if all {
		found, trouble = f.scan()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	change.Problems = len(f.trouble)+len(trouble) > 0
	f.trouble = trouble

	touched := map[objects.Ref]bool{}
	var stale []string
	for _, path := range slices.Sorted(maps.Keys(found)) {
		old, stamp := f.files[path], found[path]
		if old != nil && old.stamp.same(stamp) && !slices.Contains(paths, path) {
			continue
		}
		if old != nil && len(old.docs) > 0 && stamp.size == 0 && time.Since(stamp.modified) < halfWritten {
			later = halfWritten
			continue
		}
		stale = append(stale, path)
	}
	texts := f.readAll(stale, found)
	for i, path := range stale {
		if f.replace(path, found[path], texts[i], touched) {
			change.Problems = true
		}
	}
	for path, old := range f.files {
		_, there := found[path]
		if !slices.Contains(gone, path) && (!all || there || len(trouble) > 0) {
			continue // of what can't be read nothing is deleted
		}
		delete(f.files, path)
		for ref := range old.docs {
			f.unhold(ref, path)
			touched[ref] = true
		}
		change.Problems = change.Problems || len(old.problems) > 0
	}
	f.settle(touched, &change)
	return change, later
}

// look tells which files are meant by changed paths, without looking at all of
// them. It asks for all where that is not enough: folders and links change more
// than themselves.
func (f *Folder) look(paths []string) (found map[string]stamp, gone []string, all bool) {
	found = map[string]stamp{}
	for _, path := range paths {
		name := filepath.Base(path)
		if !slices.Contains(f.dirs, filepath.Dir(path)) || strings.HasPrefix(name, "..") {
			return nil, nil, true
		}
		if strings.HasPrefix(name, ".") {
			continue
		}
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && f.files[path] != nil:
			gone = append(gone, path)
		case errors.Is(err, fs.ErrNotExist) && !slices.Contains(f.dirs, path):
			// It came and went.
		case err != nil || !info.Mode().IsRegular():
			return nil, nil, true
		case isManifest(path):
			found[path] = stamp{info.ModTime(), info.Size(), info}
		}
	}
	return found, gone, len(paths) == 0 || len(f.trouble) > 0
}

// reading is a file's text and what was parsed from it; parsed is nil if the
// text is the one that is known, or if there is an error.
type reading struct {
	text   []byte
	parsed *parsed
	err    error
}

// readAll reads and parses files, several at once: admitting a route takes half
// a millisecond, and a folder may have thousands.
func (f *Folder) readAll(paths []string, stamps map[string]stamp) []reading {
	readings := make([]reading, len(paths))
	var (
		wg   sync.WaitGroup
		next atomic.Int64
	)
	for range min(runtime.GOMAXPROCS(0), len(paths)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(paths) {
					return
				}
				r := &readings[i]
				if r.text, r.err = readFile(paths[i], stamps[paths[i]]); r.err != nil {
					continue
				}
				if old := f.files[paths[i]]; old == nil || old.text == nil || !bytes.Equal(old.text, r.text) {
					r.parsed = parse(paths[i], r.text)
				}
			}
		})
	}
	wg.Wait()
	return readings
}

// replace takes over what was read of a file and notes the objects that may
// have changed. It reports whether the file's problems may have.
func (f *Folder) replace(path string, stamp stamp, r reading, touched map[objects.Ref]bool) bool {
	old := f.files[path]
	if old == nil {
		old = &file{}
		f.files[path] = old
	}
	hadProblems := len(old.problems) > 0
	old.stamp = stamp
	if r.err != nil {
		old.closed = len(old.docs) == 0
		old.text = nil
		old.problems = []Problem{{Place: Place{File: path}, Message: "cannot be read: " + reason(r.err), Want: "a file that Headgate may read, of at most 64 MiB"}}
		return true
	}
	if r.parsed == nil {
		return false
	}
	result := r.parsed
	docs := make(map[objects.Ref]document, len(result.docs))
	for _, doc := range result.docs {
		docs[doc.ref] = doc
	}
	for ref, doc := range old.docs {
		_, refused := result.refused[ref]
		if _, ok := docs[ref]; !ok && (result.unclear || refused) && !isStandIn(doc) {
			docs[ref] = doc
		}
	}
	for ref, stand := range result.refused {
		if _, ok := docs[ref]; !ok && stand != nil {
			docs[ref] = *stand
		}
	}
	for ref := range old.docs {
		touched[ref] = true
		if _, ok := docs[ref]; !ok {
			f.unhold(ref, path)
		}
	}
	for ref := range docs {
		touched[ref] = true
		if _, ok := old.docs[ref]; !ok {
			f.hold(ref, path)
		}
	}
	old.closed = result.unclear && len(old.docs) == 0 && holdsGuard(r.text)
	old.text, old.docs, old.problems = r.text, docs, result.problems
	return hadProblems || len(result.problems) > 0
}

// holdsGuard reports whether a text that cannot be read may hold what standIn
// stands in for.
func holdsGuard(text []byte) bool {
	return bytes.Contains(text, []byte("AuthPolicy")) || bytes.Contains(text, []byte("BackendTLSPolicy"))
}

func isStandIn(doc document) bool {
	_, refused := doc.obj.GetAnnotations()[v1alpha1.RefusedAnnotation]
	return refused
}

func readFile(path string, stamp stamp) ([]byte, error) {
	if stamp.size > maxFileSize {
		return nil, errors.New("it is too large")
	}
	return os.ReadFile(path)
}

func reason(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}

func (f *Folder) hold(ref objects.Ref, path string) {
	list := f.holders[ref]
	if i, ok := slices.BinarySearch(list, path); !ok {
		f.holders[ref] = slices.Insert(list, i, path)
	}
}

func (f *Folder) unhold(ref objects.Ref, path string) {
	list := f.holders[ref]
	if i, ok := slices.BinarySearch(list, path); ok {
		f.holders[ref] = slices.Delete(list, i, i+1)
	}
	if len(f.holders[ref]) == 0 {
		delete(f.holders, ref)
	}
}

// settle decides which object counts under each name, and what changed by it.
func (f *Folder) settle(touched map[objects.Ref]bool, change *Change) {
	namespaces := map[string]bool{}
	for ref := range touched {
		holders := f.holders[ref]
		if len(holders) > 1 {
			change.Problems = true
		}
		if len(holders) == 0 {
			if _, ok := f.owner[ref]; ok {
				delete(f.owner, ref)
				f.count(ref, -1, namespaces)
			}
			if ref.Kind == "Namespace" {
				namespaces[ref.Name] = true
			} else {
				f.put(ref, nil, change)
			}
			continue
		}
		if _, ok := f.owner[ref]; !ok {
			f.count(ref, 1, namespaces)
		}
		// An object that counts goes on to count, wherever another appears.
		if !slices.Contains(holders, f.owner[ref]) {
			f.owner[ref] = holders[0]
		}
		f.put(ref, f.files[f.owner[ref]].docs[ref].obj, change)
	}
	for name := range namespaces {
		ref := objects.Ref{Kind: "Namespace", Name: name}
		if _, declared := f.owner[ref]; declared {
			continue
		}
		var obj objects.Object
		if f.inNamespace[name] > 0 {
			obj = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		}
		f.put(ref, obj, change)
	}
	slices.SortFunc(change.Deleted, objects.Ref.Compare)
}

func (f *Folder) count(ref objects.Ref, by int, namespaces map[string]bool) {
	if ref.Namespace == "" {
		return
	}
	f.inNamespace[ref.Namespace] += by
	namespaces[ref.Namespace] = true
	if f.inNamespace[ref.Namespace] == 0 {
		delete(f.inNamespace, ref.Namespace)
	}
}

// put makes obj, or nothing if it is nil, what counts as ref, and enters it in
// the change if it differs from before, with the next generation.
func (f *Folder) put(ref objects.Ref, obj objects.Object, change *Change) {
	old := f.current[ref]
	if obj == nil {
		if old != nil {
			delete(f.current, ref)
			change.Deleted = append(change.Deleted, ref)
		}
		return
	}
	obj = obj.DeepCopyObject().(objects.Object)
	if ns, ok := obj.(*corev1.Namespace); ok {
		// As the API server does.
		metav1.SetMetaDataLabel(&ns.ObjectMeta, corev1.LabelMetadataName, ns.Name)
	}
	obj.SetGeneration(1)
	if old != nil {
		obj.SetGeneration(old.GetGeneration())
		if equality.Semantic.DeepEqual(old, obj) {
			return
		}
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	f.current[ref] = obj
	if change.Put == nil {
		change.Put = map[objects.Ref]objects.Object{}
	}
	change.Put[ref] = obj
}

// Closed returns the files, sorted, that never could be read and may hold an
// AuthPolicy or BackendTLSPolicy. To begin to serve without them could open what they guard.
func (f *Folder) Closed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var paths []string
	for path, file := range f.files {
		if file.closed {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Problems returns everything that is wrong in the files, sorted by file and line.
func (f *Folder) Problems() []Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.Clone(f.trouble)
	for _, file := range f.files {
		list = append(list, file.problems...)
	}
	for ref, holders := range f.holders {
		if len(holders) < 2 {
			continue
		}
		owner := f.owner[ref]
		for _, path := range holders {
			if path != owner {
				doc := f.files[path].docs[ref]
				list = append(list, duplicate(path, &doc, Place{owner, f.files[owner].docs[ref].line}))
			}
		}
	}
	sortProblems(list)
	return list
}

// Place returns where a field of an object that counts stands, or what is
// nearest to it: a field that was defaulted, or is missing, stands nowhere.
// It is the zero Place for an object that no file holds.
func (f *Folder) Place(ref objects.Ref, field string) Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, ok := f.owner[ref]
	if !ok {
		return Place{}
	}
	doc := f.files[path].docs[ref]
	if len(f.parsedText) == 0 || &f.parsedText[0] != &doc.text[0] {
		nodes, err := documents(doc.text)
		if err != nil {
			return Place{path, doc.line}
		}
		f.parsedText, f.parsedNodes = doc.text, nodes
	}
	return Place{path, lineOf(items(f.parsedNodes[doc.document])[doc.item], field)}
}

// Len returns the number of files with objects in them, and of objects that count.
func (f *Folder) Len() (files, count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range f.files {
		if len(file.docs) > 0 {
			files++
		}
	}
	return files, len(f.owner)
}

// scan finds the files to read, and the folders to watch.
func (f *Folder) scan() (map[string]stamp, []Problem) {
	s := &scanner{found: map[string]stamp{}, seen: map[string]bool{}}
	s.folder(f.dir)
	slices.Sort(s.linked)
	f.dirs, f.linked = s.dirs, slices.Compact(s.linked)
	return s.found, s.trouble
}

type scanner struct {
	found   map[string]stamp
	seen    map[string]bool // real paths of folders, as links may go round
	dirs    []string
	linked  []string
	trouble []Problem
}

func (s *scanner) folder(dir string) {
	real, err := filepath.EvalSymlinks(dir)
	var entries []fs.DirEntry
	if err == nil {
		if s.seen[real] {
			return
		}
		s.seen[real] = true
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		s.trouble = append(s.trouble, Problem{
			Place: Place{File: dir}, Message: "cannot be read: " + reason(err) + "; what it held stays", Want: "a folder that Headgate may read",
		})
		return
	}
	s.dirs = append(s.dirs, dir)
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if strings.HasPrefix(entry.Name(), ".") {
			continue // hidden, an editor's own, or the inside of a mounted ConfigMap
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // gone since, or a link to nothing
		case err != nil:
			s.trouble = append(s.trouble, Problem{
				Place: Place{File: path}, Message: "cannot be read: " + reason(err), Want: "a file that Headgate may read",
			})
		case info.IsDir():
			s.folder(path)
		case info.Mode().IsRegular() && isManifest(path):
			s.found[path] = stamp{info.ModTime(), info.Size(), info}
			if entry.Type()&fs.ModeSymlink != 0 {
				if target, err := filepath.EvalSymlinks(path); err == nil {
					s.linked = append(s.linked, filepath.Dir(target))
				}
			}
		}
	}
}

func isManifest(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
