package integration

import (
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// A database that came back from an older dump keeps what a file does: revocations, growing CRL numbers, and refusals of
// what it cannot know.
func TestRecoverADatabase(t *testing.T) {
	t.Parallel()
	url, again := pgtest.Database(t), pgtest.Database(t)
	dump := filepath.Join(t.TempDir(), "pkid.dump")
	s := pkitest.Start(t, pkitest.Options{Database: url})
	before := s.Enrol(t, client.InvitationRequest{ClientID: "before"})
	open := invite(t, s, "open")
	run(t, pkitest.Need(t, "pg_dump"), "--format=custom", "--file="+dump, "--dbname="+url) // while it serves

	after, gone := s.Enrol(t, client.InvitationRequest{ClientID: "after"}), s.Enrol(t, client.InvitationRequest{ClientID: "gone"})
	revoke(t, s, before)
	revoke(t, s, gone)
	list := crlWith(t, s, before, gone)
	log := auditLines(t, s)
	s.Stop(t)

	run(t, pkitest.Need(t, "pg_restore"), "--no-owner", "--exit-on-error", "--dbname="+again, dump)
	moved := func(c *config.Config) { c.Store, c.StorePassword = pkitest.Database(t, again) }
	cfg, err := daemon.Load(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	moved(cfg)
	found, err := daemon.Recover(t.Context(), cfg, pkitest.Logger(t), daemon.Evidence{CRLs: [][]byte{list.Raw}, Audit: []io.Reader{log}})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Revoked) != 2 || len(found.Lost) != 1 || len(found.Unknown) != 1 {
		t.Errorf("revoked again %v, unknown to the dump %v, issued since %v", found.Revoked, found.Lost, found.Unknown)
	}

	r := pkitest.Serve(t, s.Dir, pkitest.Options{Edit: moved})
	if next := crlWith(t, r, before, gone); next.Number.Cmp(list.Number) <= 0 {
		t.Errorf("the CRL's number went from %s to %s", list.Number, next.Number)
	}
	mustBeUnknown(t, after)
	adopt(t, r, after)
	if err := after.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Errorf("an adopted certificate: %v", err)
	}
	if err := tryEnrol(t, open); err == nil {
		t.Error("an invitation from before the restore was redeemed")
	}
	verifyAudit(t, r)
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
}
