package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/pkitest"
)

// A full disk stops what must be written, and nothing else; once there is room, everything goes on by itself.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 32<<20)
	dir := filepath.Join(disk, "pkid-data")
	listen := pkitest.FreeListen(t)
	if err := daemon.Init(t.Context(), daemon.InitSpec{Dir: dir, Listen: listen}); err != nil {
		t.Fatal(err)
	}
	s := pkitest.Serve(t, dir, pkitest.Options{})
	id := s.Enrol(t, client.InvitationRequest{ClientID: "robot"})
	victim := hexSerial(s.Enrol(t, client.InvitationRequest{ClientID: "victim"}))
	wantTokenError(t, id, "")
	before := currentCRL(t, s)

	ballast := fill(t, disk)
	problem := inviteUntilRefused(t, s)
	if problem.Status != http.StatusInsufficientStorage || problem.Type != "urn:pkid:problem:disk-full" || !strings.Contains(problem.Title, "room") {
		t.Errorf("a write on a full disk: %d %s %q; want 507, and what to do", problem.Status, problem.Type, problem.Title)
	}
	known := invitations(t, s)
	if checks := notReady(t, s); !slices.Contains(checks, "store writes") {
		t.Errorf("/readyz finds fault with %v; want the store's writes among them", checks)
	}

	// What need not be written goes on.
	if rec, err := s.Operator(t).Certificate(t.Context(), victim); err != nil || rec.Status != "active" {
		t.Errorf("reading a certificate: %v", err)
	}
	wantTokenError(t, id, "")
	if now := currentCRL(t, s); now.Number != before.Number {
		t.Errorf("CRL %d became %d while nothing can be written", before.Number, now.Number)
	}

	// A revocation is refused, and then did not take place.
	_, err := s.Operator(t).Revoke(t.Context(), victim, client.Revocation{Reason: "superseded"})
	refused, ok := errors.AsType[*client.Problem](err)
	if !ok || refused.Status != http.StatusInsufficientStorage {
		t.Errorf("a revocation on a full disk: %v", err)
	}
	if rec, err := s.Operator(t).Certificate(t.Context(), victim); err != nil || rec.Status != "active" {
		t.Errorf("after a revocation that was refused: %+v, %v", rec, err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	pkitest.Eventually(t, 20*time.Second, func() error {
		if checks := notReady(t, s); len(checks) > 0 {
			return fmt.Errorf("/readyz finds fault with %v", checks)
		}
		return nil
	})
	if now := invitations(t, s); now != known {
		t.Errorf("%d invitations are recorded; before there was room there were %d", now, known)
	}
	if _, err := s.Operator(t).Revoke(t.Context(), victim, client.Revocation{Reason: "superseded"}); err != nil {
		t.Errorf("revoking once there is room: %v", err)
	}
	pkitest.Eventually(t, 10*time.Second, func() error {
		if now := currentCRL(t, s); now.Number <= before.Number || now.Len() != before.Len()+1 {
			return fmt.Errorf("CRL %d has %d entries; before it, CRL %d had %d", now.Number, now.Len(), before.Number, before.Len())
		}
		return nil
	})
	s.Enrol(t, client.InvitationRequest{ClientID: "newcomer"})

	s.Stop(t)
	s = pkitest.Serve(t, dir, pkitest.Options{}) // the file is sound
	if rec, err := s.Operator(t).Certificate(t.Context(), victim); err != nil || rec.Status != "revoked" {
		t.Errorf("after a restart: %+v, %v", rec, err)
	}
	invitations(t, s)
}

func hexSerial(id *client.Identity) string {
	return fmt.Sprintf("%032x", id.Certificate().Leaf.SerialNumber)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, disk string) (path string) {
	t.Helper()
	path = filepath.Join(disk, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return path
}

// inviteUntilRefused uses up what room the store has left in its file.
func inviteUntilRefused(t *testing.T, s *pkitest.Server) *client.Problem {
	t.Helper()
	op := s.Operator(t)
	for n := range 2000 {
		_, err := op.Invite(t.Context(), client.InvitationRequest{ClientID: fmt.Sprintf("filler-%d", n)})
		if p, ok := errors.AsType[*client.Problem](err); ok {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("2000 invitations were recorded on a full disk")
	return nil
}

// invitations counts those in the audit log, and verifies the chain.
func invitations(t *testing.T, s *pkitest.Server) (n int) {
	t.Helper()
	var head audit.Head
	for text, err := range s.Operator(t).Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		var e audit.Entry
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		if head, err = audit.Verify(head, e); err != nil {
			t.Fatal(err)
		}
		if e.Action == audit.Invite {
			n++
		}
	}
	return n
}

// currentCRL fetches the CRL and verifies it.
func currentCRL(t *testing.T, s *pkitest.Server) *crl.List {
	t.Helper()
	about, err := s.Operator(t).CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	issuers, err := s.Operator(t).Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	status, der := get(t, about.Issuers[0].CRL)
	if status != http.StatusOK {
		t.Fatalf("fetching the CRL: %d %s", status, der)
	}
	list, err := crl.ParseAndVerify(der, issuers[0], about.Issuers[0].CRL, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// notReady returns the names of the checks of /readyz that fail.
func notReady(t *testing.T, s *pkitest.Server) (failed []string) {
	t.Helper()
	_, text := get(t, "http://"+s.Config.Listen.Ops+"/readyz")
	var answer struct {
		Checks []struct {
			Name string
			OK   bool
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&answer); err != nil {
		t.Fatalf("/readyz: %v: %s", err, text)
	}
	for _, c := range answer.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	return failed
}

func get(t *testing.T, url string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
