package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// A DPoP proof is taken once, before and after the daemon was stopped, and before and after it was killed. Only after
// that does a client need a nonce.
func TestProofsAcrossRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	free := "127.0.0.1:0"
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	prover, err := tokenbind.NewProver(key)
	if err != nil {
		t.Fatal(err)
	}

	d, oauth, registry := openTokens(t, dir)
	_, secret, err := registry.Add(t.Context(), authserver.Client{ID: "a", Auth: authserver.ClientSecretBasic, DPoP: true, Nonce: authserver.NonceOptional})
	if err != nil {
		t.Fatal(err)
	}
	proof := func(nonce string) string {
		text, err := prover.Proof(http.MethodPost, d.cfg.URLs.Public+authserver.TokenPath, tokenbind.ProofOptions{Nonce: nonce})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// send returns the error code, empty with a token, and the nonce that came with it.
	send := func(proof string) (code, nonce string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, authserver.TokenPath, strings.NewReader("grant_type=client_credentials"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("DPoP", proof)
		r.SetBasicAuth("a", secret)
		w := httptest.NewRecorder()
		oauth.Token(w, r)
		var answer struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		return answer.Error, w.Header().Get("DPoP-Nonce")
	}
	want := func(what, proof, code string) {
		t.Helper()
		if got, _ := send(proof); got != code {
			t.Errorf("%s: %q; want %q", what, got, code)
		}
	}

	first, unused := proof(""), proof("")
	want("a proof", first, "")
	want("the same proof again", first, "invalid_dpop_proof")

	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, oauth, _ = openTokens(t, dir)
	want("the same proof after a stop", first, "invalid_dpop_proof")
	want("another proof from before the stop", unused, "")

	running, err := os.ReadFile(d.cfg.StorePath()) // all that a kill would leave
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.cfg.StorePath(), running, 0o600); err != nil {
		t.Fatal(err)
	}
	d, oauth, _ = openTokens(t, dir)
	want("the same proof after a kill", unused, "use_dpop_nonce")
	code, nonce := send(proof(""))
	if code != "use_dpop_nonce" || nonce == "" {
		t.Errorf("a proof without nonce after a kill: %q, nonce %q", code, nonce)
	}
	want("a proof with the nonce", proof(nonce), "")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func openTokens(t *testing.T, dir string) (*Daemon, *authserver.Server, *authserver.Registry) {
	t.Helper()
	cfg, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		t.Fatal(err)
	}
	oauth, err := d.openOAuth(t.Context(), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return d, oauth, d.clients
}
