# The two commands that matter: `go run ./cmd/pkid quickstart` and `make test`.

GOLANGCI := bin/golangci-lint
# A count, since go test -fuzz now and then fails with "context deadline exceeded" when a time runs out.
FUZZTIME ?= 20000x
SHELL    := bash

.PHONY: test build tools deps lint unit race pkcs11 kms fuzz zlint cross smoke bench chaos clean

## test: install what the tests need where that is possible, then run everything
test: deps lint unit pkcs11 zlint fuzz cross smoke

## build: the two binaries, in bin/
build:
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/pkid ./cmd/pkictl

## deps: real peers for the tests; without root, or off Debian, their tests skip and say why
deps:
	@scripts/test-deps

$(GOLANGCI): tools/go.mod tools/go.sum
	go build -C tools -o ../$(GOLANGCI) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

## lint: vet, the chosen linters, formatting, and a tidy module file
lint: $(GOLANGCI)
	go vet ./...
	$(GOLANGCI) run ./...
	go mod tidy -diff

## unit: every test, with the race detector where there is a C compiler, which there must be with CI=true. What runs whole
## processes, and mostly waits for them, runs without it and side by side: it finds nothing there that it does not find in what
## they are made of (`make race` has it everywhere)
unit:
	@race=; if scripts/has-cc; then race=-race; \
	elif [[ $$CI == true ]]; then echo "no C compiler for the race detector: install gcc and libc6-dev" >&2; exit 1; fi; \
	set -x; go test -shuffle=on -timeout 8m ./cmd/... && go test -shuffle=on -parallel 4 -timeout 8m ./integration/... && \
	go test $$race -shuffle=on -timeout 8m $$(go list ./... | grep -vE '/(integration|cmd)(/|$$)')

## race: every test with the race detector
race:
	go test -race -shuffle=on -timeout 15m ./...

## pkcs11: keys in SoftHSM2, with the build tag that puts PKCS #11 into pkid; needs a C compiler, which there must be with CI=true
pkcs11:
	@if scripts/has-cc; then set -x; go vet -tags pkcs11 ./internal/stepca ./integration/hsm && \
	CGO_ENABLED=1 go test -tags pkcs11 -timeout 5m -run PKCS11 ./internal/stepca ./integration/hsm; \
	elif [[ $$CI == true ]]; then echo "no C compiler for PKCS #11: install gcc and libc6-dev" >&2; exit 1; \
	else echo "no C compiler: PKCS #11 is not tested" >&2; fi

## kms: the other places for keys compile; what they would sign with is not here to be tested
kms:
	for kms in awskms azurekms cloudkms tpmkms; do go vet -tags $$kms ./internal/stepca || exit 1; done

## zlint: certificates and CRLs against zlint, which pins modules that the product should not
zlint:
	go test -C lint ./...

## fuzz: every fuzz target for a short while
fuzz:
	@scripts/fuzz $(FUZZTIME)

## cross: the product builds as pure Go wherever its users are
cross:
	CGO_ENABLED=0 GOOS=linux go build ./...
	CGO_ENABLED=0 GOOS=darwin go build ./...
	CGO_ENABLED=0 GOOS=windows go build ./...

## smoke: the bench works: all of it at tiny sizes, without the peers that have to be built or installed
smoke:
	CGO_ENABLED=0 go test -C bench -timeout 5m ./...

## bench: pkid against its peers and the machine's floor, in less than 25 minutes; writes docs/benchmarks.md, benchmarks.json
## and scale.md. With flags (BENCH=-quick shows that all parts work) it prints and writes nothing.
bench:
	CGO_ENABLED=0 go run -C bench . $(or $(BENCH),-out ../docs)

## chaos: break a running pkid 200 times for each store, and look for what was acknowledged; writes the table in docs/reliability.md
chaos:
	CGO_ENABLED=0 go run ./internal/chaos/cmd $(or $(CHAOS),-out docs/reliability.md)

clean:
	rm -rf bin
