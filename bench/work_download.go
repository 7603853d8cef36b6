package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// stepStart is how step-ca starts with as many revocations.
type stepStart struct {
	took   time.Duration
	memory int64
}

// largeStep starts step-ca with as many revocations.
func (b *bench) largeStep(ctx context.Context, l *large) (*stepServer, error) {
	s, err := b.startStep(ctx, "step-ca-large", "bbolt", stepOptions{crl: true, fill: fillStepCA(l.revoked)})
	if err != nil {
		return nil, err
	}
	b.stepStart.took = time.Since(s.started)
	if b.stepStart.memory, err = s.memory(); err != nil {
		s.stop()
		return nil, err
	}
	log.Printf("  step-ca started in %s, with %s", tidy(b.stepStart.took), megabytes(b.stepStart.memory))
	return s, nil
}

// stepRevoke measures step-ca's revoke call, within which it signs a new CRL.
func (b *bench) stepRevoke(ctx context.Context, l *large, s *stepServer) error {
	c, err := dial(ctx, s.addr, clientTLS(s.ca.roots))
	if err != nil {
		return err
	}
	defer c.Close()
	var took []time.Duration
	for i := range b.sizes.slow {
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
	b.report.recordAt("resign/step", each.Seconds()/b.resigned.Seconds(), l.revoked,
		fmt.Sprintf("its revoke call, which signs within it, takes %s, of %d; pkid's list %s", tidy(each), len(took), tidy(b.resigned)))
	return nil
}

// downloads measures how often the large CRL can be fetched, and how often one can ask whether it has changed.
func (b *bench) downloads(ctx context.Context, l *large, pk *pkidServer, step *stepServer, file string) error {
	fl, err := b.startFloor(ctx, "floor-crl", file)
	if err != nil {
		return err
	}
	defer fl.stop()
	const fromMemory, stepCA = "http.ServeContent from memory", "step-ca, bbolt"
	list := "/crl/" + l.issuer + ".crl"
	round := b.download(pk.process, pk.status, list)
	all := []contender{
		{"pkid", round},
		{fromMemory, b.download(fl.process, plainOf(fl.addr), "/file")},
	}
	if step != nil {
		all = append(all, contender{stepCA, b.download(step.process, step.plain, "/1.0/crl")})
	}
	got, err := alternate(ctx, "CRL download", b.sizes.slow, all)
	if err != nil {
		return err
	}
	b.report.recordAt("download/floor", got.over(fromMemory, "pkid"), l.revoked, "")
	if step != nil {
		b.report.recordAt("download/step", got.over("pkid", stepCA), l.revoked, "")
	}
	b.report.rates("Downloading a large CRL, 4 at once", fmt.Sprintf("%s entries, over plain HTTP, without compression.", model.Count(l.revoked)), got)
	if err := b.polls(ctx, l, pk, list); err != nil {
		return err
	}
	return b.explain(ctx, "CRL download", pk.process, round, "download/floor", "download/step")
}

func (b *bench) download(p *process, addr, path string) func(context.Context) (sample, error) {
	return b.fetch(p, addr, 4, http.StatusOK, render("GET", addr, path, nil))
}

// fetch repeats a request over plain HTTP.
func (b *bench) fetch(p *process, addr string, n, want int, request []byte) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		conns, err := dialAll(ctx, addr, n, noTLS)
		if err != nil {
			return sample{}, err
		}
		defer closeAll(conns)
		return measure(p, func() (sample, error) { return drive(ctx, conns, b.sizes.round, want, cycle([][]byte{request}), nil) })
	}
}

// polls measures what a verifier costs that asks whether the list has changed, when it has not.
func (b *bench) polls(ctx context.Context, l *large, pk *pkidServer, path string) error {
	etag, err := waitETag(ctx, l.url(pk), "")
	if err != nil {
		return err
	}
	request := render("GET", pk.status, path, nil, "If-None-Match", etag)
	got, err := alternate(ctx, "CRL, not modified", b.sizes.slow, []contender{{"pkid", b.fetch(pk.process, pk.status, connections, http.StatusNotModified, request)}})
	if err != nil {
		return err
	}
	b.report.data.Cost(model.CostPoll, got[0].cpu().Seconds())
	b.report.rates("Asking whether a CRL has changed, 32 at once", "What every verifier does twice a second: the answer is 304.", got)
	return nil
}
