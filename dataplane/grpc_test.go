package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/exchange"
)

// TestGRPC calls by what gRPC is made of. The suite of gRPC itself is in hack/protocols.
func TestGRPC(t *testing.T) {
	upstream := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow.Service/Wait":
			<-r.Context().Done()
		case "/shop.Orders/Stream":
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			content, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", content, r.Header.Get("Te"))
			w.Header().Set("Grpc-Status", "0")
		}
	})
	p := start(t, dataplane.Options{})
	const cluster = "Service/shop/grpc/80/h2c"
	unresolved := to("/unresolved.Service", "")
	w := (&world{}).port(plain()).host(gateway, "*", unresolved, to("/slow.Service", cluster), to("/shop.Orders", cluster)).
		h2cCluster(cluster, upstream)
	w.apply(t, p)

	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: 20 * time.Second}
	defer c.CloseIdleConnections()
	call := func(method string, header ...exchange.Field) (*http.Response, string) {
		t.Helper()
		req, _ := http.NewRequest("POST", "http://"+address(t, p)+method, io.MultiReader(strings.NewReader("mess"), strings.NewReader("age")))
		req.Header.Set("Content-Type", "application/grpc+proto")
		req.Header.Set("Te", "trailers")
		for _, h := range header {
			req.Header.Set(h.Name, h.Value)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return resp, string(text)
	}

	if resp, text := call("/shop.Orders/Stream"); text != "message trailers" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q, trailers %v", text, resp.Trailer)
	}
	for _, one := range []struct{ method, timeout, want string }{
		{"/nothing.Service/Call", "", "12"},
		{"/unresolved.Service/Call", "", "14"},
		{"/slow.Service/Wait", "20m", "4"},
		{"/slow.Service/Wait", "0n", "4"},
		{"/shop.Orders/Stream", "20S", ""},
	} {
		var header []exchange.Field
		if one.timeout != "" {
			header = append(header, exchange.Field{Name: "Grpc-Timeout", Value: one.timeout})
		}
		resp, text := call(one.method, header...)
		if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != one.want {
			t.Errorf("%s, timeout %q: %d %v %q, want grpc-status %q", one.method, one.timeout, resp.StatusCode, resp.Header, text, one.want)
		}
		if one.want != "" && (text != "" || resp.Header.Get("Grpc-Message") == "" || resp.Header.Get("Content-Type") != "application/grpc") {
			t.Errorf("%s: %q, %v", one.method, text, resp.Header)
		}
	}
	if resp, _ := call("/nothing.Service/Call", exchange.Field{Name: "Content-Type", Value: "text/plain"}); resp.StatusCode != 404 {
		t.Errorf("what is not gRPC got %d", resp.StatusCode)
	}
}
