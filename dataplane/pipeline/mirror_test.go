package pipeline

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/hashkey"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// replying is a cluster whose answers are given.
type replying struct {
	*fake
	status int
	length int64
	broken bool // breaks off amid its content
}

func (r *replying) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	lease, err := r.fake.RoundTrip(ex)
	if err == nil {
		ex.Response.Status, ex.Response.Length = r.status, r.length
		if r.broken {
			ex.Response.Body = brokenContent{}
		}
	}
	return lease, err
}

type brokenContent struct{}

func (brokenContent) Next() ([]byte, error) { return nil, io.ErrUnexpectedEOF }
func (brokenContent) Ready() bool           { return true }
func (brokenContent) Close()                {}

// mirrorOutcomes are the copies of cluster b by what became of them, and the
// responses that were timed.
func mirrorOutcomes(t *testing.T, b *bench) (outcomes map[string]float64, timed uint64) {
	t.Helper()
	families, err := b.opts.Metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	outcomes = map[string]float64{}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			switch f.GetName() {
			case "headgate_mirror_requests_total":
				labels := map[string]string{}
				for _, l := range one.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				outcomes[labels["outcome"]] += one.GetCounter().GetValue()
				delete(labels, "outcome")
				if want := map[string]string{"listener": gateway, "route": "HTTPRoute/shop/route", "cluster": "b"}; !maps.Equal(labels, want) {
					t.Errorf("labels %v", labels)
				}
			case "headgate_mirror_response_duration_seconds":
				timed += one.GetHistogram().GetSampleCount()
			}
		}
	}
	return outcomes, timed
}

func TestMirrorsAreCompared(t *testing.T) {
	failure := &exchange.UpstreamError{Stage: exchange.Sending, Reason: "reset", Err: errors.New("reset")}
	for name, c := range map[string]struct {
		primary, mirror replying
		content         []string
		length          int64
		want            string
		timed           uint64
	}{
		"same":             {primary: replying{status: 200, length: 5}, mirror: replying{status: 200, length: 5}, want: "same", timed: 2},
		"length unknown":   {primary: replying{status: 200, length: 5}, mirror: replying{status: 200, length: -1}, want: "same", timed: 2},
		"status":           {primary: replying{status: 200}, mirror: replying{status: 404}, want: "status_differs", timed: 2},
		"length":           {primary: replying{status: 200, length: 5}, mirror: replying{status: 200, length: 6}, want: "length_differs", timed: 2},
		"mirror fails":     {primary: replying{status: 200}, mirror: replying{fake: &fake{err: failure}}, want: "failed"},
		"mirror breaks":    {primary: replying{status: 200}, mirror: replying{status: 200, broken: true}, want: "failed"},
		"primary fails":    {primary: replying{fake: &fake{err: failure}}, mirror: replying{status: 200}, want: "primary_failed"},
		"with content":     {primary: replying{status: 201}, mirror: replying{status: 201}, content: []string{"abc"}, length: -1, want: "same", timed: 2},
		"too much content": {primary: replying{status: 200}, mirror: replying{status: 200}, content: []string{strings.Repeat("x", mirrorContent), "x"}, length: -1, want: "dropped"},
		"as announced":     {primary: replying{status: 200}, mirror: replying{status: 200}, content: []string{"x"}, length: mirrorContent + 1, want: "dropped"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(o *Options) {
				o.NewCluster = func(cfg *snapshot.Cluster, eps *snapshot.Endpoints) Cluster {
					r := c.primary
					if cfg.Key == "b" {
						r = c.mirror
					}
					if r.fake == nil {
						r.fake = &fake{}
					}
					r.cfg = cfg
					return &r
				}
			})
			b.host(gateway, "*", to("a", func(r *snapshot.Route) {
				r.Rule.Mirrors = []snapshot.Mirror{{Cluster: "b", Numerator: 1, Denominator: 1}}
			}))
			b.must()
			ex := request("PUT /x")
			if c.content != nil {
				ex, _ = withBody(ex, c.length, c.content...)
			}
			b.do(ex)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := b.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			outcomes, timed := mirrorOutcomes(t, b)
			if want := map[string]float64{c.want: 1}; !maps.Equal(outcomes, want) || timed != c.timed {
				t.Errorf("%v, %d timed; want %v, %d", outcomes, timed, want, c.timed)
			}
		})
	}
}

// TestMirrorsWithoutRoomAreCounted drops copies where there are too many.
func TestMirrorsWithoutRoomAreCounted(t *testing.T) {
	b := newBench(t, func(o *Options) { o.MaxMirrors = 1 })
	b.host(gateway, "*", to("a", func(r *snapshot.Route) {
		r.Rule.Mirrors = []snapshot.Mirror{{Cluster: "b", Numerator: 1, Denominator: 1}}
	}))
	b.must()
	stuck := b.fakes["b"]
	stuck.began = make(chan bool)
	for range 3 {
		b.do(request("GET /"))
	}
	close(stuck.began)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	outcomes, _ := mirrorOutcomes(t, b)
	if want := map[string]float64{"same": 1, "dropped": 2}; !maps.Equal(outcomes, want) {
		t.Errorf("%v, want %v", outcomes, want)
	}
}

type tenant string

func (c tenant) Claim(name string) (string, bool) { return string(c), name == "tenant" }

// TestDuplicatesAreHashedAlike has mirrors and hedges find the key that their request has.
func TestDuplicatesAreHashedAlike(t *testing.T) {
	keys, err := hashkey.New([]snapshot.HashKey{{Type: "Expression", Expression: "consumer.claims.tenant + consumer.method"}})
	if err != nil {
		t.Fatal(err)
	}
	ex := request("GET /")
	ex.Consumer = exchange.Consumer{Name: "c", Method: "jwt", Claims: tenant("a")}
	dup := duplicate(ex)
	want, ok := keys.Hash(ex)
	if !ok {
		t.Fatal("the request has no key")
	}
	// Whoever it is of may be over by then.
	ex.Reset()
	if got, ok := keys.Hash(dup); !ok || got != want {
		t.Errorf("%x, %v, want %x", got, ok, want)
	}
}
