# Bare make prints this list. Everything here is a plain go command that can be typed as well.
.DEFAULT_GOAL := help
.PHONY: help build test race lint fuzz bench cover docs ci

help: ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F'\t' '{ printf "make %-8s %s\n", $$1, $$2 }'

build: ## the executables, into bin/
	go build -trimpath -o bin/ ./cmd/...

test: ## all tests, on a real NATS server each, without network
	go test -p 4 ./...

race: ## the same under the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## go vet, staticcheck, errcheck, zerologlint
	go vet ./...
	.ci/run lint

fuzz: ## each fuzz target for FUZZTIME (2000x: so many inputs)
	.ci/run fuzz

bench: ## all benchmarks, three times each
	go test -run '^$$' -bench . -benchmem -count 3 ./...

cover: ## how much of the code the tests run
	go test -coverpkg=./... -coverprofile=cover.out ./...
	go tool cover -func=cover.out | tail -n 1

docs: ## docs/config.md, from what --help of each executable says
	@{ echo '# Settings'; echo; echo 'Made by `make docs` from `--help`. Do not edit.'; \
	for dir in cmd/*/; do name=$$(basename $$dir); \
	printf '\n## %s\n\n```text\n' $$name; go run ./cmd/$$name --help || exit 1; printf '```\n'; done; } > docs/config.md.out \
	&& mv docs/config.md.out docs/config.md && echo docs/config.md

ci: ## what every change must pass
	.ci/run
