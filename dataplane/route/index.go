// Package route finds the rule that serves a request: listener and virtual
// host by hostname (Hosts), then the route by path, method, headers and query
// parameters (Index). Nothing here allocates per request.
//
// # Hosts
//
// Hostnames are kept in two persistent tables, exact names and the suffixes of
// wildcards, so that changing one of thousands costs the logarithm of their
// number and readers need no lock. A lookup asks for the exact name, then for
// the wildcards from the longest suffix to the shortest, then for "*".
//
// # Index
//
// The routes of a virtual host come in order of precedence; a route's place in
// it is its ordinal, and the match is the matching route with the lowest
// ordinal. An index of paths finds the few candidates:
//
//   - exact paths are a hash table;
//   - prefixes are a trie of whole segments. Each node that ends a prefix points
//     up to the nearest such node above it, so that the walk goes down once to
//     the deepest node that the path reaches, and up from there;
//   - regular expressions are a list.
//
// Each of them lists ordinals in ascending order, and is passed over once its
// lowest is above the best found so far. With the Gateway API's order (exact,
// regular expression, longest prefix) that means: the first hit is the match.
//
// An awkward example, in order of precedence:
//
//	0  Exact       /shop/cart   header canary=yes
//	1  PathPrefix  /shop/cart   method POST
//	2  PathPrefix  /shop
//	3  PathPrefix  /            query debug=1
//
// For "GET /shop/cart?debug=1" the hash table leads to 0, whose header is
// missing. The trie is walked down to /shop/cart, whose only route wants a
// POST; up to /shop, where 2 matches. The root's lowest ordinal is 3: it cannot
// win and is not tried, although it would match. If 2 were not there, the walk
// would go on to the root and find 3; and if the virtual host had nothing that
// matches, the pipeline would ask the next less specific one.
package route

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Index finds a route of one virtual host. It is immutable.
type Index struct {
	routes []condition
	exact  map[string][]int32
	// patterns are the ordinals of routes with a regular expression.
	patterns []int32
	root     node
}

// none is above every ordinal.
const none = math.MaxInt32

// condition is a route's match without the parts that the index has decided,
// which are all but the pattern.
type condition struct {
	pattern *regexp.Regexp
	prefix  int // bytes of the path that the prefix covers
	method  string
	// preflight takes preflights for the method, too.
	preflight bool
	headers   []header
	query     []parameter
}

// node is a segment of a prefix; its path from the root spells the prefix.
type node struct {
	children map[string]*node
	ordinals []int32
	// up is the nearest node above with ordinals, and upFirst the lowest ordinal
	// of all nodes that following up leads to.
	up      *node
	upFirst int32
}

// Build indexes the routes of a virtual host, which are in order of precedence.
// It fails for a regular expression that is not RE2 and for an unknown type of match.
func Build(routes []*snapshot.Route) (*Index, error) {
	x := &Index{routes: make([]condition, len(routes))}
	for i, r := range routes {
		if err := x.add(int32(i), &r.Match); err != nil {
			return nil, fmt.Errorf("%s %s/%s, rule %s: %w",
				r.Rule.Source.Kind, r.Rule.Source.Namespace, r.Rule.Source.Name, r.Rule.Source.Section, err)
		}
	}
	x.root.link(nil)
	return x, nil
}

func (x *Index) add(ordinal int32, m *snapshot.Match) (err error) {
	c := &x.routes[ordinal]
	c.method, c.preflight = m.Method, m.Preflight
	if c.headers, err = headers(m.Headers); err != nil {
		return err
	}
	if c.query, err = parameters(m.Query); err != nil {
		return err
	}
	switch m.Path.Type {
	case "Exact":
		if x.exact == nil {
			x.exact = map[string][]int32{}
		}
		path := Normalize(m.Path.Value, new(exchange.Arena))
		x.exact[path] = append(x.exact[path], ordinal)
	case "PathPrefix":
		// A trailing slash does not count, HTTPPathMatch: "/abc/" is "/abc".
		prefix := strings.TrimSuffix(Normalize(m.Path.Value, new(exchange.Arena)), "/")
		if prefix != "" && prefix[0] != '/' {
			return fmt.Errorf("path prefix %q: want a path that begins with /", m.Path.Value)
		}
		c.prefix = len(prefix)
		n := x.root.descend(prefix)
		n.ordinals = append(n.ordinals, ordinal)
	case "RegularExpression":
		if c.pattern, err = compile(m.Path.Value); err != nil {
			return fmt.Errorf("path: %w", err)
		}
		x.patterns = append(x.patterns, ordinal)
	default:
		return fmt.Errorf("path match type %q: want Exact, PathPrefix or RegularExpression", m.Path.Type)
	}
	return nil
}

// compile makes a regular expression that matches whole values only.
func compile(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err // says it in terms of what was written
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// descend returns the node of a prefix, which begins with "/" or is empty, and
// makes the nodes on the way.
func (n *node) descend(prefix string) *node {
	for prefix != "" {
		var segment string
		segment, prefix = cutSegment(prefix)
		child := n.children[segment]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[segment] = child
		}
		n = child
	}
	return n
}

func (n *node) link(up *node) {
	n.up, n.upFirst = up, none
	if up != nil {
		n.upFirst = min(up.first(), up.upFirst)
	}
	if len(n.ordinals) > 0 {
		up = n
	}
	for _, child := range n.children {
		child.link(up)
	}
}

func (n *node) first() int32 {
	if len(n.ordinals) == 0 {
		return none
	}
	return n.ordinals[0]
}

// cutSegment cuts the first segment off a path that begins with "/"; the rest
// is empty or begins with "/".
func cutSegment(path string) (segment, rest string) {
	end := strings.IndexByte(path[1:], '/')
	if end < 0 {
		return path[1:], ""
	}
	return path[1 : 1+end], path[1+end:]
}

// Match returns the index of the first route that matches, -1 if none does, and
// how many bytes of ex.Path a prefix match covered, without a trailing slash.
// It reads ex.Path and ex.In, and may use ex.Arena.
func (x *Index) Match(ex *exchange.Exchange) (ordinal, prefix int) {
	best := int32(none)
	if x.exact != nil {
		best = x.first(x.exact[ex.Path], ex, best)
	}
	for _, o := range x.patterns {
		if o >= best {
			break
		}
		if c := &x.routes[o]; c.holds(ex) && c.pattern.MatchString(ex.Path) {
			best = o
			break
		}
	}
	if ex.Path != "" && ex.Path[0] == '/' {
		for n := x.deepest(ex.Path); n != nil; n = n.up {
			best = x.first(n.ordinals, ex, best)
			if best <= n.upFirst {
				break
			}
		}
	}
	if best == none {
		return -1, 0
	}
	return int(best), x.routes[best].prefix
}

// first returns the first of the ordinals whose route holds, if it is below best.
func (x *Index) first(ordinals []int32, ex *exchange.Exchange, best int32) int32 {
	for _, o := range ordinals {
		if o >= best {
			break
		}
		if x.routes[o].holds(ex) {
			return o
		}
	}
	return best
}

func (x *Index) deepest(path string) *node {
	n := &x.root
	for path != "" && n.children != nil {
		var segment string
		segment, path = cutSegment(path)
		child := n.children[segment]
		if child == nil {
			break
		}
		n = child
	}
	return n
}

// holds reports whether all conditions but the path's hold.
func (c *condition) holds(ex *exchange.Exchange) bool {
	if c.method != "" && c.method != ex.In.Method && !(c.preflight && c.method == ex.In.Preflight()) {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].holds(ex) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].holds(ex) {
			return false
		}
	}
	return true
}
