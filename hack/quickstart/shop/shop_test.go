package shop

import (
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func prepared(t *testing.T) *Shop {
	t.Helper()
	var instances [3]netip.AddrPort
	for i := range instances {
		instances[i] = netip.AddrPortFrom(netip.MustParseAddr("10.1.2.3"), uint16(9001+i))
	}
	s, err := Prepare("../../../config/samples/shop", t.TempDir(), Options{Instances: instances, HTTPPort: 18080})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPrepare(t *testing.T) {
	s := prepared(t)
	files, err := filepath.Glob(filepath.Join(s.Dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "192.0.2.") || strings.Contains(string(text), "port: 8080") {
			t.Errorf("%s still has an example's address or port", filepath.Base(file))
		}
		for _, doc := range strings.Split(string(text), "\n---\n") {
			var object struct {
				Kind     string
				Metadata struct{ Namespace, Name string }
			}
			if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			objects[object.Kind+" "+object.Metadata.Namespace+"/"+object.Metadata.Name] = true
		}
	}
	for _, want := range []string{
		"Gateway shop-gateway/web", "EndpointSlice shop/catalogue-3",
		"Secret shop/orders-keys", "Secret shop/accounts-jwks", "Secret shop-gateway/shop-tls",
	} {
		if !objects[want] {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestTableIsComplete(t *testing.T) {
	s := prepared(t)
	cases, err := s.Table()
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 20 {
		t.Errorf("%d cases only", len(cases))
	}
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.Name] || c.Name == "" || c.Stage == "" {
			t.Errorf("case %q: name and stage must be there, and the name its own", c.Name)
		}
		names[c.Name] = true
		if c.Expect.Status == 0 && c.Expect.Statuses == nil {
			t.Errorf("%s: no status is expected", c.Name)
		}
		for _, value := range c.Request.Headers {
			if strings.Contains(value, "${") {
				t.Errorf("%s: %s is not filled in", c.Name, value)
			}
		}
	}
}

// A client tells what is wrong: without a gateway between, most answers are.
func TestClientTellsWhatIsWrong(t *testing.T) {
	s := prepared(t)
	instance := httptest.NewServer(Demo("demo-1"))
	defer instance.Close()
	at := instance.Listener.Addr().String()
	client, err := s.NewClient(at, at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	for _, c := range []struct {
		name   string
		expect Expect
		want   []string
	}{
		{"right", Expect{Status: 200, Headers: map[string]string{"X-Instance": "*"}, Instances: map[string]int{"demo-1": 2},
			Echo: &ExpectEcho{Path: "/a", Method: "GET", Headers: map[string]string{"X-B": ""}}}, nil},
		{"status", Expect{Status: 404}, []string{"status is 200, want 404"}},
		{"statuses", Expect{Statuses: map[int]int{200: 1, 429: 1}}, []string{"statuses are map[200:2], want map[200:1 429:1]"}},
		{"instances", Expect{Instances: map[string]int{"demo-2": 2}}, []string{"instances answered map[demo-1:2], want map[demo-2:2]"}},
		{"headers", Expect{Headers: map[string]string{"X-Instance": "", "X-Gateway": "*", "Content-Type": "text/css"}}, []string{
			`Content-Type is "application/json", want "text/css"`, "X-Gateway is missing", `X-Instance is "demo-1", want none`}},
		{"echo", Expect{Echo: &ExpectEcho{Path: "/b", Headers: map[string]string{"X-Customer": "alice"}}}, []string{
			`the path sent on is "/a", want "/b"`, `the header X-Customer sent on is "", want "alice"`}},
	} {
		tc := Case{Request: Request{Method: "GET", Scheme: "http", Host: "shop.example.com", Path: "/a"}, Repeat: 2, Expect: c.expect}
		got := client.Do(t.Context(), &tc).Problems
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
