package infra

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
)

// place is where a Gateway is between the two modes. On its way it takes one
// step at a time, so that at any moment the pods that the Service selects serve
// it, and go on for a while when it selects others:
//
//	Shared     nothing dedicated     →  deployed  →  selected once it is available  →  ours stop     Dedicated
//	Dedicated  ours start  →  ours selected  →  no Deployment                                        Shared
type place struct {
	// deployed says that the Deployment is there, selected that the Service
	// selects its pods rather than Headgate's own, and shared that those serve too.
	deployed, selected, shared bool
}

// move is a Gateway's place and since when it has been there.
type move struct {
	at    place
	since time.Time
	// next is where it is to be now.
	next place
}

// step returns the place that follows. lasted says that the present one has been
// for long enough for all nodes to know.
func (p place) step(want v1alpha1.GatewayMode, available, lasted bool) place {
	if want == v1alpha1.GatewayModeDedicated {
		switch {
		case !p.deployed:
			p.deployed = true
		case !p.selected && (available || !p.shared):
			p.selected = true
		case p.selected && p.shared && lasted:
			p.shared = false
		}
		return p
	}
	switch {
	case !p.shared:
		p.shared = true
	case p.selected && lasted:
		p.selected = false
	case !p.selected && p.deployed && lasted:
		p.deployed = false
	}
	return p
}

// settled reports whether a place is where a mode has its Gateways.
func (p place) settled(want v1alpha1.GatewayMode) bool {
	dedicated := want == v1alpha1.GatewayModeDedicated
	return p == place{deployed: dedicated, selected: dedicated, shared: !dedicated}
}

// moveAll says for each Gateway where it is to be now, and after what time to
// look again; 0 if none is on its way.
func (k *Keeper) moveAll(want []compile.Infrastructure, services map[string]*corev1.Service, deployments map[string]*appsv1.Deployment) (wait time.Duration) {
	moves := map[string]*move{}
	now := time.Now()
	for _, w := range want {
		if w.Kept {
			continue
		}
		service, deployment := services[w.Name], deployments[w.Name]
		at := place{deployed: deployment != nil}
		if service != nil && ours(service) {
			at.shared = service.Annotations[compile.ModeAnnotation] != string(v1alpha1.GatewayModeDedicated)
			at.selected = equality.Semantic.DeepEqual(service.Spec.Selector, dedicatedSelector(w))
		} else { // there is no traffic to be moved
			at.selected = w.Mode == v1alpha1.GatewayModeDedicated
			at.shared = !at.selected
		}
		m := k.moves[w.Name]
		if m == nil || m.at != at {
			m = &move{at: at, since: now}
		}
		lasted := now.Sub(m.since) >= k.opts.Handover
		m.next = at.step(w.Mode, available(deployment), lasted)
		if m.next == at && !lasted && !at.settled(w.Mode) {
			if left := k.opts.Handover - now.Sub(m.since); wait == 0 || left < wait {
				wait = left
			}
		}
		moves[w.Name] = m
	}
	k.moves = moves
	return wait
}

// available reports whether all pods of a Deployment are, in its newest form.
func available(d *appsv1.Deployment) bool {
	if d == nil || d.Status.ObservedGeneration < d.Generation {
		return false
	}
	replicas := int32(1)
	if d.Spec.Replicas != nil {
		replicas = *d.Spec.Replicas
	}
	return d.Status.UpdatedReplicas >= replicas && d.Status.AvailableReplicas >= replicas
}

// dedicatedLabel is on the pods of a Gateway of mode Dedicated. Its value is the
// name of the Gateway's objects.
const dedicatedLabel = "headgate.dev/dedicated"

// dedicatedSelector selects the pods of a Gateway of mode Dedicated.
func dedicatedSelector(w compile.Infrastructure) map[string]string {
	return map[string]string{dedicatedLabel: w.Name}
}
