package tokenbind

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// away is a Revocation and a TokenStatus whose source does not answer.
type away struct{ text string }

func (a away) Check(context.Context, *x509.Certificate) error {
	return fmt.Errorf("%s: %w", a.text, ErrUnavailable)
}
func (a away) CheckToken(ctx context.Context, _ *Claims) error { return a.Check(ctx, nil) }

// TestStatusUnknown_Is503: nobody but the server is at fault, and what the fault is stays here.
func TestStatusUnknown_Is503(t *testing.T) {
	k := newResourceKit(t)
	for name, edit := range map[string]func(*Config){
		"certificate revocation": func(c *Config) { c.Revocation = away{"10.0.0.7 is away"} },
		"token revocation":       func(c *Config) { c.Tokens = away{"10.0.0.7 is away"} },
	} {
		e := refuses(t, k.verifier(t, edit), k.request("Bearer "+k.certToken(t), k.cert.Leaf), http.StatusServiceUnavailable, codeUnavailable, name)
		if !errors.Is(e, ErrUnavailable) || strings.Contains(e.Description, "10.0.0.7") {
			t.Errorf("%s: %q wraps %v", name, e.Description, e.Unwrap())
		}
	}
}

// TestRequiring_SharesProofs: a proof is used up for all scopes at once.
func TestRequiring_SharesProofs(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.RequiredScopes = []string{"admin"} })
	token := k.dpopToken(t)
	r := k.dpopRequest(t, token, ProofOptions{})
	accepts(t, v.Requiring("read"), r)
	refuses(t, v.Requiring("write"), r, http.StatusUnauthorized, CodeInvalidProof, "replay")
	for wanted, v := range map[string]*Verifier{"admin": v, "read delete": v.Requiring("read", "delete")} {
		_, err := v.Verify(k.dpopRequest(t, token, ProofOptions{}))
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusForbidden || e.Wanted != wanted {
			t.Errorf("%v, want %q", err, wanted)
		}
	}
}

func TestAdmit(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t)
	w := httptest.NewRecorder()
	claims, err := v.Admit(w, k.request("Bearer "+k.certToken(t), k.cert.Leaf))
	if err != nil || claims.ClientID != "app" || w.Body.Len() != 0 {
		t.Errorf("%v, %v, answered %q", claims, err, w.Body)
	}
	w = httptest.NewRecorder()
	_, err = v.Admit(w, k.request(""))
	if refused, ok := errors.AsType[*Error](err); !ok || w.Code != refused.Status || w.Code != http.StatusUnauthorized {
		t.Errorf("%v, answered %d", err, w.Code)
	}
}

// TestReplaySince: a Replay that survives restarts, but not crashes, says since when it remembers.
func TestReplaySince(t *testing.T) {
	k := newResourceKit(t)
	v := k.verifier(t, func(c *Config) { c.ReplaySince = k.clock.Now() })
	token := k.dpopToken(t)
	e := refuses(t, v, k.dpopRequest(t, token, ProofOptions{}), http.StatusUnauthorized, CodeUseNonce, "restart")
	accepts(t, v, k.dpopRequest(t, token, ProofOptions{Nonce: e.Nonce}))
	k.clock.Add(time.Minute)
	accepts(t, v, k.dpopRequest(t, token, ProofOptions{}))
}

func TestNewIssuerKeys_Refuses(t *testing.T) {
	if keys, err := NewIssuerKeys(Config{Issuer: "http://as.example"}); err == nil || keys != nil {
		t.Errorf("%v, %v", keys, err)
	}
}
