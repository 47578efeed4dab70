package compile

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/controllers/objects"
)

// The kinds of the Gateway API that the manual speaks of, read or not.
var manualKinds = []objects.Object{
	&gatewayv1.GatewayClass{}, &gatewayv1.Gateway{}, &gatewayv1.ListenerSet{},
	&gatewayv1.HTTPRoute{}, &gatewayv1.GRPCRoute{}, &gatewayv1.TLSRoute{}, &gatewayv1.TCPRoute{}, &gatewayv1.UDPRoute{},
	&gatewayv1.ReferenceGrant{}, &gatewayv1.BackendTLSPolicy{},
	&gatewayxv1alpha1.XBackend{}, &gatewayxv1alpha1.XBackendTrafficPolicy{}, &gatewayxv1alpha1.XMesh{},
}

// TestManualHasEveryField holds the tables of docs/gateway-api.md against the
// types of the Gateway API: every field has a row, and every row a field. The
// tables are those whose first column is called "field", below a heading with
// the kind's name. Paths are below spec, or begin with "status."; "{a,b}" stands
// for either, and ".*" at the end for all that is below.
func TestManualHasEveryField(t *testing.T) {
	manual := readManual(t)
	for _, object := range manualKinds {
		kind := reflect.TypeOf(object).Elem()
		t.Run(kind.Name(), func(t *testing.T) {
			fields := map[string]bool{}
			for i := range kind.NumField() {
				switch f := kind.Field(i); f.Name {
				case "Spec":
					leaves(f.Type, "", fields)
				case "Status":
					leaves(f.Type, "status.", fields)
				}
			}
			covered := map[string]bool{}
			for _, row := range manual[kind.Name()] {
				for _, p := range row.paths {
					found := false
					for f := range fields {
						if f == p || strings.HasSuffix(p, ".*") && strings.HasPrefix(f, strings.TrimSuffix(p, "*")) {
							covered[f], found = true, true
						}
					}
					if !found {
						t.Errorf("the manual has a row for %s, which %s does not have", p, kind.Name())
					}
				}
			}
			for _, f := range slices.Sorted(maps.Keys(fields)) {
				if !covered[f] {
					t.Errorf("the manual has no row for %s", f)
				}
			}
		})
	}
}

// TestManualNamesGoldenCases finds what the manual says that a field is tested by.
func TestManualNamesGoldenCases(t *testing.T) {
	cited := regexp.MustCompile(`golden ([a-z0-9*-]+(?:, [a-z0-9*-]+)*)`)
	for kind, rows := range readManual(t) {
		for _, row := range rows {
			for _, list := range cited.FindAllStringSubmatch(row.text, -1) {
				for name := range strings.SplitSeq(list[1], ", ") {
					if found, err := filepath.Glob(path.Join("testdata", name, "in.yaml")); err != nil || len(found) == 0 {
						t.Errorf("%s, %s: there is no golden case %q", kind, row.paths, name)
					}
				}
			}
		}
	}
}

// manualRow is a row of one of the tables: the paths in its first cell, and all of its text.
type manualRow struct {
	paths []string
	text  string
}

// readManual returns the rows of the tables of fields, by kind.
func readManual(t *testing.T) map[string][]manualRow {
	t.Helper()
	text, err := os.ReadFile("../../docs/gateway-api.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := map[string][]manualRow{}
	kind, fields := "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		cells := strings.Split(line, "|")
		switch {
		case strings.HasPrefix(line, "## "):
			kind, fields = strings.TrimPrefix(line, "## "), false
		case !strings.HasPrefix(line, "|") || len(cells) < 3:
			fields = false
		case strings.TrimSpace(cells[1]) == "field":
			fields = true
		case fields:
			row := manualRow{text: line}
			for _, p := range quoted.FindAllStringSubmatch(cells[1], -1) {
				row.paths = append(row.paths, alternatives(p[1])...)
			}
			if len(row.paths) > 0 {
				rows[kind] = append(rows[kind], row)
			}
		}
	}
	return rows
}

// alternatives expands the first "{a,b}" of a path, and then the others.
func alternatives(p string) []string {
	before, rest, found := strings.Cut(p, "{")
	list, after, closed := strings.Cut(rest, "}")
	if !found || !closed {
		return []string{p}
	}
	var all []string
	for one := range strings.SplitSeq(list, ",") {
		all = append(all, alternatives(before+one+after)...)
	}
	return all
}
