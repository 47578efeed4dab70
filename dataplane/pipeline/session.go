package pipeline

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"strconv"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/session"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// choose returns the backend for the request: that of its session, whatever the
// weights say, or else one by split or weight. lost says that the session must not go on
// anywhere else than at a backend that the rule does not have any more.
func (st *state) choose(ex *exchange.Exchange, r *rule) (b *backend, lost bool) {
	if len(r.sessions) > 0 && st.session == nil {
		st.session = &session.State{}
	}
	for _, p := range r.sessions {
		if !p.Resume(ex, st.session) {
			continue
		}
		token := &st.session.Token
		for i := range r.backends {
			if b := &r.backends[i]; b.session == p && b.id == token.Backend {
				ex.Session = exchange.Session{Endpoint: token.Endpoint, Strict: p.Strict()}
				return b, false
			}
		}
		return r.pick(ex), p.Strict()
	}
	return r.pick(ex), false
}

// saveClient tells the client how it is known from now on: by the cookies that
// it was hashed by, and to whom its session is bound. It comes behind all filters:
// what they keep of a response is for other clients, too.
func (st *state) saveClient(ex *exchange.Exchange) {
	if st.lease == nil || ex.Response.Local {
		return // nobody but us has answered
	}
	for i := range ex.NewCookies {
		ex.Response.Fields = append(ex.Response.Fields,
			exchange.Field{Key: exchange.KeySetCookie, Name: "Set-Cookie", Value: ex.NewCookies[i].SetCookie})
	}
	if st.backend.session == nil || st.standIn != nil {
		return
	}
	endpoint, ok := exchange.EndpointID(ex.Upstream.Endpoint)
	if !ok {
		return
	}
	st.backend.session.Save(ex, st.session, st.backend.id, endpoint, st.cookiePath)
}

// sessions links the session persistence of a rule's backends. Backends for
// which it is the same share it, so that a request is searched for a token once.
func (l *linker) sessions(r *rule, cfg *snapshot.Rule) {
	var configs []*snapshot.SessionPersistence
	seen := map[snapshot.Ref]int{}
	for i := range r.backends {
		b := &r.backends[i]
		own := cfg.SessionPersistence
		if own == nil {
			own = b.source.SessionPersistence
		}
		if own == nil {
			continue
		}
		b.id = l.backendID(b.source, seen)
		for j := range configs {
			if reflect.DeepEqual(configs[j], own) {
				b.session = r.sessions[j]
			}
		}
		if b.session != nil {
			continue
		}
		if len(own.Keys) == 0 {
			l.p.noSessionKeys.Do(func() {
				l.p.opts.Log.Info("Sessions are kept with a key of this process: other replicas do not know it, and a restart forgets it")
			})
		}
		src := &r.info
		p, err := session.New(own, src.Kind+"/"+src.Namespace+"/"+src.Name+"/"+src.Rule, l.p.sessionKey)
		if err != nil {
			l.fail(fmt.Errorf("%s: %w", name(r), err))
			r.incomplete = true
			continue
		}
		b.session = p
		configs, r.sessions = append(configs, own), append(r.sessions, p)
	}
}

// backendID names a backend of a rule in tokens: by what it refers to, so that
// it does not change with what other backends the rule has or what policies
// say. seen counts the backends that refer to the same.
func (l *linker) backendID(b *snapshot.Backend, seen map[snapshot.Ref]int) uint64 {
	ref := snapshot.Ref{Name: b.Cluster}
	if c, ok := l.snap.Clusters.Get(b.Cluster); ok {
		ref = c.Source
	}
	h := fnv.New64a()
	fmt.Fprint(h, ref.Kind, "/", ref.Namespace, "/", ref.Name, "/", ref.Section, "/", strconv.Itoa(seen[ref]))
	seen[ref]++
	return h.Sum64()
}

// cookiePaths returns the cookie paths of a host's routes, nil if none is needed.
func cookiePaths(cfg *snapshot.VirtualHost, rules []*rule) []string {
	var paths []string
	for i, r := range rules {
		for _, p := range r.sessions {
			if !p.MatchedPath() {
				continue
			}
			if paths == nil {
				paths = make([]string, len(rules))
			}
			paths[i] = session.CookiePath(&cfg.Routes[i].Match.Path)
		}
	}
	return paths
}
