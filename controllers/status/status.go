// Package status writes what compile says about objects into them. Only the
// leader runs it.
package status

import (
	"context"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
)

// Options bound what a Writer does.
type Options struct {
	// Rate is how many writes a second are made on average, Burst how many at
	// once; 0 means 20 and 100.
	Rate  float32
	Burst int
	// Metrics, if set, takes headgate_status_writes_total.
	Metrics prometheus.Registerer
	Log     logr.Logger
}

// Writer writes statuses.
type Writer struct{}

// NewWriter returns a Writer. The client reads from a cache.
func NewWriter(c client.Client, opts Options) *Writer { panic("not yet") }

// Publish hands over a result. It does not wait. Results come in order.
func (w *Writer) Publish(result *compile.Result) { panic("not yet") }

// Run writes until the context ends. It may be called again after it returned.
func (w *Writer) Run(ctx context.Context) error { panic("not yet") }
