package daemon

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// Evidence is what was kept outside a store and tells what happened after the backup that it was restored from.
type Evidence struct {
	CRLs  [][]byte    // published ones, DER or PEM; the newest of each issuing CA and shard
	Audit []io.Reader // exports or archives of the audit log, oldest first; what is older than the backup is skipped
}

// Recovery says what Recover found and did.
type Recovery struct {
	At      time.Time     // nothing from before counts that the store does not know: invitations, tokens
	Revoked []ca.Serial   // revoked again, since the evidence says so
	Lost    []ca.Serial   // of these, those that the store knew nothing of: only their revocation is recorded
	Unknown []audit.Entry // issued after the backup and not in the store: to be adopted, or revoked where they were lost
	Clients []string      // disabled again
	Kept    []string      // files of checkpoints and of the export, renamed: what they say of the log until now
	Other   []audit.Entry // what else was done since, to be done again or not
}

// Recover makes a store fit to serve that was restored from a backup, and is therefore older than what it says: it
// revokes and disables again what the evidence shows, and marks the store, so that invitations and tokens from before
// are refused. Certificates that were issued after the backup are unknown to the store, and so refused, until an operator
// adopts them. No daemon may serve the store meanwhile; nodes that share it are started afterwards.
func Recover(ctx context.Context, cfg *config.Config, log *slog.Logger, ev Evidence) (_ *Recovery, err error) {
	unfollowed := *cfg // the files go on from a log that is not there any more
	unfollowed.Audit.Checkpoints, unfollowed.Audit.Export = "", ""
	d, err := New(ctx, &unfollowed, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r := recovery{Daemon: d}
	if r.head, err = d.store.AuditHead(ctx); err != nil {
		return nil, err
	}
	// The lists come first: only they tell on which of them a certificate is that the store does not know.
	for n, list := range ev.CRLs {
		if err := r.readCRL(ctx, list); err != nil {
			return nil, fmt.Errorf("CRL %d of %d: %w", n+1, len(ev.CRLs), err)
		}
	}
	if err := r.readAudit(ctx, ev.Audit); err != nil {
		return nil, err
	}
	r.Unknown = slices.DeleteFunc(r.Unknown, func(e audit.Entry) bool {
		return slices.ContainsFunc(r.Lost, func(s ca.Serial) bool { return s.String() == e.Subject })
	})
	r.At = time.Now().UTC().Truncate(time.Millisecond)
	err = d.store.MarkRestored(ctx, r.At, audit.Event{
		Time: r.At, Actor: audit.From(ctx), Action: audit.Restore, Subject: "store", Detail: map[string]string{
			"revoked": strconv.Itoa(len(r.Revoked)), "lost": strconv.Itoa(len(r.Lost)), "unknown": strconv.Itoa(len(r.Unknown)),
			"disabled": strconv.Itoa(len(r.Clients)), "log": fmt.Sprintf("%d %s", r.head.Seq, r.head.Hash),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("marking the store as restored: %w", err)
	}
	r.Kept, err = setAside(cfg, r.At)
	return &r.Recovery, err
}

// setAside renames the files that checkpoints and audit entries of before are in: the log goes on otherwise than they
// say, and they are what proves it.
func setAside(cfg *config.Config, at time.Time) (kept []string, err error) {
	for _, where := range []string{cfg.Audit.Checkpoints, cfg.Audit.Export} {
		path, ok := strings.CutPrefix(where, "file:")
		if !ok {
			continue
		}
		path = cfg.Path(path)
		to := path + ".until-" + at.Format("20060102T150405Z")
		switch err := os.Rename(path, to); {
		case err == nil:
			kept = append(kept, to)
		case !errors.Is(err, os.ErrNotExist):
			return kept, fmt.Errorf("setting the audit log's files aside: %w", err)
		}
	}
	return kept, nil
}

// recovery is a Recover under way.
type recovery struct {
	*Daemon
	Recovery
	head audit.Head // of the log as the evidence has it; the store's own goes on otherwise from now on
}

// readCRL revokes again what a list of one of the issuing CAs says.
func (r *recovery) readCRL(ctx context.Context, list []byte) error {
	if block, _ := pem.Decode(list); block != nil {
		list = block.Bytes
	}
	issuer, shard, err := r.publisherOf(list)
	if err != nil {
		return err
	}
	point := issuer.CRLURLOf(shard)
	if issuer.Whole {
		point = ""
	}
	l, err := crl.ParseAndVerify(list, issuer.Signer.Certificate(), point, time.Now())
	if err != nil {
		return err
	}
	for e := range l.All() {
		if len(e.Serial) > len(ca.Serial{}) {
			return fmt.Errorf("serial number %x: %w", e.Serial, ca.ErrSerial)
		}
		var serial ca.Serial
		copy(serial[len(serial)-len(e.Serial):], e.Serial)
		if err := r.revoke(ctx, serial, ca.Revocation{Reason: ca.Reason(e.Reason), At: e.At}, issuer.Lost(serial, shard)); err != nil {
			return err
		}
	}
	return nil
}

// publisherOf tells whose list it is, which is checked later, and of which shard.
func (r *recovery) publisherOf(list []byte) (*ca.Issuer, uint32, error) {
	parsed, err := x509.ParseRevocationList(list)
	if err != nil {
		return nil, 0, err
	}
	for _, ext := range parsed.Extensions {
		if !ext.Id.Equal([]int{2, 5, 29, 28}) { // IssuingDistributionPoint
			continue
		}
		idp, err := crl.ParseIDP(ext.Value)
		if err != nil || len(idp.URLs) == 0 {
			break
		}
		for _, i := range r.authority.Issuers() {
			if shard, ok := i.ShardAt(idp.URLs[0]); ok {
				return i, shard, nil
			}
		}
	}
	for _, i := range r.authority.Issuers() {
		if i.Whole && bytes.Equal(parsed.AuthorityKeyId, i.Signer.Certificate().SubjectKeyId) {
			return i, 0, nil
		}
	}
	return nil, 0, fmt.Errorf("it is of %q, and no list of this CA", parsed.Issuer)
}

// revoke revokes a certificate again. Of one that the store does not know it keeps lost, if that is not nil.
func (r *recovery) revoke(ctx context.Context, serial ca.Serial, rev ca.Revocation, lost *ca.Record) error {
	changed, err := r.authority.RevokeAgain(ctx, serial, rev)
	if errors.Is(err, ca.ErrNotFound) && lost != nil {
		ev := audit.Event{Time: time.Now(), Actor: audit.From(ctx), Action: audit.Adopt, Subject: serial.String(), Detail: map[string]string{"why": "restore"}}
		if err := r.store.Insert(ctx, lost, nil, ev); err != nil {
			return fmt.Errorf("recording %s: %w", serial, err)
		}
		r.Lost = append(r.Lost, serial)
		changed, err = r.authority.RevokeAgain(ctx, serial, rev)
	}
	if err == nil && changed {
		r.Revoked = append(r.Revoked, serial)
	}
	return err
}

// readAudit goes through what the log says of the time after the backup. The entries must follow on the store's own, each
// on the one before, so that none was left out or made up in between.
func (r *recovery) readAudit(ctx context.Context, logs []io.Reader) error {
	last := r.head.Seq
	for _, log := range logs {
		for e, err := range audit.ReadLines(log) {
			if err != nil {
				return err
			}
			if e.Seq <= last {
				continue
			}
			if r.head, err = audit.Verify(r.head, e); err != nil {
				return fmt.Errorf("%w; what follows entry %d, the last one in the backup, is needed without a gap", err, last)
			}
			if err := r.redo(ctx, e); err != nil {
				return fmt.Errorf("audit entry %d: %w", e.Seq, err)
			}
		}
	}
	return nil
}

// redo does again what fails closed, and lists the rest.
func (r *recovery) redo(ctx context.Context, e audit.Entry) error {
	switch e.Action {
	case audit.Issue, audit.Renew:
		r.Unknown = append(r.Unknown, e)
		return nil
	case audit.Revoke, audit.Hold:
		serial, err := ca.ParseSerial(e.Subject)
		if err != nil {
			return err
		}
		reason, err := ca.ParseReason(e.Detail["reason"])
		if err != nil {
			return err
		}
		return r.revokeSince(ctx, serial, ca.Revocation{Reason: reason, At: e.Time})
	case audit.ClientDisable:
		return r.disable(ctx, e.Subject)
	default:
		r.Other = append(r.Other, e)
		return nil
	}
}

// revokeSince revokes a certificate again that the log says was revoked after the backup, and perhaps issued after it too.
func (r *recovery) revokeSince(ctx context.Context, serial ca.Serial, rev ca.Revocation) error {
	var lost *ca.Record
	for _, e := range r.Unknown {
		if e.Subject != serial.String() {
			continue
		}
		if r.cfg.CRL.ShardSize > 0 {
			break // which CRL it names, the log does not say
		}
		lost = r.issuerAt(e.Time).Lost(serial, 0)
	}
	err := r.revoke(ctx, serial, rev, lost)
	if errors.Is(err, ca.ErrNotFound) {
		return fmt.Errorf("%w; it was issued after the backup: give the CRL that lists it", err)
	}
	return err
}

// issuerAt returns the issuing CA that signed certificates at an instant.
func (r *recovery) issuerAt(t time.Time) *ca.Issuer {
	all := r.authority.Issuers()
	for _, i := range slices.Backward(all) {
		if !t.Before(i.From) {
			return i
		}
	}
	return all[0]
}

// disable disables a client again. Whether it was enabled after that is in the log that is listed: for an operator to see.
func (r *recovery) disable(ctx context.Context, id string) error {
	changed := false
	_, err := r.clients.Change(ctx, id, func(c *authserver.Client) error {
		changed, c.Disabled = !c.Disabled, true
		return nil
	})
	if errors.Is(err, authserver.ErrNoClient) {
		return nil // added since too
	}
	if err == nil && changed {
		r.Clients = append(r.Clients, id)
	}
	return err
}
