package client

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkid/pkid/thumbprint"
)

func TestEnroll(t *testing.T) {
	for _, keyType := range []string{"", "P-384", "P-521", "Ed25519", "RSA-2048"} {
		t.Run(keyType, func(t *testing.T) {
			ca := newFakeCA(t)
			dir := filepath.Join(t.TempDir(), "new", "dir")
			id, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: dir, KeyType: keyType})
			if err != nil {
				t.Fatal(err)
			}
			if id.Info().ClientID != fakeClient || id.Info().URLs.MTLS != ca.srv.URL {
				t.Errorf("pkid.json says %+v", id.Info())
			}
			want := keyType
			if want == "" {
				want = "P-256"
			}
			if got := keyTypeOf(id.Certificate().Leaf.PublicKey); got != want {
				t.Errorf("key of type %s, want %s", got, want)
			}
			if exists(filepath.Join(dir, csrName)) {
				t.Error("client.csr is still there")
			}
			if info := must(os.Stat(filepath.Join(dir, keyName))); info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
				t.Errorf("client.key has mode %v", info.Mode())
			}
			loaded, err := Load(dir)
			if err != nil || !loaded.Certificate().Leaf.Equal(id.Certificate().Leaf) {
				t.Errorf("Load: %v", err)
			}
		})
	}
}

func TestEnrollRetriesTheSameRequest(t *testing.T) {
	ca := newFakeCA(t)
	ca.fail = []int{0, 503} // the answer is lost, then the server is away
	if _, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if sent := ca.sent(); len(sent) != 3 || sent[0] != sent[1] || sent[1] != sent[2] {
		t.Errorf("%d requests, not three equal ones", len(sent))
	}
}

func TestEnrollAgainAfterFailureSendsTheSameRequest(t *testing.T) {
	ca := newFakeCA(t)
	dir, token := t.TempDir(), ca.token()
	ca.fail, ca.failType = []int{http.StatusForbidden}, "about:blank" // a proxy's, which may have lost the CA's answer
	_, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir})
	if p, ok := errors.AsType[*Problem](err); !ok || p.Status != http.StatusForbidden {
		t.Fatalf("got %v, want the CA's problem", err)
	}
	if len(ca.sent()) != 1 {
		t.Fatalf("a refusal was retried: %d requests", len(ca.sent()))
	}
	if _, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir, KeyType: "Ed25519"}); err == nil {
		t.Error("an enrolment that was begun with another key type went on")
	}
	if _, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if sent := ca.sent(); len(sent) != 2 || sent[0] != sent[1] {
		t.Error("the second run sent another request")
	}
}

// A refusal by the CA leaves no key that would be in the way of the next invitation.
func TestRefusedEnrolmentLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	outer := filepath.Join(parent, "new")
	there := t.TempDir()
	for _, dir := range []string{filepath.Join(outer, "dir"), there} {
		ca := newFakeCA(t)
		ca.fail = []int{http.StatusUnauthorized}
		_, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: dir})
		if p, ok := errors.AsType[*Problem](err); !ok || p.Status != http.StatusUnauthorized {
			t.Fatalf("got %v, want the CA's problem", err)
		}
	}
	if exists(outer) {
		t.Error("the new directories are still there")
	}
	if exists(filepath.Join(there, keyName)) || exists(filepath.Join(there, csrName)) {
		t.Error("key or request is still there")
	}
}

// Once an answer may have been lost, the key stays, whatever the CA says to the next attempt; and so does a
// key that an earlier run made.
func TestRefusedEnrolmentKeepsAKeyThatMayHaveACertificate(t *testing.T) {
	ca, dir := newFakeCA(t), filepath.Join(t.TempDir(), "new")
	for _, fail := range [][]int{{0, http.StatusUnauthorized}, {http.StatusUnauthorized}} {
		ca.fail = fail
		if _, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: dir}); err == nil {
			t.Fatal("enrolled")
		}
		if !exists(filepath.Join(dir, keyName)) || !exists(filepath.Join(dir, csrName)) {
			t.Fatalf("after %v: key or request is gone", fail)
		}
	}
}

func TestEnrolWithoutDaemonLeavesNothing(t *testing.T) {
	ca, dir := newFakeCA(t), filepath.Join(t.TempDir(), "new")
	ca.srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Enroll(ctx, ca.token(), EnrollOptions{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "pkid does not answer at "+ca.srv.URL+": is it running?") || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
	if exists(dir) {
		t.Error("the new directory is still there")
	}
}

func TestEnrollAfterCrash(t *testing.T) {
	t.Run("before the key was written", func(t *testing.T) {
		ca, dir := newFakeCA(t), t.TempDir()
		write(t, dir, csrName, must(newCSR(must(NewKey("")))))
		if _, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("before the request was removed", func(t *testing.T) {
		ca, dir := newFakeCA(t), t.TempDir()
		token := ca.token()
		first, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, csrName, []byte(ca.sent()[0].CSR))
		again, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir})
		if err != nil || !again.Certificate().Leaf.Equal(first.Certificate().Leaf) || len(ca.sent()) != 1 {
			t.Fatalf("got %v after %d requests", err, len(ca.sent()))
		}
	})
}

func TestEnrollNeverOverwrites(t *testing.T) {
	ca := newFakeCA(t)
	id := ca.identity()
	key := read(t, id.dir, keyName)
	if _, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: id.dir}); !errors.Is(err, ErrIdentityExists) {
		t.Errorf("got %v, want ErrIdentityExists", err)
	}
	if read(t, id.dir, keyName) != key {
		t.Error("the key was replaced")
	}
	dir := t.TempDir()
	write(t, dir, keyName, []byte("somebody's"))
	if _, err := Enroll(t.Context(), ca.token(), EnrollOptions{Dir: dir}); err == nil {
		t.Error("a key that belongs to no enrolment was taken")
	}
	if read(t, dir, keyName) != "somebody's" {
		t.Error("somebody's key was replaced")
	}
}

func TestEnrollSendsNoSecretToAnotherCA(t *testing.T) {
	ca, other := newFakeCA(t), newFakeCA(t)
	token := ca.token()
	token.Root = thumbprint.OfCertificate(other.cert)
	dir := t.TempDir()
	if _, err := Enroll(t.Context(), token, EnrollOptions{Dir: dir}); !errors.Is(err, ErrFingerprint) {
		t.Errorf("got %v, want ErrFingerprint", err)
	}
	if len(ca.sent()) != 0 || exists(filepath.Join(dir, keyName)) {
		t.Error("a request was made or sent")
	}
}

// A server may show the right root, which is public, without being certified by it.
func TestEnrollSendsNoSecretToAServerThatTheRootDoesNotVouchFor(t *testing.T) {
	ca, imposter := newFakeCA(t), newFakeCA(t)
	imposter.cert = ca.cert // what it shows at /v1/ca; its own certificate is still another's
	token := ca.token()
	token.URL = imposter.srv.URL
	_, err := Enroll(t.Context(), token, EnrollOptions{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want a certificate error", err)
	}
	if len(imposter.sent()) != 0 {
		t.Error("the secret was sent")
	}
}

func TestAnswersThatReplaceNothing(t *testing.T) {
	other := newFakeCA(t)
	stranger := must(NewKey(""))
	for name, alter := range map[string]func(ca *fakeCA, c *Certificate){
		"another key": func(ca *fakeCA, c *Certificate) {
			c.Certificate = string(marshalChain(list(ca.sign(fakeClient, stranger.Public(), ca.lifetime))))
		},
		"another CA": func(ca *fakeCA, c *Certificate) {
			leaf := must(parseCertificate(c.Certificate))
			c.Certificate = string(marshalChain(list(other.sign(fakeClient, leaf.PublicKey, ca.lifetime))))
		},
		"expired": func(ca *fakeCA, c *Certificate) {
			leaf := must(parseCertificate(c.Certificate))
			c.Certificate = string(marshalChain(list(ca.sign(fakeClient, leaf.PublicKey, -2))))
		},
		"another client": func(ca *fakeCA, c *Certificate) { c.ClientID = "other" },
		"another name": func(ca *fakeCA, c *Certificate) {
			leaf := must(parseCertificate(c.Certificate))
			c.Certificate = string(marshalChain(list(ca.sign("other", leaf.PublicKey, ca.lifetime))))
		},
		"no certificate": func(_ *fakeCA, c *Certificate) { c.Certificate = "" },
		"long chain":     func(_ *fakeCA, c *Certificate) { c.Chain = make([]string, 100) },
	} {
		t.Run(name, func(t *testing.T) {
			ca := newFakeCA(t)
			id := ca.identity()
			before := read(t, id.dir, keyName) + read(t, id.dir, certName)
			ca.alter = func(c *Certificate) { alter(ca, c) }
			if err := id.Renew(t.Context(), RenewOptions{Rekey: true}); err == nil {
				t.Error("the answer was accepted")
			}
			if read(t, id.dir, keyName)+read(t, id.dir, certName) != before || exists(id.path(nextName)) {
				t.Error("files were changed")
			}
		})
	}
}
