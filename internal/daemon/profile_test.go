package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// What was registered before the profile, and is refused under it, is named in the log, up to a number.
func TestReviewClientsNamesThoseOfBefore(t *testing.T) {
	dir, free := filepath.Join(t.TempDir(), "d"), "127.0.0.1:0"
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	d, _, registry := openTokens(t, dir)
	t.Cleanup(func() { d.Close() })
	good := authserver.Client{ID: "good", Auth: authserver.TLSClientAuth, SubjectKind: authserver.SANDNS, Subject: "good.example"}
	loose := good
	loose.ID, loose.InsecureBearer = "loose", true
	clients := []authserver.Client{good, loose}
	for i := range maxNamed {
		clients = append(clients, authserver.Client{ID: fmt.Sprintf("secret-%02d", i), Auth: authserver.ClientSecretBasic})
	}
	for _, c := range clients {
		if _, _, err := registry.Add(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	review := func() string {
		var log bytes.Buffer
		d.log = slog.New(slog.NewTextHandler(&log, nil))
		d.reviewClients(t.Context())
		return log.String()
	}
	if got := review(); got != "" {
		t.Errorf("without a profile: %s", got)
	}
	if note := ProfileNote(d.cfg); note != "" {
		t.Errorf("without a profile: %s", note)
	}
	d.cfg.Profile = config.ProfileFAPI2
	got := review()
	for _, want := range []string{"client_id=loose", "client_id=secret-00", "client_secret_basic", "FAPI 2.0", fmt.Sprintf("clients=%d", maxNamed+1)} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q: %s", want, got)
		}
	}
	if n := strings.Count(got, "a client is refused"); n != maxNamed || strings.Contains(got, "client_id=good") {
		t.Errorf("%d clients are named: %s", n, got)
	}
}

// What answers proxies keeps to the profile too.
func TestVerifyUnderTheProfile(t *testing.T) {
	dir, free := filepath.Join(t.TempDir(), "d"), "127.0.0.1:0"
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Profile, cfg.Verify = config.ProfileFAPI2, []config.ResourceServer{{Audience: "https://a.example"}}
	d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	secret := authserver.Client{ID: "secret", Auth: authserver.ClientSecretBasic}
	if _, _, err := d.clients.Add(t.Context(), secret); !errors.Is(err, authserver.ErrClientMetadata) {
		t.Errorf("a client with a secret is registered: %v", err)
	}
	if proof := explainedProof(t, d); proof.Result != tokenbind.Fail || !strings.Contains(proof.Wanted, "ES256 EdDSA PS256") {
		t.Errorf("a proof of ES384 is explained with %+v", proof)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	cfg.Verify[0].InsecureAllowBearer = true
	if d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil {
		d.Close()
		t.Error("it takes tokens that are bound to nothing")
	}
}

// explainedProof is what the daemon says of the algorithm of a proof made with P-384.
func explainedProof(t *testing.T, d *Daemon) tokenbind.Check {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	prover, err := tokenbind.NewProver(key)
	if err != nil {
		t.Fatal(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	token := part([]byte(`{"typ":"at+jwt","alg":"ES256"}`)) + "." + part([]byte(`{"cnf":{"jkt":"`+prover.Key().String()+`"}}`)) + "." + part(make([]byte, 64))
	proof, err := prover.Proof("GET", "https://a.example/", tokenbind.ProofOptions{AccessToken: token})
	if err != nil {
		t.Fatal(err)
	}
	p := client.Presented{Token: token, Proof: proof, Audience: "https://a.example", Method: "GET", URL: "https://a.example/"}
	if err := p.Complete(); err != nil {
		t.Fatal(err)
	}
	r, err := p.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.explain(p, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range out.Checks {
		if c.Name == "alg" {
			return c
		}
	}
	t.Fatalf("nothing is said of the proof's algorithm: %+v", out.Checks)
	return tokenbind.Check{}
}

// A directory that is made now asks for nonces; a configuration that does not say so never did.
func TestNoncesAreOnForNewDirectories(t *testing.T) {
	spec := InitSpec{Dir: t.TempDir(), Listen: config.Listen{Public: ":1", MTLS: ":2", Status: ":3", Ops: ":4"}}
	if err := spec.complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := spec.configFile()
	for _, c := range []struct {
		text []byte
		want bool
	}{{text, true}, {bytes.Replace(text, []byte("  require_dpop_nonce: true\n"), nil, 1), false}} {
		cfg, err := config.Parse(c.text, spec.Dir)
		if err != nil || cfg.Tokens.RequireDPoPNonce != c.want {
			t.Errorf("%v, %v; want %v", cfg.Tokens.RequireDPoPNonce, err, c.want)
		}
	}
}
