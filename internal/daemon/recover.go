package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
	Clients []string      // disabled again, or because they were changed: whom they trust now, the store does not know
	Kept    []string      // files of checkpoints and of the export, renamed: what they say of the log until now
	Other   []audit.Entry // what else was done since, to be done again or not
	Log     audit.Head    // where the audit log ends that was given; the store's own goes on otherwise
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
	r := recovery{Daemon: d, unknown: map[string]audit.Entry{}}
	// All of the evidence is read before anything is done, so that what is not fit to be used changes nothing.
	lists, err := r.readCRLs(ev.CRLs)
	if err != nil {
		return nil, err
	}
	done, err := readSince(ctx, d.store, ev.Audit)
	if err != nil {
		return nil, err
	}
	r.Log = done.head
	// From here on nothing from before counts, also if this is interrupted and begun again.
	if err := r.mark(ctx, nil); err != nil {
		return nil, err
	}
	// The lists come first: only they tell on which of them a certificate is that the store does not know.
	for _, l := range lists {
		if err := r.redoCRL(ctx, l); err != nil {
			return nil, err
		}
	}
	for _, e := range done.entries {
		if err := r.redo(ctx, e); err != nil {
			return nil, fmt.Errorf("audit entry %d: %w", e.Seq, err)
		}
	}
	for _, serial := range r.Lost {
		delete(r.unknown, serial.String())
	}
	r.Unknown = slices.SortedFunc(maps.Values(r.unknown), func(a, b audit.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	err = r.mark(ctx, map[string]string{
		"revoked": strconv.Itoa(len(r.Revoked)), "lost": strconv.Itoa(len(r.Lost)), "unknown": strconv.Itoa(len(r.Unknown)),
		"disabled": strconv.Itoa(len(r.Clients)), "log": fmt.Sprintf("%d %s", r.Log.Seq, r.Log.Hash),
	})
	if err != nil {
		return nil, err
	}
	r.Kept, err = setAside(cfg, r.At)
	return &r.Recovery, err
}

// mark has the store remember that it was restored now.
func (r *recovery) mark(ctx context.Context, detail map[string]string) error {
	r.At = time.Now().UTC().Truncate(time.Millisecond)
	ev := audit.Event{Time: r.At, Actor: audit.From(ctx), Action: audit.Restore, Subject: "store", Detail: detail}
	if err := r.store.MarkRestored(ctx, r.At, ev); err != nil {
		return fmt.Errorf("marking the store as restored: %w", err)
	}
	return nil
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
	unknown map[string]audit.Entry // Unknown by serial number
}

// published is a list of one of the issuing CAs that was checked.
type published struct {
	issuer *ca.Issuer
	shard  uint32
	list   *crl.List
}

func (r *recovery) readCRLs(lists [][]byte) ([]published, error) {
	var all []published
	for n, der := range lists {
		l, err := r.readCRL(der)
		if err != nil {
			return nil, fmt.Errorf("CRL %d of %d: %w", n+1, len(lists), err)
		}
		all = append(all, l)
	}
	return all, nil
}

func (r *recovery) readCRL(list []byte) (l published, err error) {
	if block, _ := pem.Decode(list); block != nil {
		list = block.Bytes
	}
	if l.issuer, l.shard, err = r.publisherOf(list); err != nil {
		return l, err
	}
	if l.list, err = crl.ParseAndVerify(list, l.issuer.Signer.Certificate(), l.issuer.CRLURLOf(l.shard), time.Now()); err != nil {
		return l, err
	}
	for e := range l.list.All() {
		if len(e.Serial) > len(ca.Serial{}) {
			return l, fmt.Errorf("serial number %x: %w", e.Serial, ca.ErrSerial)
		}
	}
	return l, nil
}

// redoCRL revokes again what a list says.
func (r *recovery) redoCRL(ctx context.Context, l published) error {
	for e := range l.list.All() {
		var serial ca.Serial
		copy(serial[len(serial)-len(e.Serial):], e.Serial)
		if err := r.revoke(ctx, serial, ca.Revocation{Reason: ca.Reason(e.Reason), At: e.At}, l.issuer.Lost(serial, l.shard)); err != nil {
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

// redo does again what fails closed, and lists the rest.
func (r *recovery) redo(ctx context.Context, e audit.Entry) error {
	switch e.Action {
	case audit.Issue, audit.Renew:
		r.unknown[e.Subject] = e
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
	case audit.ClientChange:
		// The secret or the keys of before may have been stolen, a right taken away: the log tells what was changed, not how.
		r.Other = append(r.Other, e)
		return r.disable(ctx, e.Subject)
	case audit.ClientDisable:
		return r.disable(ctx, e.Subject)
	case audit.TokenRevoke, audit.Prune, audit.Archived, audit.Backup:
		return nil // nothing to do again: no token from before counts
	default:
		r.Other = append(r.Other, e)
		return nil
	}
}

// revokeSince revokes a certificate again that the log says was revoked after the backup, and perhaps issued after it too.
func (r *recovery) revokeSince(ctx context.Context, serial ca.Serial, rev ca.Revocation) error {
	var lost *ca.Record
	if e, ok := r.unknown[serial.String()]; ok && r.cfg.CRL.ShardSize == 0 { // else the log does not say which CRL it names
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
