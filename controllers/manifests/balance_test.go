package manifests

import (
	"fmt"
	"strings"
	"testing"
)

// TestBalanceRules holds the CEL rules of BackendPolicy's balance: what an
// algorithm makes no use of is refused, as compile does where there is no CEL.
func TestBalanceRules(t *testing.T) {
	for text, want := range map[string]string{
		"{algorithm: RoundRobin, slowStart: {window: 30s, aggression: \"1.5\"}, loadReports: true}":                                            "",
		"{slowStart: {window: 30s}, locality: Any}":                                                                                            "",
		"{algorithm: FirstAvailable, maxRequests: 10}":                                                                                         "",
		"{algorithm: Maglev, hashOn: [{type: Header, name: X-User}, {type: QueryParam, name: a b}, {type: ClientIP}], hashBalanceFactor: 125}": "",
		"{algorithm: RingHash, hashOn: [{type: Consumer}, {type: Cookie, name: a, setCookie: {maxAge: 1h, path: /x}}]}":                        "",

		"{}":                           "want",
		"{algorithm: RingHash}":        "hashOn must be set with RingHash and Maglev, and only then",
		"{hashOn: [{type: ClientIP}]}": "hashOn must be set with RingHash and Maglev, and only then",
		"{hashBalanceFactor: 125}":     "hashBalanceFactor can only be set with RingHash and Maglev",
		"{algorithm: FirstAvailable}":  "maxRequests must be set with FirstAvailable, and only then",
		"{maxRequests: 1}":             "maxRequests must be set with FirstAvailable, and only then",
		"{algorithm: IPHash, slowStart: {window: 30s}}":                                    "slowStart can only be set with",
		"{algorithm: LeastRequest, loadReports: true}":                                     "loadReports can only be set with RoundRobin and Random",
		"{slowStart: {window: 10ms}}":                                                      "must be from 1s to 1h",
		"{slowStart: {window: 10s, aggression: \"0\"}}":                                    "must be from 0.1 to 10",
		"{algorithm: Maglev, hashOn: [{type: Path}, {type: ClientIP}]}":                    "nothing can follow them",
		"{algorithm: Maglev, hashOn: [{type: Header}]}":                                    "name must be set if type is Cookie, Header or QueryParam",
		"{algorithm: Maglev, hashOn: [{type: Path, name: a}]}":                             "name must be set if type is Cookie, Header or QueryParam",
		"{algorithm: Maglev, hashOn: [{type: Header, name: \"a b\"}]}":                     "a token",
		"{algorithm: Maglev, hashOn: [{type: Header, name: a, setCookie: {}}]}":            "setCookie can only be set with type Cookie",
		"{algorithm: Maglev, hashOn: [{type: Cookie, name: a, setCookie: {maxAge: 1ms}}]}": "must be from 1s to 87600h",
	} {
		dir := t.TempDir()
		write(t, dir, "f.yaml", fmt.Sprintf("apiVersion: headgate.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {name: p}\nspec:\n"+
			"  targetRefs: [{group: \"\", kind: Service, name: s}]\n  balance: %s\n", text))
		f := open(t, dir)
		f.Refresh()
		got := ""
		for _, p := range f.Problems() {
			got += p.String() + "\n"
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
