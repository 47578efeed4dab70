package dataplane_test

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/policy"
	onpurpose "github.com/headgate/headgate/dataplane/policy/fault"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestFaultPolicy: what fails on purpose looks to clients as if the backend failed, and
// who leaves while his request is held up leaves nothing behind.
func TestFaultPolicy(t *testing.T) {
	fails := func(prefix string, c *onpurpose.Config) *snapshot.Route {
		r := to(prefix, "a")
		r.Rule.Backends[0].Filters = []policy.Config{c}
		return r
	}
	p := start(t, dataplane.Options{})
	w := (&world{}).port(plain()).cluster("a", backend(t, "a"))
	late := fails("/late", &onpurpose.Config{Delay: &onpurpose.Delay{Time: time.Hour, Percent: 100}})
	late.Rule.RequestTimeout = 50 * time.Millisecond
	w.host(gateway, "*", late,
		fails("/abort", &onpurpose.Config{Abort: &onpurpose.Abort{Status: 418, Percent: 100}}),
		fails("/delay", &onpurpose.Config{Delay: &onpurpose.Delay{Time: 20 * time.Millisecond, Percent: 100}}),
		fails("/held", &onpurpose.Config{Delay: &onpurpose.Delay{Time: time.Hour, Percent: 100}}),
	).apply(t, p)
	url := "http://" + address(t, p)
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		t.Run(name, func(t *testing.T) {
			for path, status := range map[string]int{"/late": 504, "/abort": 418, "/delay": 200} {
				began := time.Now()
				if resp, body := get(t, c, url+path); resp.StatusCode != status {
					t.Errorf("%s: %d %q", path, resp.StatusCode, body)
				}
				if took := time.Since(began); path == "/delay" && took < 20*time.Millisecond {
					t.Errorf("%s took %v", path, took)
				}
			}
		})
	}

	nc, err := net.Dial("tcp", address(t, p))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(nc, "GET /held HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
	awaitInFlight(t, p, 1)
	_ = nc.(*net.TCPConn).SetLinger(0)
	nc.Close()
	awaitInFlight(t, p, 0)
}

func awaitInFlight(t testing.TB, p *dataplane.Proxy, n int) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); p.InFlight() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d are in flight, want %d", p.InFlight(), n)
		}
	}
}
