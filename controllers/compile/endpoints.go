package compile

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// compileEndpoints finds the instances behind a cluster. It never returns nil:
// a cluster without endpoints is answered 503. pods may be nil.
func (f *frame) compileEndpoints(set *objects.Set, use clusterUse, pods *podReader) *snapshot.Endpoints {
	if use.backend.Kind == "Backend" {
		if backend := objects.Get[*v1alpha1.Backend](set, use.backend.Namespace, use.backend.Name); backend != nil {
			endpoints, _ := f.compileBackend(backend)
			names := labelsFor(&use.cluster.Balance)
			for i := range endpoints.Endpoints {
				endpoints.Endpoints[i].Labels = some(endpoints.Endpoints[i].Labels, names)
			}
			for i := range endpoints.Hosts {
				endpoints.Hosts[i].Labels = some(endpoints.Hosts[i].Labels, names)
			}
			return endpoints
		}
		return &snapshot.Endpoints{}
	}
	all := set.EndpointSlicesOf(use.backend)
	switch o := set.Get(use.backend).(type) {
	case *corev1.Service:
		return sliceEndpoints(all, o.Spec.IPFamilies, use.port, pods)
	case *gatewayxv1alpha1.XBackend:
		if o.Spec.ExternalHostname == nil {
			break
		}
		// The name is fully qualified: without the dot, the search list of a pod
		// would lead it into the cluster.
		name := strings.TrimSuffix(string(o.Spec.ExternalHostname.Hostname), ".") + "."
		return &snapshot.Endpoints{Hosts: []snapshot.Host{{Name: strings.ToLower(name), Port: uint16(o.Spec.Port.Port), Remote: !f.standalone}}}
	case *objects.ServiceImport:
		if len(all) == 0 {
			return importAddress(o, use.port)
		}
		return sliceEndpoints(all, o.Spec.IPFamilies, use.port, nil)
	}
	return &snapshot.Endpoints{}
}

// importAddress returns the one address of a ServiceImport whose
// implementation publishes no EndpointSlices, which it need not (KEP-1645):
// who answers there is for it to say. Of two families the first is taken.
func importAddress(o *objects.ServiceImport, port corev1.ServicePort) *snapshot.Endpoints {
	out := &snapshot.Endpoints{}
	if i := slices.IndexFunc(o.Spec.IPs, isIP); i >= 0 {
		out.Endpoints = []snapshot.Endpoint{{Address: o.Spec.IPs[i], Port: uint16(port.Port)}}
	}
	return out
}

// sliceEndpoints returns the endpoints of one of the IP families: where there are
// two, each names the same instances again. It is the first one with any
// endpoints, as a cluster that moves from one family to the other may have them in the second
// alone. Without families, which nothing but a folder lacks, all slices count.
func sliceEndpoints(all []*discoveryv1.EndpointSlice, families []corev1.IPFamily, port corev1.ServicePort, pods *podReader) *snapshot.Endpoints {
	if len(families) == 0 {
		families = []corev1.IPFamily{""}
	}
	out := &snapshot.Endpoints{}
	for _, family := range families {
		for _, s := range all {
			if family == "" || s.AddressType == discoveryv1.AddressType(family) {
				addSlice(out, s, port, pods)
			}
		}
		if len(out.Endpoints) > 0 {
			break
		}
	}
	sortEndpoints(out)
	return out
}

// addSlice adds the endpoints of a slice that are ready, and those that
// terminate but still serve, as draining. A slice's ports have the names of
// the Service's and numbers of their own.
func addSlice(out *snapshot.Endpoints, s *discoveryv1.EndpointSlice, of corev1.ServicePort, pods *podReader) {
	port := uint16(0)
	for _, p := range s.Ports {
		if valueOr(p.Name, "") == of.Name && p.Port != nil && *p.Port >= 1 && *p.Port <= 65535 &&
			valueOr(p.Protocol, corev1.ProtocolTCP) == transportOf(of) {
			port = uint16(*p.Port)
			break
		}
	}
	if port == 0 {
		return
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		terminating := valueOr(e.Conditions.Terminating, false)
		// Unset means ready and serving, EndpointConditions; the latter is ready without regard to
		// terminating. What is published although it is not ready is ready here.
		ready := valueOr(e.Conditions.Ready, true)
		if !ready && !(terminating && valueOr(e.Conditions.Serving, true)) {
			continue
		}
		// Several addresses are of one instance and "fungible", Endpoint.addresses.
		// Those of type FQDN, which nothing makes any more, are none.
		i := slices.IndexFunc(e.Addresses, isIP)
		if i < 0 {
			continue
		}
		one := snapshot.Endpoint{
			Address: e.Addresses[i], Port: port, Draining: terminating, Zone: valueOr(e.Zone, ""), Node: valueOr(e.NodeName, ""),
		}
		if e.Hints != nil {
			for _, z := range e.Hints.ForZones {
				one.ForZones = append(one.ForZones, z.Name)
			}
			for _, n := range e.Hints.ForNodes {
				one.ForNodes = append(one.ForNodes, n.Name)
			}
		}
		pods.describe(&one, e.TargetRef, s.Namespace)
		out.Endpoints = append(out.Endpoints, one)
	}
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// sortEndpoints sorts, and drops what is there twice: an endpoint may be in two
// slices for a moment. The one that does not drain stays.
func sortEndpoints(e *snapshot.Endpoints) {
	slices.SortFunc(e.Endpoints, func(x, y snapshot.Endpoint) int {
		draining := func(e snapshot.Endpoint) int {
			if e.Draining {
				return 1
			}
			return 0
		}
		if c := cmp.Or(cmp.Compare(x.Address, y.Address), cmp.Compare(x.Port, y.Port), draining(x)-draining(y),
			cmp.Compare(y.Weight, x.Weight), cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.Zone, y.Zone),
			cmp.Compare(x.Node, y.Node), slices.Compare(x.ForZones, y.ForZones), slices.Compare(x.ForNodes, y.ForNodes)); c != 0 {
			return c
		}
		return compareLabels(x.Labels, y.Labels)
	})
	e.Endpoints = slices.CompactFunc(e.Endpoints, func(x, y snapshot.Endpoint) bool { return x.Address == y.Address && x.Port == y.Port })
	slices.SortFunc(e.Hosts, func(x, y snapshot.Host) int {
		if c := cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Port, y.Port), truth(x.SRV)-truth(y.SRV), cmp.Compare(y.Weight, x.Weight),
			cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.Zone, y.Zone)); c != 0 {
			return c
		}
		return compareLabels(x.Labels, y.Labels)
	})
	e.Hosts = slices.CompactFunc(e.Hosts, func(x, y snapshot.Host) bool { return x.Name == y.Name && x.Port == y.Port && x.SRV == y.SRV })
}
