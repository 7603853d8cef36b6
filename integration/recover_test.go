package integration

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// TestEvidenceComesLater restores without evidence, serves that, and recovers again once the audit log was found: its end
// is cut, as a crash leaves it. What is no evidence of this CA changes nothing, and what was done before it was refused
// does not keep the right one from being used.
func TestEvidenceComesLater(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := pkitest.Start(t, pkitest.Options{})
	before := s.Enrol(t, client.InvitationRequest{ClientID: "before"})
	s.Enrol(t, client.InvitationRequest{ClientID: "changed"})
	var file bytes.Buffer
	if _, err := daemon.BackUp(t.Context(), s.Config, s.Home, &file, identity.Recipient()); err != nil {
		t.Fatal(err)
	}
	gone := s.Enrol(t, client.InvitationRequest{ClientID: "gone"})
	revoke(t, s, gone)
	revoke(t, s, before)
	dpop := true
	if _, err := s.Operator(t).PatchClient(t.Context(), "changed", client.ClientPatch{DPoP: &dpop}); err != nil {
		t.Fatal(err)
	}
	list := crlWith(t, s, before, gone)
	log := string(pkitest.ReadAll(t, auditLines(t, s)))
	s.Stop(t)
	if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
		return strings.Contains(line, `"actor":"operator"`) && strings.Contains(line, `"action":"store.backup"`)
	}) {
		t.Error("the audit log does not say that the store was copied, and who did")
	}

	restored := func(ev daemon.Evidence) (string, *daemon.Recovery, error) {
		dir := filepath.Join(t.TempDir(), "restored")
		_, found, err := daemon.Restore(t.Context(), bytes.NewReader(file.Bytes()), dir, pkitest.Logger(t), ev, identity)
		return dir, found, err
	}
	dir, _, err := restored(daemon.Evidence{})
	if err != nil {
		t.Fatal(err)
	}
	r := pkitest.Serve(t, dir, pkitest.Options{})
	r.Enrol(t, client.InvitationRequest{ClientID: "meanwhile"})
	r.Stop(t)
	cfg, err := daemon.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	again := func(crl []byte, logs ...string) (*daemon.Recovery, error) {
		ev := daemon.Evidence{CRLs: [][]byte{crl}}
		for _, l := range logs {
			ev.Audit = append(ev.Audit, strings.NewReader(l))
		}
		return daemon.Recover(t.Context(), cfg, pkitest.Logger(t), ev)
	}

	other := pkitest.Start(t, pkitest.Options{})
	for range 3 {
		other.Enrol(t, client.InvitationRequest{ClientID: "before"})
	}
	if _, err := daemon.BackUp(t.Context(), other.Config, s.Home, io.Discard, identity.Recipient()); err == nil || !strings.Contains(err.Error(), "credentials for a CA with the root") {
		t.Errorf("backing up with another CA's operator: %v", err)
	}
	lines := strings.SplitAfter(log, "\n")
	gap := strings.Join(append(append([]string{}, lines[:len(lines)-4]...), lines[len(lines)-3:]...), "")
	for what, text := range map[string]string{"another CA's": string(pkitest.ReadAll(t, auditLines(t, other))), "with a gap": gap} {
		if found, err := again(list.Raw, text); err == nil {
			t.Errorf("an audit log %s: %+v", what, found)
		}
	}
	// Twice the same, as an archive and an export may have it, and the start of a line.
	found, err := again(list.Raw, strings.Join(lines[:len(lines)-2], ""), log+`{"seq":99,"ti`)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Revoked) != 2 || len(found.Lost) != 1 || len(found.Unknown) != 0 || len(found.Clients) != 1 || found.Clients[0] != "changed" {
		t.Errorf("found %+v", found)
	}
	// The CRL first, and the log when it turns up.
	dir2, _, err := restored(daemon.Evidence{CRLs: [][]byte{list.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	cfg2, err := daemon.Load(dir2)
	if err != nil {
		t.Fatal(err)
	}
	later, err := daemon.Recover(t.Context(), cfg2, pkitest.Logger(t), daemon.Evidence{Audit: []io.Reader{strings.NewReader(log)}})
	if err != nil || len(later.Revoked) != 0 || len(later.Clients) != 1 {
		t.Errorf("later: %+v, %v", later, err)
	}

	r = pkitest.Serve(t, dir, pkitest.Options{})
	crlWith(t, r, before, gone)
	verifyAudit(t, r)
	entries := string(pkitest.ReadAll(t, auditLines(t, r)))
	if n := strings.Count(entries, `"action":"certificate.revoke"`); n != 2 {
		t.Errorf("%d revocations: what was refused left something behind", n)
	}
}
