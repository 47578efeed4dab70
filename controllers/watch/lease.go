package watch

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// newLock returns the lock that the leader's Lease is, nil if there is none.
func newLock(cfg *rest.Config, opts Options) (resourcelock.Interface, error) {
	if opts.Lease == "" {
		return nil, nil
	}
	cfg = rest.AddUserAgent(rest.CopyConfig(cfg), "leader-election")
	cfg.Timeout = renewDeadline / 2
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: opts.Namespace, Name: opts.Lease},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: opts.Identity},
	}
	if opts.Deployment != "" {
		lock.Client = &ownedLeases{getter: client.CoordinationV1(), deployment: func(ctx context.Context) (*appsv1.Deployment, error) {
			return client.AppsV1().Deployments(opts.Namespace).Get(ctx, opts.Deployment, metav1.GetOptions{})
		}}
	}
	return lock, nil
}

// ownedLeases writes Leases that go with a Deployment, so that nothing is left
// of Headgate where that was deleted.
type ownedLeases struct {
	getter     coordinationclient.LeasesGetter
	deployment func(context.Context) (*appsv1.Deployment, error)

	mu    sync.Mutex
	owner *metav1.OwnerReference // once it is known
}

func (o *ownedLeases) Leases(namespace string) coordinationclient.LeaseInterface {
	return ownedLease{o.getter.Leases(namespace), o}
}

type ownedLease struct {
	coordinationclient.LeaseInterface
	of *ownedLeases
}

// Create creates a Lease, unless the Deployment is gone: a pod that is the last
// to end must not leave one behind.
func (l ownedLease) Create(ctx context.Context, lease *coordinationv1.Lease, opts metav1.CreateOptions) (*coordinationv1.Lease, error) {
	if err := l.of.own(ctx, lease); apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no Lease without the Deployment that it would go with: %w", err)
	}
	return l.LeaseInterface.Create(ctx, lease, opts)
}

// Update updates a Lease. One that somebody made before comes to go with the Deployment.
func (l ownedLease) Update(ctx context.Context, lease *coordinationv1.Lease, opts metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	_ = l.of.own(ctx, lease) // to lead is more important, and the next update is soon
	return l.LeaseInterface.Update(ctx, lease, opts)
}

func (o *ownedLeases) own(ctx context.Context, lease *coordinationv1.Lease) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.owner == nil {
		d, err := o.deployment(ctx)
		if err != nil {
			return err
		}
		o.owner = &metav1.OwnerReference{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: d.Name, UID: d.UID}
	}
	lease.OwnerReferences = []metav1.OwnerReference{*o.owner}
	return nil
}
