# siestad: the targets a person uses. Each installs what it needs first (Debian packages, as root) and says so.
.DEFAULT_GOAL := help
GO := scripts/with-go
.PHONY: help build build-dev generate demo demo-down test lint fuzz mutate fmt lab lab-down lab-test bench guest

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the production programs into bin/
	@scripts/setup lint
	$(GO) env CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/siestad ./cmd/siesta ./cmd/siesta-verify ./cmd/siesta-guest

build-dev: ## build the development programs (simulated hardware) into bin/dev/
	@scripts/setup lint
	$(GO) env CGO_ENABLED=0 go build -trimpath -tags devtee -o bin/dev/ ./cmd/siestad ./cmd/siesta ./cmd/siesta-verify ./cmd/siesta-guest ./cmd/siesta-lab

guest: ## build the guest's kernel and initrd into var/guest/
	@scripts/setup demo
	deploy/guest/build

demo: ## the whole path on this machine: workspace, attestation, unlock, reboot, shred
	@scripts/setup demo
	scripts/demo up

demo-down: ## end what the demo left running
	scripts/demo down

test: ## every test, race detector on, QEMU guests included
	@scripts/setup test
	scripts/test

lint: ## linters, generated code and go.mod current, openapi
	@scripts/setup lint
	scripts/lint

fmt: ## format all Go code
	$(GO) gofmt -w cmd internal migrations

generate: ## generate server and client from openapi.yaml
	$(GO) go generate ./internal/api/...

fuzz: ## every fuzz target for half a minute
	@scripts/setup lint
	scripts/fuzz

mutate: ## how many small faults of attest and the broker their tests notice (about an hour)
	@scripts/setup demo
	$(GO) go run ./scripts/mutate -longest 2s ./internal/attest/p384 ./internal/attest ./internal/keybroker

lab: ## a real OpenStack (Zed) and Keycloak in a network namespace of their own
	deploy/lab/lab up

lab-down: ## end the lab and remove what it left
	deploy/lab/lab down --wipe

lab-test: ## the whole path on the real OpenStack
	deploy/lab/test

bench: ## the figures of design and docs, as ratios within one run
	@scripts/setup demo
	scripts/bench
