package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// A CA that was served from a file is served from a database: what was issued renews, what was revoked stays so, an
// invitation from before is redeemed, a CRL's number goes on and the audit log verifies from its first entry.
func TestMigrateStore(t *testing.T) {
	t.Parallel()
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

	store, password := pkitest.Database(t, pgtest.Database(t))
	to, err := config.StoreOnly(store, password)
	if err != nil {
		t.Fatal(err)
	}
	file := s.Config.StorePath()
	if _, err := daemon.MigrateStore(t.Context(), file, to); !errors.Is(err, boltstore.ErrLocked) {
		t.Fatalf("while the daemon runs: %v", err)
	}
	s.Stop(t)
	moved, err := daemon.MigrateStore(t.Context(), file, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) || moved.File == file {
		t.Errorf("the file could be served again: %v", err)
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
	was := audit.Head{Seq: head.Seq}
	if err := was.Hash.UnmarshalText([]byte(head.Hash)); err != nil {
		t.Fatal(err)
	}
	verifyFrom(t, operator, was)
}

// verifyFrom reads the whole log, which must have an entry that was its end before.
func verifyFrom(t *testing.T, operator *client.API, was audit.Head) {
	t.Helper()
	var head audit.Head
	found := false
	for text, err := range operator.Audit(t.Context(), 0) {
		var e audit.Entry
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err == nil {
			head, err = audit.Verify(head, e)
		}
		if err != nil {
			t.Fatal(err)
		}
		found = found || head == was
	}
	if !found || head.Seq <= was.Seq {
		t.Errorf("the log ends with entry %d, and %d was its end before", head.Seq, was.Seq)
	}
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
