package authserver

import (
	"encoding/json"
	"errors"
	"testing"
)

// Nonces are the server's to demand, and a client's record has the last word (RFC 9449 section 8; FAPI 2.0 allows them).
func TestE11H29_NoncePolicy(t *testing.T) {
	for _, c := range []struct {
		server bool
		client Nonce
		demand bool
	}{
		{false, NonceDefault, false},
		{false, NonceRequired, true},
		{false, NonceOptional, false},
		{true, NonceDefault, true},
		{true, NonceRequired, true},
		{true, NonceOptional, false},
	} {
		p, client := dpopHouse(t, func(conf *Config) { conf.RequireNonce = c.server })
		p.set("a", func(r *Client) { r.Nonce = c.client })
		a := p.token(nil, client, header("DPoP", p.proof("")))
		nonce := a.header.Get("DPoP-Nonce")
		if !c.demand {
			if mustIssue(t, a); nonce != "" {
				t.Errorf("%+v: a nonce that nobody demands", c)
			}
			mustIssue(t, p.token(nil, client, header("DPoP", p.proof(p.nonces.Current())))) // who has one may use it
			continue
		}
		mustRefuse(t, a, 400, "use_dpop_nonce", "")
		mustIssue(t, p.token(nil, client, header("DPoP", p.proof(nonce)))) // at the second try
	}
}

// The record's member was a boolean before, there or absent; it still is.
func TestNonce_RecordsOfBefore(t *testing.T) {
	for text, want := range map[string]Nonce{
		`{"id":"a"}`:                       NonceDefault,
		`{"id":"a","require_nonce":true}`:  NonceRequired,
		`{"id":"a","require_nonce":false}`: NonceOptional,
	} {
		var c, again Client
		if err := json.Unmarshal([]byte(text), &c); err != nil || c.Nonce != want {
			t.Errorf("%s: %q, %v", text, c.Nonce, err)
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &again); err != nil || again.Nonce != want {
			t.Errorf("%s: %q, %v", written, again.Nonce, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"require_nonce":"yes"}`), new(Client)); err == nil {
		t.Error("anything passes for a policy")
	}
	h := newHouse(t)
	if _, _, err := h.registry.Add(t.Context(), Client{ID: "a", Auth: ClientSecretBasic, Nonce: "never"}); !errors.Is(err, ErrClientMetadata) {
		t.Errorf("an unknown policy: %v", err)
	}
}
