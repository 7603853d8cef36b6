package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// A CRL that cannot be published is shouted about: by /readyz, in the metrics, and by `pkictl crl show`; that the log has
// it, crl's own tests show. Somebody who holds a lock on the table of CRLs lets revocations through, and no CRL.
func TestLateCRLIsShoutedAbout(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s := pkitest.Start(t, pkitest.Options{Database: database})
	pkictl := pkitest.Build(t, "pkictl")
	victim := fmt.Sprintf("%032x", s.Enrol(t, client.InvitationRequest{ClientID: "victim"}).Certificate().Leaf.SerialNumber)
	if err := shouts(t, s, pkictl, false); err != nil {
		t.Error(err)
	}

	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE pkid.crls IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Operator(t).Revoke(t.Context(), victim, client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatalf("the revocation took effect, and the answer is %v", err)
	}
	pkitest.Eventually(t, 30*time.Second, func() error { return shouts(t, s, pkictl, true) })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	pkitest.Eventually(t, time.Minute, func() error { return shouts(t, s, pkictl, false) })
	if n := currentCRL(t, s).Len(); n != 1 {
		t.Errorf("%d certificates are on the CRL when all is well again", n)
	}
}

// shouts returns an error if one of the three does not say of the CRL what it should.
func shouts(t *testing.T, s *pkitest.Server, pkictl string, late bool) error {
	t.Helper()
	if failed := slices.Contains(notReady(t, s), "crl publication"); failed != late {
		return fmt.Errorf("/readyz says that publication fails: %v; want %v", failed, late)
	}
	status, metrics := get(t, "http://"+s.Config.Listen.Ops+"/metrics")
	if status != http.StatusOK {
		return fmt.Errorf("/metrics: %d", status)
	}
	var pending string
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "pkid_crl_pending_seconds{") {
			pending = strings.TrimSpace(line)
		}
	}
	if pending == "" || strings.HasSuffix(pending, " 0") == late {
		return fmt.Errorf("the metric is %q", pending)
	}
	cmd := exec.CommandContext(t.Context(), pkictl, "crl", "show", "--home", s.Home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return errors.Join(err, errors.New(stderr.String()))
	}
	if warned := strings.Contains(stderr.String(), "WARNING"); warned != late {
		return fmt.Errorf("pkictl crl show says %q", stderr.String())
	}
	return nil
}
