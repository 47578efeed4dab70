package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/admin"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/loop"
	"github.com/headgate/headgate/controllers/manifests"
	"github.com/headgate/headgate/controllers/objects"
)

// standalone gets its objects from a folder.
type standalone struct {
	folder *manifests.Folder
	opts   *serveOptions
	log    logr.Logger
	// told are the folder's problems that were logged and still hold. Only the watch's goroutine uses it.
	told map[string]bool
}

func newStandalone(o *serveOptions, log logr.Logger) (*standalone, error) {
	folder, err := manifests.Open(o.manifests)
	if err != nil {
		return nil, fmt.Errorf("--manifests: %w", err)
	}
	return &standalone{folder: folder, opts: o, log: log, told: map[string]bool{}}, nil
}

func (s *standalone) connect(context.Context) error { return nil }

func (s *standalone) waiting() string { return "" }

func (s *standalone) loopOptions(o *loop.Options) {
	o.Compile = compile.Options{Addresses: s.opts.bindAddresses}
	o.Published = s.published
}

func (s *standalone) shutdownDelay() time.Duration { return 0 }

func (s *standalone) run(ctx context.Context, l *loop.Loop) error {
	first := true
	s.folder.Watch(ctx, s.log, func(change manifests.Change) {
		s.tell(s.folder.Problems())
		put := make(map[objects.Ref]client.Object, len(change.Put))
		for ref, obj := range change.Put {
			put[ref] = obj
		}
		l.Change(put, change.Deleted)
		if !first {
			return
		}
		// Authentication fails closed: a start does not serve what a file that
		// cannot be read may guard. Once served, it stays as it last was.
		if closed := s.folder.Closed(); len(closed) > 0 {
			s.log.Info("Not serving yet: these files cannot be read and may hold an AuthPolicy or BackendTLSPolicy; mend or remove them", "files", closed)
			return
		}
		first = false
		l.Ready()
	})
	return nil
}

// tell logs the folder's problems that are new, and those that are gone.
func (s *standalone) tell(problems []manifests.Problem) {
	now := map[string]bool{}
	for _, p := range problems {
		text := p.String()
		now[text] = true
		if s.told[text] {
			continue
		}
		if p.Warning {
			s.log.Info("Left out: " + text)
		} else {
			s.log.Info("Refused: " + text)
		}
	}
	for text := range s.told {
		if !now[text] {
			s.log.V(1).Info("No longer so: " + text)
		}
	}
	if len(s.told) > 0 && len(now) == 0 {
		s.log.Info("All files are fine now")
	}
	s.told = now
}

// published logs what a result says about the objects that it changed.
func (s *standalone) published(result *compile.Result) {
	for _, ref := range result.ChangedFindings {
		findings := result.FindingsOf(ref)
		for _, f := range findings {
			s.log.Info("Not as written: " + entryText(findingEntry(s.folder, f)))
		}
		if len(findings) == 0 {
			s.log.Info("Fine now: " + ref.String())
		}
	}
	for _, ref := range result.ChangedStatuses {
		if result.Status(ref) != nil && len(result.FindingsOf(ref)) == 0 {
			s.log.V(1).Info("Accepted: " + ref.String())
		}
	}
	d := result.Delta
	if d.Empty() {
		return
	}
	s.log.Info("Applied",
		"ports", len(result.Snapshot.Ports),
		"hosts", result.Snapshot.Hosts.Len(), "changedHosts", len(d.Hosts),
		"clusters", result.Snapshot.Clusters.Len(), "changedClusters", len(d.Clusters),
		"changedEndpoints", len(d.Endpoints))
}

func (s *standalone) report(result *compile.Result) []admin.Entry {
	return folderReport(s.folder, result)
}

// folderReport is everything that is not fine in a folder, by file and line.
func folderReport(folder *manifests.Folder, result *compile.Result) []admin.Entry {
	entries := []admin.Entry{}
	for _, p := range folder.Problems() {
		e := admin.Entry{
			File: p.File, Line: p.Line, Field: p.Field, Message: p.Message, Want: p.Want, Warning: p.Warning,
		}
		if p.Object.Kind != "" {
			e.Object = p.Object.String()
		}
		entries = append(entries, e)
	}
	if result != nil {
		for _, f := range result.Findings() {
			entries = append(entries, findingEntry(folder, f))
		}
	}
	admin.SortEntries(entries)
	return entries
}

// findingEntry places a finding; folder may be nil.
func findingEntry(folder *manifests.Folder, f compile.Finding) admin.Entry {
	e := admin.Entry{
		Object: f.Object.String(), Field: f.Field, Message: f.Message, Want: f.Want,
		Condition: f.Condition, Reason: f.Reason,
	}
	if folder != nil {
		place := folder.Place(f.Object, f.Field)
		e.File, e.Line = place.File, place.Line
	}
	return e
}

// entryText is an entry in one line.
func entryText(e admin.Entry) string {
	text := e.Object + ": "
	if e.File != "" {
		text = e.Place() + ": " + text
	}
	if e.Field != "" {
		text += e.Field + " "
	}
	text += e.Message
	if e.Want != "" {
		text += "; want: " + e.Want
	}
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text
}
