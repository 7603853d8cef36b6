// Package hsm holds the test that runs a whole pkid on keys in SoftHSM2. It has the build tag pkcs11 and needs cgo, so
// that `make pkcs11` runs it and `go test ./...` does not.
package hsm
