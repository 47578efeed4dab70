// Package infra gives each Gateway its Service and allots the pods' ports that
// its listeners are bound to. Only the leader runs it.
package infra

import (
	"context"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
)

// Options say what the Services look like.
type Options struct {
	// Namespace is Headgate's own: the Services are there.
	Namespace string
	// Selector are the labels of Headgate's pods.
	Selector map[string]string
	// Type is LoadBalancer if empty.
	Type corev1.ServiceType
	// FirstPort and LastPort bound the target ports that are allotted; 0 means
	// 10000 and 19999.
	FirstPort, LastPort int32
	Log                 logr.Logger
}

// Services keeps one Service per Gateway.
type Services struct{}

// New returns Services. The client reads from a cache, reader from the API server.
func New(c client.Client, reader client.Reader, opts Options) *Services { panic("not yet") }

// Publish hands over a result. It does not wait. Results come in order.
func (s *Services) Publish(result *compile.Result) { panic("not yet") }

// Run reconciles until the context ends. It may be called again after it returned.
func (s *Services) Run(ctx context.Context) error { panic("not yet") }
