package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// A CA that was served from a file is served from a database: what was issued renews, what was revoked stays so, an
// invitation from before is redeemed, a CRL's number goes on and the audit log verifies from its first entry.
func TestMigrateStore(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.CRL.Deltas = true }})
	operator := s.Operator(t)
	old, bad := s.Enrol(t, client.InvitationRequest{ClientID: "old"}), s.Enrol(t, client.InvitationRequest{ClientID: "bad"})
	invited, err := operator.Invite(t.Context(), client.InvitationRequest{ClientID: "late"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.AddClient(t.Context(), client.ClientRecord{ID: "worker", Auth: "client_secret_basic", DPoP: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Revoke(t.Context(), serialOf(bad), client.Revocation{Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	var before uint64
	pkitest.Eventually(t, 10*time.Second, func() (err error) {
		before, err = listed(t, s, bad)
		return err
	})
	_, head, err := operator.AuditEnds(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	pkid := pkitest.Build(t, "pkid")
	store, password := pkitest.Database(t, pgtest.Database(t))
	migrate := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), pkid, "migrate-store", "--data", s.Dir, "--to", store, "--to-password", password)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		return string(out) + errs.String(), err
	}
	if out, err := migrate(); err == nil || !strings.Contains(out, "another pkid has it open") {
		t.Fatalf("while the daemon runs: %v\n%s", err, out)
	}
	s.Stop(t)
	out, err := migrate()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	for _, want := range []string{"certificates", "audit entries", `store: "` + store + `"`, `store_password: "` + password + `"`, "pkid.db.moved"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if out, err := migrate(); err == nil || !strings.Contains(out, "no such file") {
		t.Errorf("once more: %v\n%s", err, out)
	}
	useStore(t, s.Path(config.File), store, password)

	s = pkitest.Serve(t, s.Dir, pkitest.Options{Edit: func(c *config.Config) { c.CRL.Deltas = true }})
	if err := old.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Errorf("a certificate from before: %v", err)
	}
	if err := bad.Renew(t.Context(), client.RenewOptions{}); err == nil {
		t.Error("a certificate that was revoked before renewed itself")
	}
	token, err := client.ParseEnrolmentToken(invited.Token)
	if err != nil {
		t.Fatal(err)
	}
	late, err := client.Enroll(t.Context(), token, client.EnrollOptions{Dir: filepath.Join(t.TempDir(), "late")})
	if err != nil {
		t.Fatalf("an invitation from before: %v", err)
	}
	operator = s.Operator(t)
	if _, err := operator.Client(t.Context(), "worker"); err != nil {
		t.Errorf("a client from before: %v", err)
	}
	if _, err := operator.Revoke(t.Context(), serialOf(late), client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatal(err)
	}
	pkitest.Eventually(t, 10*time.Second, func() error {
		after, err := listed(t, s, bad, late)
		if err == nil && after <= before {
			err = fmt.Errorf("CRL number %d after %d", after, before)
		}
		return err
	})
	sh := newShell(t, s)
	sh.run(fmt.Sprintf(`pkictl audit verify --head %d:%s`, head.Seq, head.Hash))
}

// listed returns the number of the CRL that is served, and an error unless these certificates are on it.
func listed(t *testing.T, s *pkitest.Server, ids ...*client.Identity) (number uint64, err error) {
	n := nodeOf(t, "A", s.Config)
	for _, id := range ids {
		var on bool
		if number, on, err = n.crl(id); err == nil && !on {
			err = fmt.Errorf("CRL %d does not list %s", number, serialOf(id))
		}
		if err != nil {
			return 0, err
		}
	}
	return number, nil
}

// useStore changes the store in a configuration file.
func useStore(t *testing.T, file, store, password string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`store: "bolt:pkid.db"`), fmt.Appendf(nil, "store: %q\nstore_password: %q", store, password), 1)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
