package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/stepca"
)

// openAudit begins to follow the audit log, if anything of it is to be written outside of the store.
func (d *Daemon) openAudit(ctx context.Context, passphrase []byte) (err error) {
	c := d.cfg.Audit
	if c.Checkpoints == "" && c.Export == "" {
		return nil
	}
	_, origin, _ := strings.Cut(d.cfg.URLs.Public, "://")
	f := &auditFollower{
		store: d.store, log: d.log, origin: origin, interval: c.Interval, entries: uint64(c.Entries), now: time.Now,
	}
	var marks, export *lineFile
	if path, ok := strings.CutPrefix(c.Export, "file:"); ok {
		export = &lineFile{d.cfg.Path(path)}
		f.export = export
	}
	if c.Checkpoints != "" {
		f.marks = os.Stdout
		if path, ok := strings.CutPrefix(c.Checkpoints, "file:"); ok {
			marks = &lineFile{d.cfg.Path(path)}
			f.marks = marks
		}
		if f.key, err = d.openAuditKey(ctx, passphrase); err != nil {
			return fmt.Errorf("audit key: %w", err)
		}
	}
	if err := f.begin(ctx, marks, export); err != nil {
		return err
	}
	d.follower = f
	return nil
}

// openAuditKey opens the key that signs checkpoints, or makes one. Its public half is written beside it, for who checks
// them. That a key was made is in the log, so that another one in its place does not go unseen.
func (d *Daemon) openAuditKey(ctx context.Context, passphrase []byte) (crypto.Signer, error) {
	uri := d.cfg.KeyURI(d.cfg.Audit.Key)
	key, err := stepca.OpenKey(ctx, uri, passphrase)
	made := errors.Is(err, os.ErrNotExist)
	if made {
		key, err = stepca.CreateKey(ctx, uri, ca.P256, passphrase)
	}
	if err != nil {
		return nil, err
	}
	if err := checkAuditKey(key); err != nil {
		return nil, err
	}
	id, err := audit.KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	if made {
		ev := audit.Event{Time: time.Now(), Actor: audit.From(ctx), Action: audit.CheckpointKey, Subject: id}
		if err := d.store.Record(ctx, ev); err != nil {
			return nil, err
		}
	}
	public := d.cfg.Path("audit.pub")
	if uri == d.cfg.Path(d.cfg.Audit.Key) { // a file
		public = strings.TrimSuffix(uri, ".key") + ".pub"
	}
	d.log.Info("checkpoints of the audit log are signed", "key", id, "public_key", public)
	return key, writePublicKey(public, key.Public())
}

// writePublicKey writes a key in PEM, unless the file has it.
func writePublicKey(path string, key crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if found, err := os.ReadFile(path); err == nil && string(found) == string(text) {
		return nil
	}
	return os.WriteFile(path, text, 0o644) //nolint:gosec // G306: it is public
}

// checkAudit fails while the log is not checked, exported and signed as it should be.
func (d *Daemon) checkAudit(context.Context) error {
	if d.follower == nil {
		return nil
	}
	return d.follower.status()
}

const (
	archiveStep    = 500    // entries that are dropped in one transaction
	archiveRequest = 20_000 // in one request
)

// archive is the audit log with the right to drop its start.
type archive struct {
	store
	follower *auditFollower // nil if nothing is written outside
}

// ArchiveAudit drops the oldest entries, some of those up to one that its caller has elsewhere, and returns the head that
// the oldest one follows then. That it does is in the log first: what follows would be wrong if it could not be told.
func (a archive) ArchiveAudit(ctx context.Context, upTo audit.Head) (audit.Head, error) {
	if a.follower != nil && !a.follower.covers(upTo.Seq) {
		return audit.Head{}, fmt.Errorf("%w: entry %d was not exported and checked yet; try again in a few seconds, and see /readyz", audit.ErrNoEntry, upTo.Seq)
	}
	base, err := a.AuditBase(ctx)
	if err != nil || upTo == base {
		return base, err
	}
	if _, err := a.DropAudit(ctx, upTo, 0); err != nil { // only checks
		return base, err
	}
	ev := audit.Event{
		Time: time.Now(), Actor: audit.From(ctx), Action: audit.Archived, Subject: fmt.Sprintf("%d-%d", base.Seq+1, upTo.Seq),
		Detail: map[string]string{"hash": upTo.Hash.String()},
	}
	if err := a.Record(ctx, ev); err != nil {
		return base, err
	}
	for dropped := 0; dropped < archiveRequest; {
		began := time.Now()
		n, err := a.DropAudit(ctx, upTo, archiveStep)
		if err != nil {
			return base, err
		}
		if n < archiveStep {
			break
		}
		dropped += n
		select {
		case <-time.After(time.Since(began)): // others are to get through
		case <-ctx.Done():
			return base, ctx.Err()
		}
	}
	return a.AuditBase(ctx)
}

func (d *Daemon) writeAuditMetrics(w io.Writer) {
	if d.follower != nil {
		d.follower.writeMetrics(w)
	}
}
