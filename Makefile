# Targets with a text after ## are listed by "make help".

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO    ?= go
# The tools have a module of their own, so that their dependencies are not Limpet's; a workspace does not take -modfile.
TOOL  := GOWORK=off $(GO) tool -modfile=$(CURDIR)/tools/go.mod
FUZZ_TIME ?= 10s
SOAK_FLAGS ?=
BENCH_FLAGS ?=
CLUSTER_FLAGS ?=
# The test cluster is a module of its own, with Kubernetes' client libraries, which a workspace cannot hold beside Knative's.
CLUSTER := GOWORK=off $(GO) -C test/cluster run ./cmd/cluster

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build limpet and the counter into bin/
	$(GO) build -o bin/ ./cmd/... ./examples/...

.PHONY: check
check: ## Look for what tools can see: format, vet, staticcheck, layers, documentation
	@out=$$($(TOOL) gofumpt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$out" ]; then echo "not formatted; run make format:"; echo "$$out"; exit 1; fi
	$(GO) vet ./... ./knative/...
	$(TOOL) staticcheck ./...
	cd knative && $(TOOL) staticcheck ./...
	$(GO) test -count=1 .

.PHONY: format
format: ## Format every Go file
	$(TOOL) gofumpt -w $$(git ls-files --cached --others --exclude-standard '*.go')

.PHONY: test
test: redis-server ## Run the tests of all packages, with the race detector
	$(GO) test -race ./... ./knative/...
	$(GO) test -count=1 ./knative/policy/admission # reads deploy/, of which the cache knows nothing

.PHONY: test-long
test-long: redis-server ## Run the tests that take longer as well
	LIMPET_LONG=1 $(GO) test -count=1 -timeout 30m ./...

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZ_TIME (10s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$name in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ_TIME) "$$(dirname "$$file")"; \
		done; \
	done

.PHONY: bench
bench: redis-server ## Measure what stickiness costs, into bench.txt
	$(GO) run ./test/bench --out bench.txt $(BENCH_FLAGS)

.PHONY: tcp-cost
tcp-cost: ## Measure the processor time of carrying TCP, beside HAProxy's, into tcp-cost.txt
	@command -v haproxy >/dev/null || { echo "haproxy is missing. On Debian: sudo apt-get install haproxy" >&2; exit 1; }
	$(GO) run ./test/bench/tcp --out tcp-cost.txt $(BENCH_FLAGS)

.PHONY: udp-cost
udp-cost: ## Measure the processor time of carrying UDP, beside that of nginx' stream module, into udp-cost.txt
	@command -v nginx >/dev/null || { echo "nginx is missing. On Debian: sudo apt-get install nginx-light libnginx-mod-stream" >&2; exit 1; }
	$(GO) run ./test/bench/udp --out udp-cost.txt $(BENCH_FLAGS)

.PHONY: clientip-lab
clientip-lab: build ## Measure where kube-proxy and Limpet send clients, beside theory, as root; reports go to bin/
	for preset in reference cliff faults; do bin/limpet clientip lab --preset $$preset --out bin/clientip-$$preset.html; done

.PHONY: soak
soak: redis-server ## Drive real gateways for a million requests through everything that happens to them
	$(GO) run ./test/soak $(SOAK_FLAGS)

.PHONY: soak-short
soak-short: redis-server ## The same for half a minute, and that the checker notices when affinity is off
	LIMPET_SOAK=1 $(GO) test -count=1 -v -run 'TestSessionsSurvive|TestTheCheckerNotices' ./test/soak

.PHONY: cluster-up
cluster-up: ## Start a real Kubernetes and Knative on this machine, as root
	$(CLUSTER) up $(CLUSTER_FLAGS)

.PHONY: cluster-down
cluster-down: ## End it; nothing is left
	$(CLUSTER) down $(CLUSTER_FLAGS)

.PHONY: images
images: ## Write container images of every command and of the examples into bin/images, as OCI archives
	$(CLUSTER) archive -to $(CURDIR)/bin/images ./cmd/limpet ./knative/cmd/limpet-knative-ingress ./knative/cmd/limpet-activator \
		./examples/counter ./examples/stickyrev

.PHONY: conformance
conformance: redis-server ## Run Knative's conformance tests of ingresses on a real cluster, as root
	GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 40m ./conformance

# In the package's own folder the test prints as it goes, without the noise of -v.
.PHONY: walkthrough
walkthrough: redis-server ## Show sticky routing step by step on a real cluster, as root
	cd test/cluster/walkthrough && GOWORK=off $(GO) test -count=1 -timeout 20m

.PHONY: reliability
reliability: redis-server ## Restart everything for five minutes while clients ask, on a real cluster, as root
	LIMPET_LONG=1 GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 60m ./reliability -run NoRequest

.PHONY: activator-reliability
activator-reliability: redis-server ## Kill and add activators under load for half an hour, on a real cluster, as root
	LIMPET_LONG=1 GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 60m ./reliability -run Activators

.PHONY: serving-suites
serving-suites: redis-server ## Run Knative's own tests with Serving's activator and with Limpet's, on a real cluster, as root
	LIMPET_LONG=1 GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 180m ./serving

.PHONY: kube-proxy
kube-proxy: ## Compare limpet clientip with the real kube-proxy in both of its modes, on a real cluster, as root
	GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 20m ./clientip

.PHONY: cost
cost: redis-server ## Measure the processor time of a request through the ingress and the activator, on a real cluster, as root
	LIMPET_COST=1 GOWORK=off $(GO) -C test/cluster test -count=1 -v -timeout 20m ./cost

.PHONY: cluster-test
cluster-test: redis-server ## Run the tests on real clusters, as root
	$(CLUSTER) build
	GOWORK=off $(GO) -C test/cluster vet ./...
	GOWORK=off $(GO) -C test/cluster test -count=1 -p 1 -timeout 30m ./...

.PHONY: demo
demo: ## Run the demonstration
	$(GO) run ./cmd/limpet demo

# Tests of the shared store run a real server: Redis or Valkey.
.PHONY: redis-server
redis-server:
	@if command -v redis-server >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing redis-server"; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qy --no-install-recommends redis-server; \
	else \
		echo "redis-server is missing. On Debian: sudo apt-get install redis-server" >&2; exit 1; \
	fi
