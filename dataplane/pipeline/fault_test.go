package pipeline

import (
	"slices"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/fault"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestFault: an error that is made on purpose is not tried again, and reaches
// neither the backend nor its mirrors; other filters see it on its way out.
func TestFault(t *testing.T) {
	b := newBench(t)
	other := b.step("other")
	b.host(gateway, "*", to("a", func(r *snapshot.Route) {
		r.Rule.Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 3}
		r.Rule.Mirrors = []snapshot.Mirror{{Cluster: "b", Numerator: 1, Denominator: 1}}
		r.Rule.Backends[0].Filters = []policy.Config{other, &fault.Config{
			Abort: &fault.Abort{Status: 503, Percent: 100}, Headers: []fault.Header{{Name: "X-Fault", Value: "yes"}},
		}}
	}))
	b.must()
	hit := request("GET /")
	hit.In.Fields.Add("X-Fault", "yes")
	if status, reason := b.do(hit); status != 503 || reason != "fault_abort" {
		t.Errorf("%d %s", status, reason)
	}
	if want := []string{"other built", "other in", "other out 503"}; !slices.Equal(b.log, want) {
		t.Errorf("got %q, want %q", b.log, want)
	}

	call := request("POST /shop.Orders/Get")
	call.In.Proto = exchange.HTTP2
	call.In.Fields.Add("Content-Type", "application/grpc")
	call.In.Fields.Add("X-Fault", "yes")
	b.Serve(call)
	if r := &call.Response; r.Status != 200 || r.GRPCStatus() != "14" || r.LocalReason != "fault_abort" {
		t.Errorf("a gRPC call is answered %+v", r)
	}
	b.Done(call, nil)

	b.copies.Wait()
	if len(b.fakes["a"].seen()) != 0 || len(b.fakes["b"].seen()) != 0 {
		t.Error("a request that fails on purpose was sent")
	}
	if status, _ := b.do(request("GET /")); status != 200 || len(b.fakes["a"].seen()) != 1 {
		t.Errorf("another request: %d", status)
	}
	b.copies.Wait()
}
