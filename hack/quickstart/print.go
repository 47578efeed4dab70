package main

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/headgate/headgate/hack/quickstart/shop"
)

// printer writes for people: in colours only to a terminal.
type printer struct {
	w       io.Writer
	colours bool
	stage   string
}

func newPrinter(f *os.File) *printer {
	info, err := f.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &printer{w: f, colours: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	blue  = "36"
)

func (p *printer) in(colour, text string) string {
	if !p.colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p *printer) started(o *options, dir string, instances [3]netip.AddrPort) {
	p.printf("%s\n", p.in(bold, "Headgate serves a copy of "+o.manifests))
	p.printf("  HTTP  :%d   HTTPS  :%d   admin  http://%s\n", o.httpPort, o.httpsPort, o.admin)
	p.printf("  files  %s\n", dir)
	for i, a := range instances {
		p.printf("  demo-%d  %s", i+1, a)
	}
	p.printf("\n")
}

// result prints what was sent and what came back.
func (p *printer) result(c *shop.Case, o shop.Outcome) {
	if c.Stage != p.stage {
		p.stage = c.Stage
		p.printf("\n%s\n", p.in(bold, c.Stage))
	}
	mark := p.in(green, "✓")
	if len(o.Problems) > 0 {
		mark = p.in(red, "✗")
	}
	p.printf("%s %s\n", mark, c.Name)

	r := &c.Request
	sent := fmt.Sprintf("%s %s://%s%s", r.Method, r.Scheme, r.Host, r.Path)
	if c.Repeat > 1 {
		sent = fmt.Sprintf("%d × %s", c.Repeat, sent)
	}
	p.printf("    → %s\n", sent)
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		p.printf("      %s\n", p.in(dim, name+": "+short(r.Headers[name])))
	}
	if len(o.Answers) > 0 {
		p.printf("    ← %s\n", p.in(blue, came(o.Answers)))
		p.details(c, &o.Answers[len(o.Answers)-1])
	}
	for _, problem := range o.Problems {
		p.printf("      %s\n", p.in(red, problem))
	}
}

// came sums up statuses and instances.
func came(answers []shop.Answer) string {
	if len(answers) == 1 {
		a := &answers[0]
		text := fmt.Sprint(a.Status)
		if a.Echo == nil {
			return text + " from Headgate"
		}
		return fmt.Sprintf("%s from %s, which was asked %s %s", text, a.Echo.Instance, a.Echo.Method, target(a.Echo))
	}
	statuses, instances := map[int]int{}, map[string]int{}
	for i := range answers {
		statuses[answers[i].Status]++
		if e := answers[i].Echo; e != nil {
			instances[e.Instance]++
		}
	}
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		parts = append(parts, fmt.Sprintf("%d × %d", statuses[status], status))
	}
	for _, name := range slices.Sorted(maps.Keys(instances)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, instances[name]))
	}
	return strings.Join(parts, "   ")
}

func target(e *shop.Echo) string {
	if e.Query == "" {
		return e.Path
	}
	return e.Path + "?" + e.Query
}

// details prints the headers that the case is about.
func (p *printer) details(c *shop.Case, a *shop.Answer) {
	line := func(direction, name, value string) {
		if value == "" {
			value = "(none)"
		}
		p.printf("      %s\n", p.in(dim, direction+name+": "+short(value)))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Expect.Headers)) {
		if c.Expect.Headers[name] != "" {
			line("", name, a.Header.Get(name))
		}
	}
	if c.Expect.Echo == nil || a.Echo == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.Expect.Echo.Headers)) {
		line("sent on ", name, a.Echo.Headers[name])
	}
}

func short(value string) string {
	const most = 60
	if r := []rune(value); len(r) > most {
		return string(r[:most]) + "…"
	}
	return value
}

func (p *printer) summary(all, wrong int) {
	if wrong == 0 {
		p.printf("\n%s\n", p.in(green, fmt.Sprintf("All %d answers are as expected.", all)))
		return
	}
	p.printf("\n%s\n", p.in(red, fmt.Sprintf("%d of %d answers are not as expected.", wrong, all)))
}

func (p *printer) invitation(o *options, s *shop.Shop, dir string) {
	p.printf("\n%s\n", p.in(bold, "It stays up for requests of your own, until Ctrl-C:"))
	host := "-H 'Host: shop.example.com'"
	at := fmt.Sprintf("http://127.0.0.1:%d", o.httpPort)
	p.printf("  curl -i %s %s/catalogue/shoes\n", host, at)
	p.printf("  curl -i %s -H 'X-API-Key: %s' %s/orders/1\n", host, s.Vars["API_KEY"], at)
	p.printf("  curl -i %s -H 'Authorization: Bearer %s' %s/accounts/me\n", host, s.Vars["JWT"], at)
	p.printf("  %s routes --admin-address %s\n", o.headgate, o.admin)
	p.printf("  curl http://%s/metrics\n", o.admin)
	p.printf("  edit the files in %s: a change serves at once\n", dir)
}
