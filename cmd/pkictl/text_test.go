package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

func TestVerdictInWords(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, v := range map[string]verdict{
		"not revoked": {Status: "good", NotAfter: time.Now().Add(time.Hour)},
		"not revoked (it expired at 2026-01-02T03:04:05Z)":          {Status: "good", NotAfter: at},
		"on hold since 2026-01-02T03:04:05Z (CRL 7)":                {Status: "held", Since: at, Reason: "certificateHold", CRL: 7},
		"revoked since 2026-01-02T03:04:05Z (keyCompromise, CRL 7)": {Status: "revoked", Since: at, Reason: "keyCompromise", CRL: 7},
		"unknown": {Status: "unknown", Why: "nobody answers"},
	} {
		if got := v.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Another CA may give the serial that one of ours has: the file's certificate is what counts.
func TestForeignCertificateWithAKnownSerial(t *testing.T) {
	ours, theirs := &x509.Certificate{Raw: []byte("ours")}, &x509.Certificate{Raw: []byte("theirs")}
	found := &client.Certificate{Thumbprint: thumbprint.OfCertificate(ours)}
	if isForeign(ours, found, nil) {
		t.Error("ours is taken for another CA's")
	}
	if !isForeign(theirs, found, nil) {
		t.Error("another CA's certificate is taken for ours")
	}
	if isForeign(ours, nil, &client.Problem{Status: 403}) || isForeign(ours, nil, errors.New("away")) {
		t.Error("an answer that says nothing of the certificate tells it foreign")
	}
}

func TestScopeList(t *testing.T) {
	var l scopeList
	for _, text := range []string{"read", "write  audit", ""} {
		if err := l.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"read", "write", "audit"}; !slices.Equal(l, want) {
		t.Errorf("got %q", l)
	}
	if err := l.Set("a,b"); err == nil || len(l) != 3 {
		t.Errorf("a comma was taken: %q, %v", l, err)
	}
	var none scopeList
	if err := none.Set(""); err != nil || none == nil {
		t.Error("no scope is not an empty list, which a patch would leave out")
	}
}

func TestKeyFieldsOfOddKeys(t *testing.T) {
	for jwks, want := range map[string]string{
		``:                            "[]",
		`{"keys": []}`:                "[]",
		`{"keys": [{"kty": ["EC"]}]}`: "[{key  (of a type without thumbprint)}]",
		`{"keys": [{"kty": "oct"}]}`:  "[{key oct (of a type without thumbprint)}]",
		`{"keys": 1}`:                 "[{jwks not a JWK set",
	} {
		if got := fmt.Sprint(keyFields([]byte(jwks))); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", jwks, got, want)
		}
	}
}

func TestReaderLeft(t *testing.T) {
	if !readerLeft(fmt.Errorf("act 1: %w", &fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE})) {
		t.Error("a closed standard output is told of")
	}
	if readerLeft(&net.OpError{Op: "write", Err: syscall.EPIPE}) {
		t.Error("a broken connection is not told of")
	}
}

func TestBothTellsOfTheEnding(t *testing.T) {
	left := &fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
	ending := errors.New("tidying up")
	if err := both(left, ending); readerLeft(err) || !errors.Is(err, ending) {
		t.Errorf("got %v", err)
	}
	if err := both(left, nil); !readerLeft(err) {
		t.Errorf("got %v", err)
	}
}
