package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/headgate/headgate/controllers/admin"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/manifests"
	"github.com/headgate/headgate/controllers/objects"
)

func newCheck(s streams) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check FOLDER",
		Short: "Say what is wrong in a folder of manifests",
		Long: `Check compiles a folder of manifests as serving would, and prints everything
that is not fine: where it stands, in which object and field, what is wrong and
what would be right. It exits with 1 if there is anything, warnings aside, and
with 2 if the folder cannot be read.`,
		Example: `  headgate check ./shop
  headgate check -o json ./shop`,
		Args: oneFolder,
		RunE: func(_ *cobra.Command, args []string) error { return check(s, args[0], output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func oneFolder(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s: want one folder, got %d", cmd.Name(), len(args))}
	}
	return nil
}

// compileFolder reads and compiles a folder once.
func compileFolder(dir string) (*manifests.Folder, *compile.Result, error) {
	folder, err := manifests.Open(dir)
	if err != nil {
		return nil, nil, usageError{err}
	}
	change, _ := folder.Refresh()
	set := objects.NewSet()
	var changed []objects.Ref
	for ref, obj := range change.Put {
		set.Put(obj)
		changed = append(changed, ref)
	}
	slices.SortFunc(changed, objects.Ref.Compare)
	return folder, compile.Compile(nil, set, changed, compile.Options{}), nil
}

func check(s streams, dir, output string) error {
	if err := checkOutput(output, "table", "json", "yaml"); err != nil {
		return err
	}
	folder, result, err := compileFolder(dir)
	if err != nil {
		return err
	}
	entries := append(folderReport(folder, result), expiries(folder, result, time.Now())...)
	admin.SortEntries(entries)
	wrong := 0
	for _, e := range entries {
		if !e.Warning {
			wrong++
		}
	}
	if output == "table" {
		if err := checkTable(s.out, folder, entries, wrong); err != nil {
			return err
		}
	} else if err := write(s.out, output, entries); err != nil {
		return err
	}
	if wrong > 0 {
		return quietError{errors.New("not all is fine")}
	}
	return nil
}

// expiryNotice is how long before its end a certificate is warned of.
const expiryNotice = 14 * 24 * time.Hour

// expiries warns of the certificates that listeners serve and that have expired
// or soon will. Compile knows no clock, so that is no finding of its.
func expiries(folder *manifests.Folder, result *compile.Result, now time.Time) (entries []admin.Entry) {
	seen := map[objects.Ref]bool{}
	for _, port := range result.Snapshot.Ports {
		for _, l := range port.Listeners {
			if l.TLS == nil {
				continue
			}
			for _, c := range l.TLS.Certificates {
				secret := objects.Ref{Kind: c.Source.Kind, Namespace: c.Source.Namespace, Name: c.Source.Name}
				if seen[secret] || now.Add(expiryNotice).Before(c.NotAfter) {
					continue
				}
				seen[secret] = true
				message := "the certificate expires at "
				if now.After(c.NotAfter) {
					message = "the certificate has expired at "
				}
				place := folder.Place(secret, "data")
				entries = append(entries, admin.Entry{
					File: place.File, Line: place.Line, Object: secret.String(), Field: "data", Warning: true,
					Message: message + c.NotAfter.UTC().Format(time.RFC3339), Want: "a new certificate",
				})
			}
		}
	}
	return entries
}

func checkTable(w io.Writer, folder *manifests.Folder, entries []admin.Entry, wrong int) error {
	if len(entries) > 0 {
		t := newTable("WHERE", "OBJECT", "FIELD", "WRONG", "RIGHT")
		for _, e := range entries {
			message := e.Message
			if e.Warning {
				message = "warning: " + message
			}
			t.row(e.Place(), e.Object, e.Field, message, e.Want)
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	files, count := folder.Len()
	if wrong > 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "ok: %s in %s\n", plural(count, "object"), plural(files, "file"))
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func checkOutput(output string, allowed ...string) error {
	if !slices.Contains(allowed, output) {
		return usageError{fmt.Errorf("--output %q: want one of %v", output, allowed)}
	}
	return nil
}

// write writes a value as json or yaml.
func write(w io.Writer, output string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if output == "yaml" {
		text, err = yaml.JSONToYAML(text)
	} else {
		text = append(text, '\n')
	}
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
