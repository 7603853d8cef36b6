package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// wantTokenError asks for a token and wants the answer to hold a text, or a token if the text is empty.
func wantTokenError(t *testing.T, id *client.Identity, text string) {
	t.Helper()
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	_, err = source.Token(t.Context())
	if text == "" {
		if err != nil {
			t.Errorf("no token: %v", err)
		}
		return
	}
	if e, ok := errors.AsType[*client.TokenError](err); !ok || e.Code != "invalid_client" || !strings.Contains(e.Description, text) {
		t.Errorf("got %v, want invalid_client with %q", err, text)
	}
}

func TestHeldCertificateGetsATokenAgainWhenReleased(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "robot"})
	wantTokenError(t, id, "")
	serial := fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber)
	if _, err := s.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: "certificateHold"}); err != nil {
		t.Fatal(err)
	}
	wantTokenError(t, id, "on hold; ask the operator to release it")
	if _, err := s.Operator(t).Revoke(t.Context(), serial, client.Revocation{Reason: "removeFromCRL"}); err != nil {
		t.Fatal(err)
	}
	wantTokenError(t, id, "")
}

// An operator's certificate administers the CA; a client of the same name does not make it one for tokens.
func TestOperatorsCertificateGetsNoToken(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	s.Enrol(t, client.InvitationRequest{ClientID: "operator"})
	operator, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	wantTokenError(t, operator, "operator's certificate")
}
