package compile

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// The values of BackendPolicy's balance; the first are the defaults.
var (
	algorithms = balance.Algorithms()
	localities = []string{"Any", "PreferSameZone", "PreferSameNode", "OnlySameZone", "OnlySameNode"}
	hashKeys   = []string{"ClientIP", "Consumer", "Cookie", "Header", "Path", "QueryParam"}
)

const balanceField = "spec.balance"

// compileBalance reads a BackendPolicy's balance.
func compileBalance(c *policyCompiler, spec *v1alpha1.Balance) clusterSetting {
	if reflect.ValueOf(*spec).IsZero() {
		c.invalid(balanceField, "it sets nothing", "algorithm, locality or another of its fields")
	}
	percent := func(name string, n *int32, unset, least, most int32) int {
		return int(number(c, balanceField+"."+name, n, unset, least, most))
	}
	algorithm := balanceOneOf(c, "algorithm", string(spec.Algorithm), algorithms)
	locality := balanceOneOf(c, "locality", string(spec.Locality), localities)
	out := snapshot.Balance{
		Algorithm:             algorithm,
		MinHealthyPercent:     percent("minHealthyPercent", spec.MinHealthyPercent, 0, 1, 100),
		PanicThresholdPercent: percent("panicThresholdPercent", spec.PanicThresholdPercent, 0, 0, 100),
	}
	hashes := algorithm == "RingHash" || algorithm == "Maglev"
	if balanceUses(c, "hashOn", len(spec.HashOn) > 0, hashes, true, "RingHash and Maglev") {
		out.HashOn = compileHashOn(c, spec.HashOn)
	}
	if balanceUses(c, "hashBalanceFactor", spec.HashBalanceFactor != nil, hashes, false, "RingHash and Maglev") {
		out.HashBalanceFactor = percent("hashBalanceFactor", spec.HashBalanceFactor, 0, 100, 10_000)
	}
	if balanceUses(c, "maxRequests", spec.MaxRequests != nil, algorithm == "FirstAvailable", true, "FirstAvailable") {
		out.MaxRequests = percent("maxRequests", spec.MaxRequests, 0, 1, 1_000_000)
	}
	weighted := slices.Contains([]string{"RoundRobin", "LeastRequest", "Random", "RandomOfTwo", "PeakEWMA"}, algorithm)
	if balanceUses(c, "slowStart", spec.SlowStart != nil, weighted, false, "RoundRobin, LeastRequest, Random, RandomOfTwo and PeakEWMA") {
		out.SlowStart = compileSlowStart(c, spec.SlowStart)
	}
	if balanceUses(c, "loadReports", spec.LoadReports != nil, algorithm == "RoundRobin" || algorithm == "Random", false, "RoundRobin and Random") {
		out.LoadReports = *spec.LoadReports
	}
	return func(cl *snapshot.Cluster) {
		out := out
		switch {
		case spec.Locality == "":
			out.Locality = cl.Balance.Locality // the Service's
		case locality != "Any":
			out.Locality = locality
		}
		cl.Balance = out
	}
}

func balanceOneOf(c *policyCompiler, name, value string, known []string) string {
	value = cmp.Or(value, known[0])
	if !slices.Contains(known, value) {
		c.invalid(balanceField+"."+name, fmt.Sprintf("%q does not exist", value), "one of "+strings.Join(known, ", "))
	}
	return value
}

// balanceUses refuses a field that the algorithm makes no use of, or that it
// needs and is not there. It reports whether the field is set and used.
func balanceUses(c *policyCompiler, name string, set, used, needed bool, by string) bool {
	switch {
	case set && !used:
		c.invalid(balanceField+"."+name, "the algorithm makes no use of it", "one of the algorithms that do: "+by)
	case used && needed && !set:
		c.invalid(balanceField+"."+name, "it is not set", name+", which the algorithm needs")
	}
	return set && used
}

func compileSlowStart(c *policyCompiler, spec *v1alpha1.SlowStart) *snapshot.SlowStart {
	const field = balanceField + ".slowStart"
	out := &snapshot.SlowStart{
		Window:           c.duration(field+".window", &spec.Window, 0, time.Second, time.Hour),
		Aggression:       1,
		MinWeightPercent: int(number(c, field+".minWeightPercent", spec.MinWeightPercent, 10, 1, 100)),
	}
	if text := spec.Aggression; text != nil {
		n, err := strconv.ParseFloat(*text, 64)
		if err != nil || !(n >= 0.1 && n <= 10) {
			c.invalid(field+".aggression", fmt.Sprintf("%q is out of bounds", *text), "a number from 0.1 to 10")
		}
		out.Aggression = n
	}
	return out
}

// compileHashOn reads what to hash on.
func compileHashOn(c *policyCompiler, keys []v1alpha1.HashKey) (out []snapshot.HashKey) {
	for i, k := range keys {
		field := fmt.Sprintf("hashOn[%d]", i)
		key := snapshot.HashKey{Type: balanceOneOf(c, field+".type", string(k.Type), hashKeys), Name: valueOr(k.Name, "")}
		field = balanceField + "." + field
		named := key.Type == "Cookie" || key.Type == "Header" || key.Type == "QueryParam"
		switch {
		case named && key.Name == "":
			c.invalid(field+".name", "it is not set", "the name that the type "+key.Type+" needs")
		case !named && k.Name != nil:
			c.invalid(field+".name", "the type "+key.Type+" has no name", "no name")
		case named && key.Type != "QueryParam" && !isToken(key.Name):
			c.invalid(field+".name", fmt.Sprintf("%q is no token", key.Name), "the name of a cookie or header field")
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

// cookiePath is what a Path attribute may be, RFC 6265 section 4.1.1.
var cookiePath = regexp.MustCompile(`^/[!-:<-~]*$`)

// localityOf is what a Service says with trafficDistribution, KEP-4444 and
// KEP-3015. A value that is not known means no preference, as there. Its
// internalTrafficPolicy is about what comes to its cluster IP; nothing of ours does.
func localityOf(backend objects.Object) string {
	service, ok := backend.(*corev1.Service)
	if !ok {
		return ""
	}
	switch valueOr(service.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
		return "PreferSameZone"
	case corev1.ServiceTrafficDistributionPreferSameNode:
		return "PreferSameNode"
	}
	return ""
}
