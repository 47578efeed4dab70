package compile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// crossReference is a place where an object of namespace "default" names one of
// namespace "other" that only a ReferenceGrant opens.
type crossReference struct {
	from, field string // "HTTPRoute", "rules[].backendRefs[]"
	to          string // the kind of the object, whose name is "target"
	yaml        string
	// resolves is in the dump of the result if the reference resolves, and only then.
	resolves string
}

// The objects of namespace "other" that are named.
const crossTargets = `
kind: Service
metadata: {name: target, namespace: other}
spec: {ports: [{port: 80}, {port: 53, protocol: UDP}]}
---
kind: ServiceImport
metadata: {name: target, namespace: other}
spec: {type: ClusterSetIP, ips: [10.96.0.7], ports: [{port: 80}]}
---
kind: Backend
metadata: {name: target, namespace: other}
spec: {endpoints: [{ip: 192.0.2.7, port: 80}]}
---
kind: XBackend
metadata: {name: target, namespace: other}
spec: {type: ExternalHostname, externalHostname: {hostname: api.example.com}, port: {port: 80}}
---
kind: Secret
metadata: {name: target, namespace: other}
type: kubernetes.io/tls
data: {tls.crt: CERT_1, tls.key: KEY_1, ca.crt: CERT_1}
---
kind: ConfigMap
metadata: {name: target, namespace: other}
binaryData: {ca.crt: CERT_1}
---
kind: Gateway
metadata: {name: l4}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: tcp, port: 8000, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}
---
kind: Secret
metadata: {name: own}
type: kubernetes.io/tls
data: {tls.crt: CERT_2, tls.key: KEY_2}
---
kind: BackendTLSPolicy
metadata: {name: tls}
spec:
  targetRefs: [{group: "", kind: Service, name: a}]
  validation: {hostname: a.example.com, wellKnownCACertificates: System}
`

// crossReferences is every one of them. TestEveryNamespaceIsGuarded finds out if one is missing.
var crossReferences = func() (all []crossReference) {
	route := func(kind, gateway, field, rule string, ref string) string {
		hostnames := ""
		if kind == "TLSRoute" {
			hostnames = "hostnames: [a.example.com], "
		}
		return fmt.Sprintf("kind: %s\nmetadata: {name: r}\nspec: {parentRefs: [{name: %s}], %srules: [%s]}\n", kind, gateway, hostnames, fmt.Sprintf(rule, ref))
	}
	const (
		plain      = "{backendRefs: [%s]}"
		mirror     = "{backendRefs: [{name: a, port: 80}], filters: [{type: RequestMirror, requestMirror: {backendRef: %s}}]}"
		auth       = "{backendRefs: [{name: a, port: 80}], filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: %s, http: {}}}]}"
		authHere   = "{backendRefs: [{name: a, port: 80, filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: %s, http: {}}}]}]}"
		authPolicy = "kind: AuthPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], " +
			"external: {protocol: HTTP, backendRef: %s, http: {}}}\n---\n" +
			"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: a, port: 80}]}]}\n"
		fallback = "kind: BackendPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: \"\", kind: Service, name: a}], " +
			"fallback: {backendRefs: [%s]}}\n---\n" +
			"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: a, port: 80}]}]}\n"
		mirrorHere = "{backendRefs: [{name: a, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: %s}}]}]}"
	)
	// Whatever may be a backend, from wherever one may be named.
	for _, kind := range objects.Kinds {
		if !kind.Backend {
			continue
		}
		ref := func(port int) string {
			text := fmt.Sprintf("{group: %q, kind: %s, name: target, namespace: other", kind.Group, kind.Name)
			if kind.Name != "Backend" && kind.Name != "XBackend" {
				text += fmt.Sprintf(", port: %d", port)
			}
			return text + "}"
		}
		cluster := "cluster " + kind.Name + "/other/target"
		for _, from := range []string{"HTTPRoute", "GRPCRoute"} {
			all = append(all,
				crossReference{from, "rules[].backendRefs[]", kind.Name, route(from, "gw", "", plain, ref(80)), cluster},
				crossReference{from, "rules[].filters[].requestMirror.backendRef", kind.Name, route(from, "gw", "", mirror, ref(80)), cluster},
				crossReference{from, "rules[].backendRefs[].filters[].requestMirror.backendRef", kind.Name, route(from, "gw", "", mirrorHere, ref(80)), cluster})
		}
		all = append(all,
			crossReference{"HTTPRoute", "rules[].filters[].externalAuth.backendRef", kind.Name, route("HTTPRoute", "gw", "", auth, ref(80)), cluster},
			crossReference{"HTTPRoute", "rules[].backendRefs[].filters[].externalAuth.backendRef", kind.Name, route("HTTPRoute", "gw", "", authHere, ref(80)), cluster},
			crossReference{"AuthPolicy", "external.backendRef", kind.Name, fmt.Sprintf(authPolicy, ref(80)), cluster},
			crossReference{"BackendPolicy", "fallback.backendRefs[]", kind.Name, fmt.Sprintf(fallback, ref(80)), cluster})
		for _, from := range []string{"TCPRoute", "TLSRoute", "UDPRoute"} {
			port := 80
			if from == "UDPRoute" {
				if port = 53; kind.Name == "ServiceImport" {
					continue // it has no such port
				}
			}
			all = append(all, crossReference{from, "rules[].backendRefs[]", kind.Name, route(from, "l4", "", plain, ref(port)), cluster})
		}
	}

	const certificate = "tls: {certificateRefs: [{name: target, namespace: other}]}"
	gateway := func(field, to, spec, resolves string) {
		all = append(all, crossReference{"Gateway", field, to, "kind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: headgate, " + spec + "}\n", resolves})
	}
	gateway("listeners[].tls.certificateRefs[]", "Secret", "listeners: [{name: https, port: 443, protocol: HTTPS, "+certificate+"}]", "certificate=other/target")
	gateway("tls.backend.clientCertificateRef", "Secret",
		"tls: {backend: {clientCertificateRef: {name: target, namespace: other}}}, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n"+
			"kind: HTTPRoute\nmetadata: {name: uses}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: a, port: 80}]}]",
		`"certificate":{"source":{"kind":"Secret","namespace":"other","name":"target"}`)
	for _, kind := range []string{"ConfigMap", "Secret"} {
		validation := fmt.Sprintf(`validation: {caCertificateRefs: [{group: "", kind: %s, name: target, namespace: other}]}`, kind)
		https := "listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: own}]}}]"
		gateway("tls.frontend.default.validation.caCertificateRefs[]", kind, "tls: {frontend: {default: {"+validation+"}}}, "+https, "authorities=1")
		gateway("tls.frontend.perPort[].tls.validation.caCertificateRefs[]", kind,
			"tls: {frontend: {default: {}, perPort: [{port: 443, tls: {"+validation+"}}]}}, "+https, "authorities=1")
	}
	all = append(all,
		crossReference{"ListenerSet", "listeners[].tls.certificateRefs[]", "Secret",
			"kind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: headgate, allowedListeners: {namespaces: {from: All}}, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n" +
				"kind: ListenerSet\nmetadata: {name: ls}\nspec: {parentRef: {name: gw}, listeners: [{name: https, port: 443, protocol: HTTPS, " + certificate + "}]}\n",
			"certificate=other/target"},
		crossReference{"XBackend", "tls.clientCertificateRef", "Secret",
			"kind: XBackend\nmetadata: {name: x}\nspec:\n  type: ExternalHostname\n  externalHostname: {hostname: a.example.com}\n  port: {port: 443}\n" +
				"  tls: {mode: ClientAndServer, clientCertificateRef: {name: target, namespace: other}}\n---\n" +
				"kind: HTTPRoute\nmetadata: {name: uses}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: x}]}]}\n",
			`"certificate":{"source":{"kind":"Secret","namespace":"other","name":"target"}`})
	return all
}()

// TestCrossNamespaceReferences follows every reference to another namespace:
// without a ReferenceGrant, with one that is for something else, and with the one
// that it needs. What is not granted is not read either.
func TestCrossNamespaceReferences(t *testing.T) {
	defaults := append(decodeFile(t, "testdata/defaults.yaml"), decodeText(t, crossTargets)...)
	for _, ref := range crossReferences {
		t.Run(ref.from+"/"+ref.field+"/"+ref.to, func(t *testing.T) {
			set := objects.NewSet()
			for _, o := range append(slices.Clone(defaults), decodeText(t, ref.yaml)...) {
				set.Put(o)
			}
			target := objects.Ref{Kind: ref.to, Namespace: "other", Name: "target"}
			from := gatewayv1.ReferenceGrantFrom{Group: gatewayv1.Group(objects.GroupOf(ref.from)), Kind: gatewayv1.Kind(ref.from), Namespace: "default"}
			to := gatewayv1.ReferenceGrantTo{Group: gatewayv1.Group(objects.GroupOf(ref.to)), Kind: gatewayv1.Kind(ref.to)}
			result := Compile(nil, set, nil, Options{})
			check := func(what string, granted bool) {
				t.Helper()
				var refused []Finding
				for _, f := range result.Findings() {
					if f.Reason == "RefNotPermitted" && f.Object.Kind == ref.from {
						refused = append(refused, f)
					}
				}
				text := dump(result)
				if strings.Contains(text, ref.resolves) != granted || (len(refused) == 0) != granted {
					t.Errorf("%s: want it granted: %v, and %q in the result:\n%s", what, granted, ref.resolves, text)
				}
				if !granted && result.Wanted[target] {
					t.Errorf("%s: %s is read", what, target)
				}
			}
			check("no grant", false)
			grant := func(what string, granted bool, grants ...*gatewayv1.ReferenceGrant) {
				t.Helper()
				var changed []objects.Ref
				for i, g := range grants {
					if g.Name = fmt.Sprint("g", i); g.Namespace == "" {
						g.Namespace = "other"
					}
					changed = append(changed, set.Put(g))
				}
				result = Compile(result, set, changed, Options{})
				check(what, granted)
				for _, ref := range changed {
					set.Delete(ref)
				}
				result = Compile(result, set, changed, Options{})
				check(what+", and then none", false)
			}
			one := func(edit func(from *gatewayv1.ReferenceGrantFrom, to *gatewayv1.ReferenceGrantTo)) *gatewayv1.ReferenceGrant {
				f, t := from, to
				edit(&f, &t)
				return &gatewayv1.ReferenceGrant{Spec: gatewayv1.ReferenceGrantSpec{From: []gatewayv1.ReferenceGrantFrom{f}, To: []gatewayv1.ReferenceGrantTo{t}}}
			}
			type (
				grantFrom = *gatewayv1.ReferenceGrantFrom
				grantTo   = *gatewayv1.ReferenceGrantTo
			)
			named := func(name string) *gatewayv1.ObjectName { return new(gatewayv1.ObjectName(name)) }
			grant("to all of the kind", true, one(func(grantFrom, grantTo) {}))
			grant("to it by name", true, one(func(_ grantFrom, t grantTo) { t.Name = named("target") }))
			grant("to another name", false, one(func(_ grantFrom, t grantTo) { t.Name = named("another") }))
			grant("to another kind", false, one(func(_ grantFrom, t grantTo) { t.Kind = "Pod" }))
			grant("to another group", false, one(func(_ grantFrom, t grantTo) { t.Group = "example.com" }))
			grant("from another kind", false, one(func(f grantFrom, _ grantTo) { f.Kind = "Ingress" }))
			grant("from another group", false, one(func(f grantFrom, _ grantTo) { f.Group = "networking.k8s.io" }))
			grant("from another namespace", false, one(func(f grantFrom, _ grantTo) { f.Namespace = "others" }))
			here := one(func(grantFrom, grantTo) {})
			here.Namespace = "default"
			grant("in the namespace of who refers", false, here)
			grant("one half in each of two", false,
				one(func(f grantFrom, _ grantTo) { f.Kind = "Ingress" }), one(func(_ grantFrom, t grantTo) { t.Kind = "Pod" }))
			several := one(func(f grantFrom, t grantTo) { f.Kind, t.Kind = "Ingress", "Pod" })
			several.Spec.From, several.Spec.To = append(several.Spec.From, from), append(several.Spec.To, to)
			grant("among others", true, several)
			for _, kind := range []string{"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute", "Gateway", "ListenerSet", "XBackend"} {
				if kind != ref.from {
					grant("from "+kind, false, one(func(f grantFrom, _ grantTo) {
						f.Group, f.Kind = gatewayv1.Group(objects.GroupOf(kind)), gatewayv1.Kind(kind)
					}))
				}
			}
		})
	}
}

// guardedOtherwise are the fields with another object's namespace that no
// ReferenceGrant is about, by kind.
var guardedOtherwise = map[string]map[string]string{
	"HTTPRoute":      {"parentRefs[].namespace": "the listener's allowedRoutes"},
	"GRPCRoute":      {"parentRefs[].namespace": "the listener's allowedRoutes"},
	"TCPRoute":       {"parentRefs[].namespace": "the listener's allowedRoutes"},
	"TLSRoute":       {"parentRefs[].namespace": "the listener's allowedRoutes"},
	"UDPRoute":       {"parentRefs[].namespace": "the listener's allowedRoutes"},
	"ListenerSet":    {"parentRef.namespace": "the Gateway's allowedListeners"},
	"GatewayClass":   {"parametersRef.namespace": "GatewayClasses are of no namespace, and for administrators to make"},
	"ReferenceGrant": {"from[].namespace": "it is the grant"},
}

// TestEveryNamespaceIsGuarded finds the fields of all kinds that are read by
// which an object names another namespace, and wants each among crossReferences.
func TestEveryNamespaceIsGuarded(t *testing.T) {
	for _, kind := range objects.Kinds {
		spec, ok := reflect.TypeOf(kind.Object).Elem().FieldByName("Spec")
		if !ok || kind.Group == "" {
			continue
		}
		fields := map[string]bool{}
		leaves(spec.Type, "", fields)
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			of, isNamespace := strings.CutSuffix(field, ".namespace")
			if !isNamespace || guardedOtherwise[kind.Name][field] != "" {
				continue
			}
			if !slices.ContainsFunc(crossReferences, func(r crossReference) bool { return r.from == kind.Name && r.field == of }) {
				t.Errorf("%s: no test that %s needs a ReferenceGrant", kind.Name, field)
			}
		}
	}
}

// TestAttachmentIsForTheParentToAllow: a ReferenceGrant opens neither a listener
// nor a Gateway.
func TestAttachmentIsForTheParentToAllow(t *testing.T) {
	const yaml = `
kind: ReferenceGrant
metadata: {name: g}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}
  - {group: gateway.networking.k8s.io, kind: ListenerSet, namespace: other}
  to: [{group: gateway.networking.k8s.io, kind: Gateway}]
---
kind: HTTPRoute
metadata: {name: r, namespace: other}
spec: {parentRefs: [{name: gw, namespace: default}], rules: [{}]}
---
kind: ListenerSet
metadata: {name: ls, namespace: other}
spec: {parentRef: {name: gw, namespace: default}, listeners: [{name: http, port: 8080, protocol: HTTP}]}
`
	set := objects.NewSet()
	for _, o := range append(decodeFile(t, "testdata/defaults.yaml"), decodeText(t, yaml)...) {
		set.Put(o)
	}
	text := dump(Compile(nil, set, nil, Options{}))
	for _, want := range []string{"http routes=0", "gw Accepted=False:NotAllowedByListeners", "status ListenerSet other/ls Accepted=False:NotAllowed"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}

func decodeText(t *testing.T, text string) []objects.Object {
	t.Helper()
	all, err := decode([]byte(keyPairs.Replace(text)))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// leaves adds the paths of a type's fields that have no fields of their own: those
// of Kubernetes' own types are not looked into.
func leaves(of reflect.Type, at string, into map[string]bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner, suffix := f.Type, ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				suffix = "[]"
			}
			inner = inner.Elem()
		}
		foreign := inner.PkgPath() == reflect.TypeFor[metav1.Condition]().PkgPath() || inner.PkgPath() == reflect.TypeFor[corev1.Service]().PkgPath()
		switch {
		case strings.Contains(options, "inline"):
			leaves(inner, at, into)
		case inner.Kind() == reflect.Struct && !foreign:
			leaves(inner, at+name+suffix+".", into)
		default:
			into[at+name] = true
		}
	}
}
