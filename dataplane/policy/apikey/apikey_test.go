package apikey_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/apikey"
)

func keys(pairs ...string) []apikey.Key {
	var all []apikey.Key
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, apikey.Key{Consumer: pairs[i], Sum: apikey.SumOf([]byte(pairs[i+1]))})
	}
	slices.SortFunc(all, func(a, b apikey.Key) int { return bytes.Compare(a.Sum[:], b.Sum[:]) })
	return all
}

func config() apikey.Config {
	return apikey.Config{
		Keys: keys("alice", "alice-1", "alice", "alice-2", "bob", "bob-1"),
		From: []credential.Source{{Header: "X-API-Key"}, {Query: "key"}},
	}
}

func request(query string, lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.In.Query, ex.In.HasQuery = query, query != ""
	copyOut(ex)
	return ex
}

func copyOut(ex *exchange.Exchange) {
	ex.Out.Query, ex.Out.HasQuery = ex.In.Query, ex.In.HasQuery
	ex.Out.Fields = append(ex.Out.Fields[:0], ex.In.Fields...)
}

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*apikey.Config)
		ex       *exchange.Exchange
		consumer string
		method   string
		status   int
		reason   string
		out      string
	}{
		{name: "right", ex: request("", "X-API-Key: alice-2", "A: b"), consumer: "alice", method: "apiKey", out: "A: b?"},
		{name: "right in query", ex: request("x=1&key=bob-1"), consumer: "bob", method: "apiKey", out: "?x=1"},
		{name: "all places are cleaned", ex: request("key=bob-1", "X-API-Key: alice-1"), consumer: "alice", method: "apiKey", out: "?"},
		{name: "forwarded", change: func(c *apikey.Config) { c.Forward = true }, ex: request("", "X-API-Key: alice-1"), consumer: "alice", method: "apiKey", out: "X-API-Key: alice-1?"},
		{name: "wrong", ex: request("", "X-API-Key: alice-3"), status: 401, reason: "invalid_api_key"},
		{name: "prefix of a key", ex: request("", "X-API-Key: alice-"), status: 401, reason: "invalid_api_key"},
		{name: "missing", ex: request(""), status: 401, reason: "missing_api_key"},
		{name: "anonymous", change: func(c *apikey.Config) { c.Anonymous = true }, ex: request(""), out: "?"},
		{name: "anonymous with a wrong key", change: func(c *apikey.Config) { c.Anonymous = true }, ex: request("key=x"), status: 401, reason: "invalid_api_key"},
		{name: "next decides about none", change: func(c *apikey.Config) { c.Next = true }, ex: request(""), out: "?"},
		{name: "next learns of a wrong one", change: func(c *apikey.Config) { c.Next = true }, ex: request("key=x"), method: "apiKey", out: "?key=x"},
		{name: "consumer header", change: func(c *apikey.Config) { c.ConsumerHeader = "X-Consumer" },
			ex: request("", "x_consumer: root", "X-API-Key: bob-1", "X-Consumer: root"), consumer: "bob", method: "apiKey", out: "X-Consumer: bob?"},
		{name: "consumer header of nobody", change: func(c *apikey.Config) { c.ConsumerHeader, c.Anonymous, c.From, c.Keys = "X-Consumer", true, nil, nil },
			ex: request("", "X-Consumer: root"), out: "?"},
		{name: "no keys at all", change: func(c *apikey.Config) { c.Keys = nil }, ex: request("key=alice-1"), status: 401, reason: "invalid_api_key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := config()
			if c.change != nil {
				c.change(&config)
			}
			filter, err := config.Build(&policy.Env{})
			if err != nil {
				t.Fatal(err)
			}
			verdict := filter.Request(c.ex)
			if (verdict == exchange.Answered) != (c.status != 0) || c.ex.Response.Status != c.status || c.ex.Response.LocalReason != c.reason {
				t.Fatalf("verdict %v, status %d, reason %q; want %d, %q", verdict, c.ex.Response.Status, c.ex.Response.LocalReason, c.status, c.reason)
			}
			if c.status != 0 {
				if c.ex.Response.Fields.Value(exchange.KeyWWWAuthenticate) == "" {
					t.Error("401 without WWW-Authenticate")
				}
				return
			}
			if c.ex.Consumer.Name != c.consumer || c.ex.Consumer.Method != c.method {
				t.Errorf("consumer %+v, want %q by %q", c.ex.Consumer, c.consumer, c.method)
			}
			var out []string
			for _, f := range c.ex.Out.Fields {
				out = append(out, f.Name+": "+f.Value)
			}
			if got := strings.Join(out, "\n") + "?" + c.ex.Out.Query; got != c.out {
				t.Errorf("upstream sees %q, want %q", got, c.out)
			}
		})
	}
}

func TestBuildRefusesWhatCannotTellConsumers(t *testing.T) {
	c := config()
	c.Keys = append(c.Keys, c.Keys[len(c.Keys)-1])
	if _, err := c.Build(&policy.Env{}); err == nil {
		t.Error("a key of two consumers was accepted")
	}
}

func TestKeysDoNotShow(t *testing.T) {
	c := config()
	text, err := json.Marshal(&c)
	if err != nil || bytes.Contains(text, []byte("alice-1")) || !bytes.Contains(text, []byte("alice")) {
		t.Errorf("%s %v", text, err)
	}
}

func TestAllocatesNothing(t *testing.T) {
	c := config()
	c.ConsumerHeader = "X-Consumer"
	filter, err := c.Build(&policy.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ex := request("", "X-API-Key: alice-1", "A: b")
	if n := testing.AllocsPerRun(100, func() {
		copyOut(ex)
		ex.Consumer = exchange.Consumer{}
		if filter.Request(ex) != exchange.Continue {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
