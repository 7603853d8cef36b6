package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

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
	pk, err := b.servePKID(ctx, "pkid-large", l.dir)
	if err != nil {
		return err
	}
	defer pk.stop()
	if err := b.revokeToServed(ctx, l, pk); err != nil {
		return err
	}
	step, err := b.largeStep(ctx, l)
	if err != nil {
		return err
	}
	defer step.stop()
	if err := b.stepRevoke(ctx, step); err != nil {
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
	defer s.store.Close()
	last, err := s.publisher.Publish(ctx, s.shard)
	if err != nil {
		return nil, err
	}
	if list, err := x509.ParseRevocationList(last.DER.Bytes()); err != nil || len(list.RevokedCertificateEntries) < l.revoked {
		return nil, fmt.Errorf("the list does not hold %d entries: %w", l.revoked, err)
	}
	extra, whole := uint64(0), last.DER.Bytes()
	all := []contender{
		{"SHA-256 and one signature", func(context.Context) (sample, error) {
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
		{"x509.CreateRevocationList", func(context.Context) (sample, error) { return b.createList(whole) }},
	}
	got, err := alternate(ctx, "re-sign a CRL", min(b.sizes.rounds, 3), all)
	if err != nil {
		return nil, err
	}
	work := fmt.Sprintf("full CRL of %s entries, re-signed after one more revocation", count(l.revoked))
	r := &b.report
	r.atMost(work, "SHA-256 of its bytes and one signature", got[0].rate()/got[1].rate(), 2, "")
	r.atMost(work+": extra memory", "its size", float64(extra)/float64(last.DER.Len()), 2, "")
	r.atLeast(work, "crypto/x509.CreateRevocationList", got[1].rate()/got[2].rate(), 20, "")
	b.resigned = got[1].each()
	r.costs("Signing a large CRL anew", fmt.Sprintf("%s entries, %.1f MB, in process. For pkid everything from reading the store to the list that is durable and parsed; "+
		"for crypto/x509 the call alone, on entries that lie ready.", count(l.revoked), float64(last.DER.Len())/1e6), got)
	return last.DER.Bytes(), nil
}

func (s *signing) revoke(ctx context.Context, l *large) error {
	_, err := s.authority.Revoke(ctx, ca.RevocationRequest{Serial: l.spare(), Reason: ca.KeyCompromise})
	return err
}

// spare takes a certificate that is not revoked.
func (l *large) spare() ca.Serial {
	s := l.left[0]
	l.left = l.left[1:]
	return s
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

// revokeToServed measures the daemon: how long a revocation takes, and how long until a list with it is served.
func (b *bench) revokeToServed(ctx context.Context, l *large, pk *pkidServer) error {
	url := "http://" + pk.status + "/crl/" + l.issuer + ".crl"
	etag, err := waitETag(ctx, url, "")
	if err != nil {
		return err
	}
	time.Sleep(time.Second) // whatever the start left to do
	if etag, err = waitETag(ctx, url, ""); err != nil {
		return err
	}
	operator, err := pk.operators(ctx, 1)
	if err != nil {
		return err
	}
	defer closeAll(operator)
	settle()
	defer pk.profile()()
	var calls, served []time.Duration
	deadline := time.Now().Add(40 * time.Second)
	for len(calls) < 50 && (time.Now().Before(deadline) || len(calls) < 3) {
		request := render("POST", pk.mtls, "/v1/certificates/"+l.spare().String()+"/revoke", []byte(`{"reason":"keyCompromise"}`), "Content-Type", "application/json")
		start := time.Now()
		status, err := operator[0].do(request)
		calls = append(calls, time.Since(start))
		if err != nil || status != 200 {
			return fmt.Errorf("revoking: %d %s %w", status, operator[0].body, err)
		}
		if etag, err = waitETag(ctx, url, etag); err != nil {
			return err
		}
		served = append(served, time.Since(start))
		time.Sleep(50 * time.Millisecond)
	}
	slices.Sort(calls)
	slices.Sort(served)
	p99 := func(d []time.Duration) time.Duration { return d[(len(d)*99+99)/100-1] }
	b.revokedToServed = served[len(served)/2]
	work := fmt.Sprintf("at %s revoked: ", count(l.revoked))
	note := fmt.Sprintf("of %d", len(calls))
	b.report.within(work+"from the revocation to the new CRL served, p99", "", tidy(p99(served)).String(), "250ms", p99(served) <= 250*time.Millisecond, note)
	b.report.within(work+"the revoke call, p99", "", tidy(p99(calls)).String(), "10ms", p99(calls) <= 10*time.Millisecond, note)
	return nil
}

// waitETag asks for the head of the CRL until its ETag is another one.
func waitETag(ctx context.Context, url, old string) (string, error) {
	for start := time.Now(); time.Since(start) < 2*time.Minute; {
		r, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		resp.Body.Close()
		if tag := resp.Header.Get("ETag"); resp.StatusCode == http.StatusOK && tag != old {
			return tag, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return "", errors.New("no new CRL within two minutes")
}

// largeStep starts step-ca with as many revocations.
func (b *bench) largeStep(ctx context.Context, l *large) (*stepServer, error) {
	s, err := b.startStep(ctx, "step-ca-large", "bbolt", stepOptions{crl: true, fill: fillStepCA(l.revoked)})
	if err != nil {
		return nil, err
	}
	b.stepStart = time.Since(s.started)
	log.Printf("  step-ca started in %s", tidy(b.stepStart))
	return s, nil
}

// stepRevoke measures step-ca's revoke call, within which it signs a new CRL.
func (b *bench) stepRevoke(ctx context.Context, s *stepServer) error {
	c, err := dial(ctx, s.addr, clientTLS(s.ca.roots))
	if err != nil {
		return err
	}
	defer c.Close()
	var took []time.Duration
	for i := range 3 {
		request, err := s.revokeRequest(fmt.Sprint(1000 + i))
		if err != nil {
			return err
		}
		start := time.Now()
		status, err := c.do(request)
		if err != nil || status != 200 {
			return fmt.Errorf("step-ca, revoking: %d %s %w", status, c.body, err)
		}
		took = append(took, time.Since(start))
	}
	each := median(took)
	log.Printf("  step-ca revokes and signs in %s", tidy(each))
	b.report.atLeast("full CRL, re-signed after one more revocation", "step-ca", each.Seconds()/b.resigned.Seconds(), 100, "step-ca's revoke call, which signs within it: "+tidy(each).String())
	return nil
}

// downloads measures how often the large CRL can be fetched.
func (b *bench) downloads(ctx context.Context, l *large, pk *pkidServer, step *stepServer, file string) error {
	fl, err := b.startFloor(ctx, "floor-crl", file)
	if err != nil {
		return err
	}
	defer fl.stop()
	download := func(p *process, addr, path string) func(context.Context) (sample, error) {
		request := [][]byte{render("GET", addr, path, nil)}
		return func(ctx context.Context) (sample, error) {
			conns, err := dialAll(ctx, addr, 4, noTLS)
			if err != nil {
				return sample{}, err
			}
			defer closeAll(conns)
			return measure(p, func() (sample, error) { return drive(ctx, conns, b.sizes.round, 200, cycle(request), nil) })
		}
	}
	got, err := alternate(ctx, "CRL download", min(b.sizes.rounds, 3), []contender{
		{"pkid", download(pk.process, pk.status, "/crl/"+l.issuer+".crl")},
		{"http.ServeContent from memory", download(fl.process, plainOf(fl.addr), "/file")},
		{"step-ca, bbolt", download(step.process, step.plain, "/1.0/crl")},
	})
	if err != nil {
		return err
	}
	work := fmt.Sprintf("download of a CRL with %s entries", count(l.revoked))
	b.report.atMost(work, "http.ServeContent from memory", got[1].rate()/got[0].rate(), 1.5, "")
	b.report.atLeast(work, "step-ca", got[0].rate()/got[2].rate(), 20, "")
	b.report.rates("Downloading a large CRL, 4 at once", "Over plain HTTP, without compression.", got)
	return nil
}

func count(n int) string {
	text := fmt.Sprint(n)
	var out bytes.Buffer
	for i, r := range text {
		if i > 0 && (len(text)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(r)
	}
	return out.String()
}
