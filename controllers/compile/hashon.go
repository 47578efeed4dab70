package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/expression"
	"github.com/headgate/headgate/dataplane/snapshot"
)

var hashKeys = []string{"ClientIP", "Consumer", "Cookie", "Expression", "Header", "Path", "QueryParam"}

// compileHashOn reads the hashOn of a stanza at field.
func compileHashOn(c *policyCompiler, field string, keys v1alpha1.HashKeys) (out []snapshot.HashKey) {
	for i, k := range keys {
		field := fmt.Sprintf("%s.hashOn[%d]", field, i)
		key := snapshot.HashKey{Type: string(k.Type), Name: valueOr(k.Name, ""), Expression: valueOr(k.Expression, "")}
		if !slices.Contains(hashKeys, key.Type) {
			c.invalid(field+".type", fmt.Sprintf("%q does not exist", key.Type), "one of "+strings.Join(hashKeys, ", "))
		}
		named := key.Type == "Cookie" || key.Type == "Header" || key.Type == "QueryParam"
		switch {
		case named && key.Name == "":
			c.invalid(field+".name", "it is not set", "the name that the type "+key.Type+" needs")
		case !named && k.Name != nil:
			c.invalid(field+".name", "the type "+key.Type+" has no name", "no name")
		case named && key.Type != "QueryParam" && !isToken(key.Name):
			c.invalid(field+".name", fmt.Sprintf("%q is no token", key.Name), "the name of a cookie or header field")
		}
		switch expressed := key.Type == "Expression"; {
		case expressed && key.Expression == "":
			c.invalid(field+".expression", "it is not set", "the expression that the type Expression needs")
		case !expressed && k.Expression != nil:
			c.invalid(field+".expression", "the type "+key.Type+" has no expression", "no expression")
		case expressed:
			if _, err := expression.Compile[string](key.Expression); err != nil {
				c.invalid(field+".expression", err.Error(), wantExpression)
			}
		}
		if set := k.SetCookie; set != nil {
			if key.Type != "Cookie" {
				c.invalid(field+".setCookie", "the type "+key.Type+" is no cookie", "no setCookie")
			}
			key.SetCookie = &snapshot.HashCookie{
				MaxAge: c.duration(field+".setCookie.maxAge", set.MaxAge, 0, time.Second, 87_600*time.Hour),
				Path:   valueOr(set.Path, "/"),
			}
			if path := key.SetCookie.Path; len(path) > 1024 || !cookiePath.MatchString(path) {
				c.invalid(field+".setCookie.path", fmt.Sprintf("%q is no path of a cookie", key.SetCookie.Path), `a path from "/" on, without ";"`)
			}
		}
		if i < len(keys)-1 && (key.Type == "ClientIP" || key.Type == "Path" || key.SetCookie != nil) {
			c.invalid(field, "every request has it, so that what follows is never reached", "it at the end")
		}
		out = append(out, key)
	}
	return out
}

var wantExpression = "an expression in CEL for a string, over " + strings.Join(expression.Variables(), ", ")

// cookiePath is what a Path attribute may be, RFC 6265 section 4.1.1.
var cookiePath = regexp.MustCompile(`^/[!-:<-~]*$`)
