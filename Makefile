# Everything one needs. `make` alone explains itself.
.DEFAULT_GOAL := help
SHELL := /bin/bash
NEED := ./internal/setup/need.sh
DOCKER := ./internal/setup/docker.sh
GO ?= go

# go test, here or, where this machine can't, in a container.
go-test = if $(NEED) go postgres chromium; then $(GO) test $(1); else $(DOCKER) test $(1); fi

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## a private Postgres, a demo app and its page: three devices syncing (ARGS="--fresh")
	@if $(NEED) go; then $(GO) build -o .bin/nudge ./server; else $(DOCKER) build; fi
	@if $(NEED) postgres; then exec .bin/nudge dev $(ARGS); else exec $(DOCKER) dev $(ARGS); fi

.PHONY: test
test: ## every test, with the race detector, on a real Postgres and in a real browser
	@$(call go-test,-race -timeout 15m ./...)

.PHONY: lint
lint: ## golangci-lint
	@$(NEED) go golangci
	.bin/golangci-lint run ./...

.PHONY: fmt
fmt: ## format as lint wants it
	@$(NEED) go golangci
	.bin/golangci-lint fmt ./...

.PHONY: build
build: ## the two programs, into .bin
	@$(NEED) go
	$(GO) build -trimpath -o .bin/nudge ./server
	$(GO) build -trimpath -o .bin/clientsim ./clientsim

.PHONY: test-long
test-long: ## what CI can't afford: many kills, many seeds, five million rows, longer runs
	@export NUDGE_LONG=1; $(call go-test,-race -count=1 -timeout 60m -run 'I09|I11|Kill|Chaos|Planted|Property|Silent|P04|P08|P21|Tiny' ./changefeed/... ./notify/... ./server/... ./clientsim/...)

.PHONY: test-matrix
test-matrix: ## what depends on Postgres, on versions 14 to 18 (MAJORS="14 18" for some)
	@$(NEED) go postgres chromium
	GO=$(GO) ./internal/setup/postgres-matrix.sh ./changefeed/... ./notify/device ./server/pull ./server/attach ./server ./clientsim

# Each bench is a program of its own, which prepares what it needs.
bench = mkdir -p .bin && $(GO) build -o .bin/nudge ./server && $(GO) build -o .bin/bench-$(1) ./internal/bench/$(1) && .bin/bench-$(1) $(ARGS)

.PHONY: bench
bench: bench-feed bench-pull bench-herd bench-socket bench-push ## all of them, one after the other (some 40 minutes)

.PHONY: bench-feed
bench-feed: ## the change feed against pg_recvlogical, over one backlog (ARGS="-row1 1000000 -cpuprofile cpu")
	@$(NEED) go postgres
	@$(call bench,feed)

.PHONY: bench-pull
bench-pull: ## pulls a second against a constant answer (ARGS="-lasting 20s -cpuprofile cpu")
	@$(NEED) go postgres wrk
	@$(call bench,pull)

.PHONY: bench-herd
bench-herd: ## 20,000 devices that pull within one second, against a constant answer
	@$(NEED) go postgres
	@$(call bench,herd)

.PHONY: bench-socket
bench-socket: ## commit to nudge over 15,000 sockets, their memory, and what writers notice
	@$(NEED) go postgres
	@$(call bench,socket)

.PHONY: bench-push
bench-push: ## pushes through the providers' SDKs, marking, 100,000 due devices, a dead provider (ARGS="-only rate -cpuprofile cpu")
	@$(NEED) go postgres
	@mkdir -p .bin && $(GO) build -o .bin/clientsim ./clientsim
	@$(call bench,push)

.PHONY: clean
clean: ## what was built
	rm -rf .bin .bench
