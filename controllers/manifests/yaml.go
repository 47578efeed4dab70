package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/headgate/headgate/controllers/manifests/schema"
	"github.com/headgate/headgate/controllers/objects"
)

// Bounds on one document, so that aliases can't blow it up.
const (
	maxDepth = 100
	maxNodes = 1 << 18
)

// documents parses a stream of YAML documents; JSON is YAML. Empty documents
// are left out.
func documents(text []byte) ([]*yaml.Node, error) {
	var nodes []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, err
		}
		if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
			nodes = append(nodes, doc.Content[0])
		}
	}
}

// items returns the objects of a document: itself, or those of a List.
func items(doc *yaml.Node) []*yaml.Node {
	if kind := field(doc, "kind"); kind != nil && kind.Value == "List" {
		if list := field(doc, "items"); list != nil && list.Kind == yaml.SequenceNode {
			return list.Content
		}
	}
	return []*yaml.Node{doc}
}

func field(node *yaml.Node, name string) *yaml.Node {
	node = resolve(node)
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == name {
			return resolve(node.Content[i+1])
		}
	}
	return nil
}

func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// lineOf returns the line of the field at a path, or of what is nearest to it.
func lineOf(node *yaml.Node, path string) int {
	line, steps := node.Line, schema.Steps(path)
	for len(steps) > 0 {
		node = resolve(node)
		switch node.Kind {
		case yaml.MappingNode:
			at := -1
			_, n := schema.Key(steps, func(key string) bool {
				for i := 0; i+1 < len(node.Content); i += 2 {
					if node.Content[i].Value == key {
						at = i
						return true
					}
				}
				return false
			})
			if n == 0 {
				return line
			}
			line, node, steps = node.Content[at].Line, node.Content[at+1], steps[n:]
		case yaml.SequenceNode:
			i := steps[0].Index
			if i < 0 || i >= len(node.Content) {
				return line
			}
			node, steps = node.Content[i], steps[1:]
			line = node.Line
		default:
			return line
		}
	}
	return line
}

// fault is something in a document that cannot be turned into JSON.
type fault struct {
	line                 int
	field, message, hint string
}

// converter turns a node into what decoding JSON would give.
type converter struct {
	nodes  int
	faults []fault
}

func (c *converter) fault(node *yaml.Node, path, message, hint string) any {
	c.faults = append(c.faults, fault{node.Line, strings.TrimPrefix(path, "."), message, hint})
	return nil
}

func (c *converter) convert(node *yaml.Node, path string, depth int) any {
	if c.nodes++; c.nodes > maxNodes || depth > maxDepth {
		if c.nodes <= maxNodes+1 || depth == maxDepth+1 {
			c.fault(node, path, "is too deep or too large", "at most 100 levels and 262,144 values, aliases included")
			c.nodes = maxNodes + 2
		}
		return nil
	}
	switch node.Kind {
	case yaml.AliasNode:
		return c.convert(node.Alias, path, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for i, item := range node.Content {
			list = append(list, c.convert(item, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
		return list
	case yaml.MappingNode:
		return c.mapping(node, path, depth)
	}
	return c.scalar(node, path)
}

func (c *converter) mapping(node *yaml.Node, path string, depth int) any {
	m := make(map[string]any, len(node.Content)/2)
	lines := make(map[string]int, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			continue
		}
		if resolve(key).Kind != yaml.ScalarNode {
			c.fault(key, path, "has a key that is not text", "keys that are names")
			continue
		}
		name := resolve(key).Value
		at := path + "." + name
		if line, dup := lines[name]; dup {
			c.fault(key, at, fmt.Sprintf("is there twice, first in line %d", line), "each field once")
			continue
		}
		lines[name] = key.Line
		m[name] = c.convert(value, at, depth+1)
	}
	// What the mapping says itself wins over what it merges in.
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].ShortTag() != "!!merge" {
			continue
		}
		sources := []*yaml.Node{node.Content[i+1]}
		if r := resolve(sources[0]); r.Kind == yaml.SequenceNode {
			sources = r.Content
		}
		for _, source := range sources {
			merged, ok := c.convert(source, path, depth+1).(map[string]any)
			if !ok {
				c.fault(source, path, "merges (<<) what is not an object", "an alias of an object")
			}
			for name, value := range merged {
				if _, has := m[name]; !has {
					m[name] = value
				}
			}
		}
	}
	return m
}

// yaml11Booleans are plain words that kubectl, which reads YAML 1.1, takes for booleans.
var yaml11Booleans = map[string]bool{
	"y": true, "Y": true, "yes": true, "Yes": true, "YES": true, "on": true, "On": true, "ON": true,
	"n": false, "N": false, "no": false, "No": false, "NO": false, "off": false, "Off": false, "OFF": false,
}

func (c *converter) scalar(node *yaml.Node, path string) any {
	switch node.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := node.Decode(&v); err != nil {
			return c.fault(node, path, fmt.Sprintf("%q cannot be read: %v", node.Value, err), "a number, true, false, or text in quotes")
		}
		switch v := v.(type) {
		case bool:
			return v
		case int:
			return int64(v)
		case int64:
			return v
		case uint64:
			return float64(v)
		case float64:
			if math.IsInf(v, 0) || math.IsNaN(v) {
				return c.fault(node, path, fmt.Sprintf("%s is not a number in JSON", node.Value), "a finite number")
			}
			if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
				return int64(v)
			}
			return v
		}
	}
	if b, ok := yaml11Booleans[node.Value]; ok && node.Style == 0 {
		return b
	}
	return node.Value
}

var (
	lineInError = regexp.MustCompile(`line (\d+)`)
	kindLine    = regexp.MustCompile(`(?m)^\s{0,2}"?kind"?:\s*"?([A-Za-z]+)`)
	nameLine    = regexp.MustCompile(`(?m)^metadata:\s*(?:#.*)?\n(?:[ \t]+.*\n)*?[ \t]+name:\s*"?([^\s"#]+)|^metadata:\s*\{.*?name:\s*"?([^\s",}]+)`)
	spaceLine   = regexp.MustCompile(`(?m)^metadata:\s*(?:#.*)?\n(?:[ \t]+.*\n)*?[ \t]+namespace:\s*"?([^\s"#]+)`)
	keyInLine   = regexp.MustCompile(`^\s*(?:- )*\s*"?([A-Za-z][A-Za-z0-9_./-]*)"?\s*:`)
)

// syntaxProblem describes a file that the parser gave up on. The object and the
// field are read off the text around the line, as there is no tree to ask.
func syntaxProblem(file string, text []byte, err error) Problem {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := lineInError.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = strings.TrimPrefix(message, m[0]+": ")
	}
	lines := strings.SplitAfter(string(text), "\n")
	line = min(max(line, 1), len(lines))
	first, last := line-1, line
	for first > 0 && !strings.HasPrefix(lines[first], "---") {
		first--
	}
	for last < len(lines) && !strings.HasPrefix(lines[last], "---") {
		last++
	}
	document := strings.Join(lines[first:last], "")
	p := Problem{Place: Place{file, line}, Message: "is not valid YAML: " + message, Want: syntaxHint(message, lines[line-1])}
	if m := kindLine.FindStringSubmatch(document); m != nil {
		p.Object.Kind = m[1]
	}
	if m := nameLine.FindStringSubmatch(document); m != nil {
		p.Object.Name = m[1] + m[2]
		p.Object.Namespace = "default"
	}
	if m := spaceLine.FindStringSubmatch(document); m != nil {
		p.Object.Namespace = m[1]
	}
	if clusterScoped(p.Object.Kind) {
		p.Object.Namespace = ""
	}
	for i := line - 1; i >= first && p.Field == ""; i-- {
		if m := keyInLine.FindStringSubmatch(lines[i]); m != nil {
			p.Field = m[1]
		}
	}
	return p
}

func clusterScoped(kind string) bool {
	for _, k := range objects.Kinds {
		if k.Name == kind {
			return k.ClusterScoped
		}
	}
	return false
}

func syntaxHint(message, line string) string {
	switch {
	case strings.Contains(line, "\t"):
		return "spaces instead of tabs"
	case strings.Contains(message, "mapping values are not allowed"):
		return "quotes around text that contains a colon, or the right indentation"
	case strings.Contains(message, "found character that cannot start any token"):
		return "quotes around text that begins with @, `, % or a tab"
	case strings.Contains(message, "',' or"), strings.Contains(message, "did not find expected") && strings.ContainsAny(line, "[{"):
		return "a closing bracket for each that opens"
	case strings.Contains(message, "unknown anchor"):
		return "an anchor (&name) before its alias (*name), or quotes around text that begins with *"
	}
	return "fields of one object at the same indentation, and one blank after each colon"
}
