package session

import (
	"regexp"
	"strings"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// CookiePath returns the Path attribute for requests of a match, GEP-1619
// "Path": the match's path, of a regular expression the longest part that is
// none, and not more of it than an attribute can say.
func CookiePath(m *snapshot.PathMatch) string {
	path, whole := m.Value, true
	switch m.Type {
	case "PathPrefix":
		path = strings.TrimRight(path, "/") // "/a/" covers "/a", too
	case "RegularExpression":
		re, err := regexp.Compile(strings.TrimPrefix(path, "^"))
		if err != nil {
			return "/"
		}
		path, whole = re.LiteralPrefix()
	}
	// RFC 6265 section 4.1.1: any character but controls and ";".
	if i := strings.IndexFunc(path, func(c rune) bool { return c <= ' ' || c == ';' || c >= 0x7f }); i >= 0 {
		path, whole = path[:i], false
	}
	if !whole {
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
	if !strings.HasPrefix(path, "/") {
		return "/"
	}
	return path
}
