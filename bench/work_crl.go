package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/pkid/pkid/bench/model"
	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/stepca"
)

// revocationLists measures a large CRL: signing it anew in this process, and then through the daemon.
func (b *bench) revocationLists(ctx context.Context) error {
	l, err := b.largeStore(ctx)
	if err != nil {
		return err
	}
	der, err := b.resign(ctx, l)
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, "large.crl")
	if err := os.WriteFile(file, der, 0o600); err != nil {
		return err
	}
	pk, err := l.serve(ctx)
	if err != nil {
		return err
	}
	defer pk.stop()
	if err := b.revokeToServed(ctx, l, pk); err != nil {
		return err
	}
	if !b.peers {
		return b.downloads(ctx, l, pk, nil, file)
	}
	step, err := b.largeStep(ctx, l)
	if err != nil {
		return err
	}
	defer step.stop()
	if err := b.stepRevoke(ctx, l, step); err != nil {
		return err
	}
	return b.downloads(ctx, l, pk, step, file)
}

// signing is a CA in this process on the large store.
type signing struct {
	store     *boltstore.Store
	authority *ca.Authority
	publisher *crl.Publisher
	shard     crl.Shard
}

func openSigning(ctx context.Context, dir string) (*signing, error) {
	cfg, err := daemon.Load(dir)
	if err != nil {
		return nil, err
	}
	passphrase, err := cfg.ReadPassphrase()
	if err != nil {
		return nil, err
	}
	cert, err := readCertificate(cfg.Path(cfg.Issuer.Certificate))
	if err != nil {
		return nil, err
	}
	root, err := readCertificate(cfg.Path(cfg.Issuer.Root))
	if err != nil {
		return nil, err
	}
	key, err := stepca.OpenKey(ctx, cfg.KeyURI(cfg.Issuer.Key), passphrase)
	if err != nil {
		return nil, err
	}
	signer, err := stepca.NewSigner(cert, key)
	if err != nil {
		return nil, err
	}
	profiles, err := daemon.Profiles(cfg.Profiles)
	if err != nil {
		return nil, err
	}
	s := &signing{shard: crl.Shard{Issuer: ca.IssuerID(cert)}}
	if s.store, err = boltstore.Open(cfg.StorePath(), boltstore.Options{}); err != nil {
		return nil, err
	}
	url := cfg.URLs.Status + "/crl/" + s.shard.Issuer + ".crl"
	issuer := &ca.Issuer{Signer: signer, Root: root, CRLURL: url, AIAURL: cfg.URLs.Status + "/issuers/" + s.shard.Issuer + ".crt"}
	if s.authority, err = ca.New(ca.Config{Issuer: issuer, Store: s.store, Profiles: profiles}); err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	s.publisher, err = crl.NewPublisher(crl.PublisherConfig{
		Shards: []crl.PublishedShard{{Shard: s.shard, URL: url, Issuer: cert}}, Store: s.store, Revocations: s.store, Signer: s.authority,
		Lifetime: cfg.CRL.Lifetime, Timeout: 5 * time.Minute,
	})
	if err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	return s, nil
}

// timed is a round of one call that takes d.
func timed(d time.Duration) sample { return sample{rate: 1 / d.Seconds(), requests: 1} }

// resign measures a new list after one more revocation, and returns the last one.
func (b *bench) resign(ctx context.Context, l *large) ([]byte, error) {
	s, err := openSigning(ctx, l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.store.Close() }()
	last, err := s.publisher.Publish(ctx, s.shard)
	if err != nil {
		return nil, err
	}
	if list, err := x509.ParseRevocationList(last.DER.Bytes()); err != nil || len(list.RevokedCertificateEntries) < l.revoked {
		return nil, fmt.Errorf("the list does not hold %d entries: %w", l.revoked, err)
	}
	extra, whole := uint64(0), last.DER.Bytes()
	all := []contender{
		{resignFloor, func(context.Context) (sample, error) {
			start := time.Now()
			digest := sha256.Sum256(whole)
			_, err := b.ca.issuingKey.Sign(rand.Reader, digest[:], crypto.SHA256)
			return timed(time.Since(start)), err
		}},
		{"pkid", func(ctx context.Context) (sample, error) {
			if err := s.revoke(ctx, l); err != nil {
				return sample{}, err
			}
			peak := watchHeap()
			start := time.Now()
			next, err := s.publisher.Publish(ctx, s.shard)
			took := time.Since(start)
			extra = max(extra, peak())
			last = next
			return timed(took), err
		}},
		{resignX509, func(context.Context) (sample, error) { return b.createList(whole) }},
	}
	got, err := alternate(ctx, "re-sign a CRL", b.sizes.slow, all)
	if err != nil {
		return nil, err
	}
	r := &b.report
	size := float64(last.DER.Len())
	r.recordAt("resign/floor", got.over(resignFloor, "pkid"), l.revoked, "")
	r.recordAt("resign/memory", float64(extra)/size, l.revoked, megabytes(int64(extra)))
	r.recordAt("resign/x509", got.over("pkid", resignX509), l.revoked, "")
	b.resigned = got.named("pkid").each()
	r.costs("Signing a large CRL anew", fmt.Sprintf("%s entries, %s, in process. For pkid everything from reading the store to the list that is durable and checked; "+
		"for crypto/x509 the call alone, on entries that lie ready.", model.Count(l.revoked), megabytes(int64(size))), got)
	return last.DER.Bytes(), nil
}

const (
	resignFloor = "SHA-256 and one signature"
	resignX509  = "x509.CreateRevocationList"
)

func (s *signing) revoke(ctx context.Context, l *large) error {
	_, err := s.authority.Revoke(ctx, ca.RevocationRequest{Serial: l.spare(), Reason: ca.KeyCompromise})
	return err
}

// createList is what a CA on the standard library alone would call.
func (b *bench) createList(der []byte) (sample, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return sample{}, err
	}
	template := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
		RevokedCertificateEntries: make([]x509.RevocationListEntry, len(list.RevokedCertificateEntries)),
	}
	for i, e := range list.RevokedCertificateEntries {
		template.RevokedCertificateEntries[i] = x509.RevocationListEntry{SerialNumber: e.SerialNumber, RevocationTime: e.RevocationTime, ReasonCode: e.ReasonCode}
	}
	runtime.GC()
	start := time.Now()
	_, err = x509.CreateRevocationList(rand.Reader, template, b.ca.issuing, b.ca.issuingKey)
	return timed(time.Since(start)), err
}

// watchHeap collects garbage, and returns a function that tells by how much the heap grew at most since.
func watchHeap() func() uint64 {
	runtime.GC()
	heap := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	base, peak := heap(), uint64(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			peak = max(peak, heap())
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	return func() uint64 {
		close(stop)
		wg.Wait()
		return max(peak, base) - base
	}
}
