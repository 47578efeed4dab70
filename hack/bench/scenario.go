package main

import (
	"context"
	"time"
)

// scenario is one kind of work.
type scenario struct {
	name, about string
	measured    measurement
	// generate puts the load on, where CPU time is measured.
	generate func(context.Context, *options, *scenario, *proxy, time.Duration) (sample, error)
	listener listener
	// connections of the client, and requests at a time on each.
	connections, streams int
	// path is what is asked of all proxies, headgatePath of Headgate if it differs.
	path, headgatePath string
	headers            []string // sent to all
	headgateHeaders    []string // sent to Headgate only
	content            int      // bytes, of a POST
	grpc               bool     // a unary call
}

// measurement is what of a proxy is compared.
type measurement int

const (
	cpuTime      measurement = iota // per request
	memory                          // while connections are idle
	addedLatency                    // to a direct request, at the 99th percentile
	addedCPUTime                    // per request, of Headgate by what it also does
	overloaded                      // goodput with three times the requests that can be served
	spiked                          // goodput with twenty times the requests from one moment to the next
	updated                         // what fails during a rolling update
	interrupted                     // goodput behind an outage of all backends
)

// listener is which of a proxy's listeners is used.
type listener int

const (
	plain listener = iota // HTTP/1.1
	h2c
	https
	tcp
)

const (
	host   = "shop.example.com"
	apiKey = "bench-0123456789abcdef0123456789abcdef"
	item   = "/catalogue/item"
)

var scenarios = []scenario{
	{
		name: "plain", about: "a small keep-alive GET, routed by host and path, 64 connections",
		generate: wrk, connections: 64, path: item,
	}, {
		name: "policies", about: "the same for nginx and HAProxy; Headgate also checks an API key, a rate limit, and sets a header",
		generate: wrk, connections: 64, path: item, headgatePath: "/orders/item", headgateHeaders: []string{"X-API-Key: " + apiKey},
	}, {
		name: "connections", about: "a small keep-alive GET, 512 connections",
		generate: wrk, connections: 512, path: item,
	}, {
		name: "new", about: "a small GET on a new connection each, 64 at a time",
		generate: wrk, connections: 64, path: item, headers: []string{"Connection: close"},
	}, {
		name: "large", about: "a keep-alive GET of 64 KiB, 64 connections",
		generate: wrk, connections: 64, path: "/catalogue/large",
	}, {
		name: "upload", about: "a keep-alive POST of 16 KiB, 64 connections",
		generate: wrk, connections: 64, path: "/echo/short", content: upload,
	}, {
		name: "h2", about: "a small GET, HTTP/2 without TLS to HTTP/1.1, 8 connections with 32 streams each",
		generate: h2load, listener: h2c, connections: 8, streams: 32, path: item,
	}, {
		name: "grpc", about: "a unary gRPC call, HTTP/2 without TLS on both sides, 8 connections with 32 streams each",
		generate: h2load, listener: h2c, connections: 8, streams: 32, path: grpcPath, grpc: true,
	}, {
		name: "tls", about: "a small keep-alive GET over TLS 1.3, 64 connections",
		generate: wrk, listener: https, connections: 64, path: item,
	}, {
		name: "handshakes", about: "a small GET on a new TLS 1.3 connection each, ECDSA with P-256, no resumption, 16 at a time",
		generate: wrk, listener: https, connections: 16, path: item, headers: []string{"Connection: close"},
	}, {
		name: "tcp", about: "messages of 64 KiB to and fro over TCP, 16 connections",
		generate: wrk, listener: tcp, connections: 16, path: "/echo", content: large,
	}, {
		name: "latency", about: "latency added to a direct request at 70 % of nginx's peak rate, requests at random moments, 64 connections",
		measured: addedLatency, connections: 64, path: item,
	}, {
		name: "watched", about: "what LeastRequest and outlier detection add to a small keep-alive GET of Headgate's, 64 connections",
		measured: addedCPUTime, generate: wrk, connections: 64, path: item, headgatePath: "/watched/item",
	}, {
		name: "rollout", about: "a rolling update of a backend of Headgate's with 10 endpoints, under as many requests as there can be on 64 connections",
		measured: updated, connections: 64, path: "/rolling/item",
	}, {
		name: "overload", about: "three times what the backends can serve: 12 requests at a time, 6 ms each",
		measured: overloaded, connections: 64, path: "/limited/item",
	}, {
		name: "overload-cpu", about: "three times what the proxy's core can serve: it compresses 256 KiB of JSON with gzip",
		measured: overloaded, connections: 64, path: "/text", headers: []string{"Accept-Encoding: gzip"},
	}, {
		name: "overload-free", about: "the same without any bounds but those that the proxies have by themselves",
		measured: overloaded, connections: 64, path: "/free-text", headers: []string{"Accept-Encoding: gzip"},
	}, {
		name: "spike", about: "the first second of 10,000 small GETs a second behind 500, after the proxy's start",
		measured: spiked, path: item,
	}, {
		name: "outage", about: "3,000 small GETs a second, behind 5 s without any backend",
		measured: interrupted, path: item,
	}, {
		name: "idle", about: "memory with 10,000 idle keep-alive connections that had one request each",
		measured: memory, connections: 10_000, path: item,
	}, {
		name: "idle-tls", about: "the same over TLS 1.3",
		measured: memory, listener: https, connections: 10_000, path: item,
	}, {
		name: "idle-h2", about: "the same with HTTP/2 without TLS",
		measured: memory, listener: h2c, connections: 10_000, path: item,
	},
}

// asked is what is asked of this proxy.
func (s *scenario) asked(p *proxy) (path string, headers []string) {
	if p.name != "headgate" {
		return s.path, s.headers
	}
	path = s.path
	if s.headgatePath != "" {
		path = s.headgatePath
	}
	return path, append(append([]string(nil), s.headers...), s.headgateHeaders...)
}
