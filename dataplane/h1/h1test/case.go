// Package h1test runs tables of raw HTTP/1.1 messages against a proxy: a
// client that sends exactly those bytes, and an upstream that records exactly
// what it got. The tables are in ../testdata; case.go describes their format.
package h1test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Case is one connection of a client.
//
// In a file a case begins with a line "=== name"; lines "key: value" follow:
//
//	why       the section or the attack that the case is about
//	client    bytes that the client sends; repeated lines are writes of their own, the second of which
//	          waits for the status 100 if that is the first
//	shut      "yes": the client shuts down its direction after that
//	upstream  bytes of the upstream's next response; a value that begins with "+" adds to the last
//	whole     "yes": that is always one write, since a proxy cannot tell what is unasked for from what is late
//	end       "close": the upstream closes after its last response and after empty ones; "reset": it resets
//	status    the statuses that the client gets, interim ones too, then "keep" or "close"
//	saw       what the upstream got, but for how content is cut into chunks; "nothing" is nothing, "any"
//	          is anything; repeated lines are put together
//	at most   instead of saw: what the upstream got is a beginning of this, and no complete request
//	got       what the client got, exactly but for Date; checked only if it is there
//
// Values know \r \n \t \0 \xHH \\ and \{TEXT*N}, which is TEXT, N times. Lines
// that begin with "#" and empty ones are skipped.
type Case struct {
	Name, Why string
	Line      int // in its file
	Client    []string
	Shut      bool
	Upstream  []string
	Whole     bool
	End       string
	Status    []int
	Keep      bool
	Saw       string
	AtMost    bool // Saw is the most that may arrive
	AnySaw    bool
	Got       string
	CheckGot  bool
}

// Load reads a file of cases.
func Load(t testing.TB, path string) []Case {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := parse(string(text))
	if err != nil {
		t.Fatalf("%s:%v", path, err)
	}
	return cases
}

func parse(text string) (cases []Case, err error) {
	names := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		at := func(format string, args ...any) error { return fmt.Errorf("%d: %s", i+1, fmt.Sprintf(format, args...)) }
		if line == "" || line[0] == '#' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "=== "); ok {
			if names[name] {
				return nil, at("a second case %q", name)
			}
			names[name] = true
			cases = append(cases, Case{Name: name, Line: i + 1})
			continue
		}
		if len(cases) == 0 {
			return nil, at("a line before the first case")
		}
		key, value, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, at("want key: value")
		}
		if value, err = unescape(value); err != nil {
			return nil, at("%v", err)
		}
		if err := cases[len(cases)-1].set(key, value); err != nil {
			return nil, at("%v", err)
		}
	}
	for _, c := range cases {
		if c.Why == "" || len(c.Client) == 0 || len(c.Status) == 0 && c.Keep {
			return nil, fmt.Errorf("%d: %s is incomplete", c.Line, c.Name)
		}
	}
	return cases, nil
}

func (c *Case) set(key, value string) error {
	switch key {
	case "why":
		c.Why = value
	case "client":
		c.Client = append(c.Client, value)
	case "shut":
		c.Shut = value == "yes"
	case "upstream":
		if more, ok := strings.CutPrefix(value, "+"); ok && len(c.Upstream) > 0 {
			c.Upstream[len(c.Upstream)-1] += more
			return nil
		}
		c.Upstream = append(c.Upstream, value)
	case "whole":
		c.Whole = value == "yes"
	case "end":
		c.End = value
	case "status":
		words := strings.Fields(value)
		last := words[len(words)-1]
		if last != "keep" && last != "close" {
			return fmt.Errorf("status ends with keep or close, not %q", last)
		}
		c.Keep = last == "keep"
		for _, word := range words[:len(words)-1] {
			n, err := strconv.Atoi(word)
			if err != nil {
				return err
			}
			c.Status = append(c.Status, n)
		}
	case "saw":
		switch value {
		case "nothing":
		case "any":
			c.AnySaw = true
		default:
			c.Saw += value
		}
	case "at most":
		c.Saw += value
		c.AtMost = true
	case "got":
		c.Got += value
		c.CheckGot = true
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", fmt.Errorf("a backslash at the end")
		}
		switch s[i] {
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case '0':
			b.WriteByte(0)
		case '\\':
			b.WriteByte('\\')
		case 'x':
			if i+2 >= len(s) {
				return "", fmt.Errorf(`\x wants two digits`)
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", err
			}
			b.WriteByte(byte(n))
			i += 2
		case '{':
			end := strings.IndexByte(s[i:], '}')
			star := strings.LastIndexByte(s[i:i+max(end, 0)], '*')
			if end < 0 || star < 0 {
				return "", fmt.Errorf(`\{ wants TEXT*N}`)
			}
			n, err := strconv.Atoi(s[i+star+1 : i+end])
			if err != nil {
				return "", err
			}
			text, err := unescape(s[i+1 : i+star])
			if err != nil {
				return "", err
			}
			b.WriteString(strings.Repeat(text, n))
			i += end
		default:
			return "", fmt.Errorf(`unknown escape \%c`, s[i])
		}
	}
	return b.String(), nil
}
