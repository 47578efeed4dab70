# `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

export GOTOOLCHAIN := local
# Nothing that is run needs cgo but the race detector.
export CGO_ENABLED := 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
IMAGE   ?= headgate:$(VERSION)
# Further flags for quickstart, bench, churn and scale.
ARGS    ?=
# make quickstart CHECK=1 ends after its requests, with an error if any answer was wrong.
CHECK   ?=
# make e2e RUN=Rollouts runs these of its tests.
RUN     ?=
# How long make fuzz runs each target.
FUZZTIME ?= 30s
# Packages that make test tests.
PKG     ?= ./...

# What make generate makes.
GENERATED := api/v1alpha1/zz_generated.deepcopy.go config/crd config/rbac controllers/manifests/schema/crds

.PHONY: help build test test-protocols cluster conformance e2e quickstart lint generate bench churn scale fuzz image FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: bin/headgate ## build bin/headgate

bin/headgate: FORCE
	go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/headgate

bin/demo: FORCE
	go build -o $@ ./hack/quickstart/demo

bin/quickstart bin/bench: bin/%: FORCE
	go build -o $@ ./hack/$*

bin/e2e-backend: FORCE
	go build -o $@ ./hack/e2e/backend

# The programs that hack/tools pins. They are built again when the pins change.
bin/controller-gen: TOOL := sigs.k8s.io/controller-tools/cmd/controller-gen
bin/staticcheck:    TOOL := honnef.co/go/tools/cmd/staticcheck
bin/helm:           TOOL := helm.sh/helm/v3/cmd/helm
bin/h2spec:         TOOL := github.com/summerwind/h2spec/cmd/h2spec
bin/grpc-client:    TOOL := google.golang.org/grpc/interop/client
bin/grpc-server:    TOOL := google.golang.org/grpc/interop/server
bin/controller-gen bin/staticcheck bin/helm bin/h2spec bin/grpc-client bin/grpc-server: hack/tools/go.mod hack/tools/go.sum
	cd hack/tools && go build -o ../../$@ $(TOOL)
	@touch $@

test: bin/helm ## run every test under the race detector, also against a real API server
	@mkdir -p out
	assets=$$(hack/cluster/cluster assets); \
	CGO_ENABLED=1 KUBEBUILDER_ASSETS=$$assets go test -race -timeout 20m $(PKG) 2>&1 | tee out/test.log
	@# The race detector allocates and costs memory itself, so what holds that nothing does runs without it.
	go test -run 'Allocat|AreSmall' ./dataplane/... 2>&1 | tee -a out/test.log

test-protocols: bin/headgate bin/h2spec bin/grpc-client bin/grpc-server ## hold bin/headgate to others' clients and suites: h2spec, gRPC, curl, Chromium, HAProxy, testssl.sh, slowhttptest
	hack/protocols/install
	@mkdir -p out
	@# http2xconnect lets Go's client of HTTP/2 ask for tunnels.
	GODEBUG=http2xconnect=1 HEADGATE=$(CURDIR)/bin/headgate H2SPEC=$(CURDIR)/bin/h2spec \
	GRPC_CLIENT=$(CURDIR)/bin/grpc-client GRPC_SERVER=$(CURDIR)/bin/grpc-server go test -count=1 -v -timeout 30m ./hack/protocols 2>&1 | tee out/protocols.log

cluster: bin/headgate bin/helm ## as root: a one-node Kubernetes on this machine, with Headgate of this tree installed by its chart
	hack/cluster/headgate $(ARGS)

conformance: cluster ## run the Gateway API's conformance suite there; the report goes to docs/conformance
	hack/conformance $(VERSION)

e2e: cluster bin/e2e-backend ## run rollouts, upgrades, faults and canaries there under load; not one request may fail
	hack/cluster/cluster image headgate-e2e-backend:dev bin/e2e-backend
	hack/e2e/install
	@mkdir -p out
	eval "$$(hack/cluster/cluster env)"; go test -tags e2e -count=1 -v -timeout 60m ./hack/e2e $(if $(RUN),-run '$(RUN)') 2>&1 | tee out/e2e.log

quickstart: bin/headgate bin/demo bin/quickstart ## see the shop at work; CHECK=1 to check its answers and end
	bin/quickstart $(if $(CHECK),-check) $(ARGS)

lint: bin/staticcheck bin/helm bin/controller-gen ## check format, vet, staticcheck, stale generated files, imports, the chart
	hack/lint $(GENERATED)

generate: bin/controller-gen ## make deepcopy, CRDs, RBAC and the embedded schemas from the code
	bin/controller-gen object paths=./api/...
	bin/controller-gen crd paths=./api/... output:crd:dir=config/crd
	@# The chart brings those of the Gateway API, too. Meshes are not Headgate's.
	rm -rf config/crd/gateway-api
	install -D -m 644 -t config/crd/gateway-api \
	  $$(ls $$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental/gateway.networking.*.yaml | grep -v -e _vap_ -e _xmeshes)
	bin/controller-gen rbac:roleName=headgate paths=./controllers/... output:rbac:dir=config/rbac
	go generate ./controllers/...

bench: bin/headgate bin/bench ## compare CPU, latency and memory with nginx and HAProxy; ARGS=-help for the flags
	bin/bench $(ARGS)

churn: bin/headgate ## change routes and endpoints a thousand times under load; not one request may fail
	go run ./hack/churn $(ARGS)

scale: bin/headgate ## measure propagation, memory and CPU with up to 40,000 routes, against a real API server; ARGS=-help for the flags
	KUBEBUILDER_ASSETS=$$(hack/cluster/cluster assets) go run ./hack/bench/scale \
		-crds $$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api) $(ARGS)

fuzz: ## run each fuzz target for FUZZTIME (30s)
	hack/fuzz $(FUZZTIME)

image: ## make a container image, with docker or for hack/cluster
	hack/image $(IMAGE) $(VERSION)
