// Package objects is the world as compile sees it: the Kubernetes objects that
// matter to Headgate, indexed by what refers to them. Both watch (a cluster)
// and manifests (a folder) fill it.
//
// A Set belongs to one goroutine, the loop that fills it and compiles from it.
// Objects in it are never edited: a changed object is a new one.
package objects

import (
	"k8s.io/apimachinery/pkg/types"
)

// Ref names an object. Kinds that Headgate reads are unique without their group.
type Ref struct {
	Kind      string
	Namespace string
	Name      string
}

// NamespacedName returns the name without the kind.
func (r Ref) NamespacedName() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

// String returns "Kind namespace/name".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}
