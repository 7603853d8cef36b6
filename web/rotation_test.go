package web

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/stepca"
)

// An operator asks for an issuing CA, has it signed and installs it; what cannot be done is told as what it is.
func TestRotation_Issuers(t *testing.T) {
	f := newFixture(t)
	ask := func(method, path string, body any) answer {
		t.Helper()
		text := ""
		if body != nil {
			text = string(must[[]byte](t)(json.Marshal(body)))
		}
		return f.operate(method, path, text)
	}
	var made, done client.IssuerState
	ask("POST", "/v1/issuers", nil).want(t, http.StatusCreated, &made)
	if made.State != "requested" || made.CSR == "" {
		t.Fatalf("made %+v", made)
	}
	block, _ := pem.Decode([]byte(made.CSR))
	root := f.c.Authority.Issuer().Root
	spec := stepca.CeremonySpec{Name: "Test", RootCRLURL: f.status.URL + "/crl/root.crl", RootAIAURL: f.status.URL + "/issuers/root.crt"}
	cert := must[*x509.Certificate](t)(stepca.SignIssuerRequest(spec, root, f.rootKey, block.Bytes))
	path := "/v1/issuers/" + made.ID + "/certificate"
	for name, body := range map[string]client.IssuerInstallation{
		"no certificate": {}, "no PEM": {Certificate: "x"}, "two": {Certificate: pemOf(cert.Raw) + pemOf(root.Raw)},
		"a bad chain": {Certificate: pemOf(cert.Raw), Chain: []string{"x"}}, "no duration": {Certificate: pemOf(cert.Raw), ActiveIn: "soon"},
	} {
		if a := ask("PUT", path, body); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	ask("PUT", path, client.IssuerInstallation{Certificate: pemOf(root.Raw)}).problem(t, http.StatusUnprocessableEntity, "key-refused")
	ask("PUT", "/v1/issuers/0011223344556677/certificate", client.IssuerInstallation{Certificate: pemOf(cert.Raw)}).problem(t, http.StatusNotFound, "no-key")
	ask("POST", "/v1/issuers", client.IssuerRequest{KeyURI: "/etc/passwd"}).problem(t, http.StatusUnprocessableEntity, "key-refused")
	ask("PUT", path, client.IssuerInstallation{Certificate: pemOf(cert.Raw), ActiveIn: "1h"}).want(t, http.StatusOK, &done)
	if done.State != "waiting" || done.ID != made.ID || done.ActiveFrom.IsZero() {
		t.Errorf("installed %+v", done)
	}
	ask("DELETE", "/v1/issuers/"+made.ID, nil).problem(t, http.StatusConflict, "key-state")
	ask("POST", "/v1/issuers", nil).want(t, http.StatusCreated, &made)
	ask("DELETE", "/v1/issuers/"+made.ID, nil).want(t, http.StatusNoContent, nil)
	var all client.IssuerStates
	ask("GET", "/v1/issuers", nil).want(t, http.StatusOK, &all)
	if len(all.Issuers) != 2 || all.Issuers[0].State != "active" || all.Issuers[1].ID != done.ID {
		t.Errorf("listed %+v", all.Issuers)
	}
	f.do(request{url: f.public.URL + "/v1/issuers"}).problem(t, http.StatusUnauthorized, "certificate-needed")
}

func TestRotation_TokenKeys(t *testing.T) {
	f := newFixture(t)
	ask := func(method, path string) answer { t.Helper(); return f.operate(method, path, "") }
	var made client.TokenKeyState
	ask("POST", "/v1/token-keys").want(t, http.StatusCreated, &made)
	var all client.TokenKeyStates
	ask("GET", "/v1/token-keys").want(t, http.StatusOK, &all)
	if len(all.TokenKeys) != 2 || !all.TokenKeys[0].Signs || !all.TokenKeys[0].InConfig || all.TokenKeys[1].ID != made.ID || all.TokenKeys[1].Signs {
		t.Fatalf("keys %+v", all.TokenKeys)
	}
	ask("DELETE", "/v1/token-keys/"+all.TokenKeys[0].ID).want(t, http.StatusNoContent, nil)
	ask("DELETE", "/v1/token-keys/"+all.TokenKeys[0].ID).problem(t, http.StatusNotFound, "no-key")
	var after client.TokenKeyStates
	ask("GET", "/v1/token-keys").want(t, http.StatusOK, &after)
	if len(after.TokenKeys) != 3 {
		t.Fatalf("keys %+v", after.TokenKeys)
	}
	for _, k := range after.TokenKeys {
		if k.Signs == (k.InConfig || k.ID == made.ID) {
			t.Errorf("key %+v", k)
		}
	}
}
