package watch

import (
	"context"
	"errors"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// leases is an API server that keeps the last Lease written to it.
type leases struct {
	coordinationclient.LeaseInterface
	written *coordinationv1.Lease
}

func (l *leases) Leases(string) coordinationclient.LeaseInterface { return l }

func (l *leases) Create(_ context.Context, lease *coordinationv1.Lease, _ metav1.CreateOptions) (*coordinationv1.Lease, error) {
	l.written = lease
	return lease, nil
}

func (l *leases) Update(_ context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	l.written = lease
	return lease, nil
}

func TestTheLeaseGoesWithTheDeployment(t *testing.T) {
	gone := apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "deployments"}, "headgate")
	for _, test := range []struct {
		name             string
		err              error // of getting the Deployment
		created, updated bool
		owned            bool
	}{
		{name: "it is there", created: true, updated: true, owned: true},
		{name: "it is gone", err: gone, updated: true},
		{name: "nobody knows", err: errors.New("connection refused"), created: true, updated: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, create := range []bool{true, false} {
				server := &leases{}
				owned := &ownedLeases{getter: server, deployment: func(context.Context) (*appsv1.Deployment, error) {
					return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "headgate", UID: "7"}}, test.err
				}}
				want, err := test.updated, error(nil)
				if create {
					want = test.created
					_, err = owned.Leases("").Create(t.Context(), &coordinationv1.Lease{}, metav1.CreateOptions{})
				} else {
					_, err = owned.Leases("").Update(t.Context(), &coordinationv1.Lease{}, metav1.UpdateOptions{})
				}
				if (err == nil) != want || (server.written != nil) != want {
					t.Errorf("create %v: written %v, error %v", create, server.written, err)
				}
				if server.written == nil {
					continue
				}
				if o := server.written.OwnerReferences; (len(o) == 1 && o[0].UID == "7" && o[0].Kind == "Deployment") != test.owned {
					t.Errorf("create %v: its owners are %v", create, o)
				}
			}
		})
	}
}
