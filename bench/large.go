package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"path/filepath"
	"time"

	"github.com/smallstep/nosql"
	"github.com/smallstep/nosql/database"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/boltstore"
)

// large is a data directory with many certificates, some of them revoked. It is made once per run.
type large struct {
	dir          string
	issuer       string // its id
	certificates int
	revoked      int
	bytesPer     float64     // of the store for each certificate, before anything was revoked
	left         []ca.Serial // some that are not revoked yet
	took         time.Duration
	list         int // octets of the CRL
}

// fillTime bounds how long the store is filled. Where it does not suffice, the report says how far it came.
const (
	fillTime = 4 * time.Minute
	fillStep = 50_000
)

func (b *bench) largeStore(ctx context.Context) (*large, error) {
	if b.large != nil {
		return b.large, nil
	}
	pk, err := b.startPKID(ctx, "pkid-large")
	if err != nil {
		return nil, err
	}
	certs, err := pk.enrolAll(ctx, 1)
	pk.stop()
	if err != nil {
		return nil, err
	}
	l := &large{dir: pk.dir}
	store, err := boltstore.Open(filepath.Join(pk.dir, "pkid.db"), boltstore.Options{})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	page, err := store.List(ctx, ca.Query{Limit: 1, Now: time.Now()})
	if err != nil {
		return nil, err
	}
	l.issuer = page.Records[0].Issuer
	before, err := pk.storeSize()
	if err != nil {
		return nil, err
	}
	f, err := forge(certs[0].Leaf, l.issuer, b.sizes.certificates)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for l.certificates < b.sizes.certificates && (time.Since(start) < fillTime || l.certificates < b.sizes.revoked+fillStep) {
		n := min(fillStep, b.sizes.certificates-l.certificates)
		keep := 0
		if l.certificates < b.sizes.revoked+spareSerials {
			keep = n
		}
		if err := f.fill(ctx, store, l.certificates, n, keep); err != nil {
			return nil, err
		}
		l.certificates += n
	}
	after, err := pk.storeSize()
	if err != nil {
		return nil, err
	}
	l.bytesPer = float64(after-before) / float64(l.certificates)
	log.Printf("  %d certificates took %s, %.0f octets each", l.certificates, tidy(time.Since(start)), l.bytesPer)
	l.revoked = min(b.sizes.revoked, len(f.serials)-1)
	if err := f.revoke(ctx, store, f.serials[:l.revoked]); err != nil {
		return nil, err
	}
	l.left = f.serials[l.revoked:]
	l.took = time.Since(start)
	log.Printf("  and %d revocations %s", l.revoked, tidy(l.took))
	if err := store.Close(); err != nil {
		return nil, err
	}
	if err := l.publish(ctx); err != nil {
		return nil, err
	}
	settle()
	b.large = l
	return l, nil
}

// publish signs and stores the list of what was revoked. Until then the store holds the empty list of the first
// start, which a daemon serves at once, and which says nothing of how long a start with many revocations takes.
func (l *large) publish(ctx context.Context) error {
	s, err := openSigning(ctx, l.dir)
	if err != nil {
		return err
	}
	defer s.store.Close()
	signed, err := s.publisher.Publish(ctx, s.shard)
	if err != nil {
		return err
	}
	l.list = signed.DER.Len()
	return nil
}

// spareSerials are kept for the revocations that are measured.
const spareSerials = 1000

// fillStepCA puts n revoked serial numbers into step-ca's store, in the form that it gives them.
func fillStepCA(n int) func(path string) error {
	return func(path string) (err error) {
		db, err := nosql.New("bbolt", path)
		if err != nil {
			return err
		}
		defer func() {
			if closing := db.Close(); err == nil {
				err = closing
			}
		}()
		table := []byte("revoked_x509_certs")
		if err := db.CreateTable(table); err != nil {
			return err
		}
		type revoked struct { // db.RevokedCertificateInfo
			Serial, ProvisionerID string
			ReasonCode            int
			Reason                string
			RevokedAt, ExpiresAt  time.Time
			TokenID               string
			MTLS, ACME            bool
		}
		now := time.Now().UTC()
		serial := new(big.Int).Lsh(big.NewInt(1), 126) // as long as pkid's
		for i := 0; i < n; {
			tx := new(database.Tx)
			for range min(10_000, n-i) {
				i++
				text := serial.Add(serial, big.NewInt(0x1_0000_0001)).String()
				value, err := json.Marshal(revoked{
					Serial: text, ProvisionerID: "bench:bench", ReasonCode: 1, RevokedAt: now, ExpiresAt: now.Add(90 * 24 * time.Hour),
					TokenID: fmt.Sprintf("%064x", i),
				})
				if err != nil {
					return err
				}
				tx.Set(table, []byte(text), value)
			}
			if err := db.Update(tx); err != nil {
				return err
			}
		}
		return nil
	}
}
