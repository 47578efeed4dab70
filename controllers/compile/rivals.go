package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/headgate/headgate/controllers/objects"
)

// losers are the routes that a listener does not take because an older one of
// the other kind has a hostname in common with them, GRPCRouteSpec.hostnames:
// by the loser, by the listener's key, the winner.
type losers map[objects.Ref]map[string]objects.Ref

// losersOf decides between the HTTPRoutes and GRPCRoutes of a Gateway or ListenerSet. It
// costs what all its routes cost; nothing while there are no GRPCRoutes at all.
func (f *frame) losersOf(set *objects.Set, p *parent) losers {
	if p == nil || !set.Has("GRPCRoute") || !set.Has("HTTPRoute") {
		return nil
	}
	var routes []*form
	for _, ref := range set.RoutesOfParent(p.ref()) {
		if route := routeIn(set, ref); route != nil {
			routes = append(routes, route)
		}
	}
	slices.SortStableFunc(routes, func(a, b *form) int {
		return cmp.Or(cmp.Compare(a.CreationTimestamp.Unix(), b.CreationTimestamp.Unix()),
			cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	var lost losers
	taken := map[string]map[string]*claims{} // by listener's key and kind
	for _, route := range routes {
		ignored := &report{object: route.ref}
		hostnames, refused := compileHostnames(ignored, route)
		if !refused.ok() {
			continue
		}
		for i := range route.Spec.ParentRefs {
			if ref, ok := objects.ParentOf(&route.Spec.ParentRefs[i], route.Namespace); !ok || ref != p.ref() {
				continue
			}
			for _, p := range f.attach(ignored, new(verdict), set, route, i, p, hostnames) {
				of := taken[p.listener.key]
				if of == nil {
					of = map[string]*claims{"HTTPRoute": {}, "GRPCRoute": {}}
					taken[p.listener.key] = of
				}
				other := "HTTPRoute"
				if route.grpc == nil {
					other = "GRPCRoute"
				}
				if winner, beaten := of[other].find(p.hostnames); beaten {
					if lost == nil {
						lost = losers{}
					}
					if lost[route.ref] == nil {
						lost[route.ref] = map[string]objects.Ref{}
					}
					lost[route.ref][p.listener.key] = winner
				} else {
					of[route.ref.Kind].add(p.hostnames, route.ref)
				}
			}
		}
	}
	return lost
}

// claims are hostnames with the first that claimed each.
type claims struct {
	names map[string]objects.Ref
	// within are the wildcards that cover a claimed name.
	within map[string]objects.Ref
}

func (c *claims) add(hostnames []string, ref objects.Ref) {
	if c.names == nil {
		c.names, c.within = map[string]objects.Ref{}, map[string]objects.Ref{}
	}
	first := func(m map[string]objects.Ref, name string) {
		if _, ok := m[name]; !ok {
			m[name] = ref
		}
	}
	for _, name := range hostnames {
		first(c.names, name)
		for name != "" {
			name = widerHostname(name)
			first(c.within, name)
		}
	}
}

// find returns who has claimed a hostname that has something in common with
// one of these.
func (c *claims) find(hostnames []string) (objects.Ref, bool) {
	for _, name := range hostnames {
		if ref, ok := c.within[name]; ok {
			return ref, true
		}
		for wide := name; ; wide = widerHostname(wide) {
			if ref, ok := c.names[wide]; ok {
				return ref, true
			}
			if wide == "" {
				break
			}
		}
	}
	return objects.Ref{}, false
}

// widerHostname returns the narrowest hostname that covers another one: "*.b"
// for "a.b" and for "*.a.b", "" for "*.b".
func widerHostname(name string) string {
	_, suffix, ok := strings.Cut(strings.TrimPrefix(name, "*."), ".")
	if !ok {
		return ""
	}
	return "*." + suffix
}

// judge decides anew between the routes of the parents that the named routes
// have, and adds those to the scope for which it turns out differently.
func (p *pass) judge(s *scope) {
	parents := map[objects.Ref]bool{}
	for ref := range s.routes {
		note := func(route *form) {
			if route == nil {
				return
			}
			for i := range route.Spec.ParentRefs {
				if parent, ok := objects.ParentOf(&route.Spec.ParentRefs[i], route.Namespace); ok {
					parents[parent] = true
				}
			}
		}
		if old, _ := p.tables.routes.Get(ref.String()); old != nil {
			note(old.object)
		}
		note(routeIn(p.set, ref))
	}
	for ref := range parents {
		key := ref.String()
		was, _ := p.tables.losers.Get(key)
		is := p.tables.frame.losersOf(p.set, p.tables.frame.served[ref])
		if equal(was, is) {
			continue
		}
		for _, one := range []losers{was, is} {
			for route := range one {
				if !equal(was[route], is[route]) {
					s.routes[route] = true
				}
			}
		}
		if is == nil {
			p.tables.losers = p.tables.losers.Without(key)
		} else {
			p.tables.losers = p.tables.losers.With(key, is)
		}
	}
}
