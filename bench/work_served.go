package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"slices"
	"time"
)

// revokeToServed measures the daemon: how long a revocation takes, and how long until a list with it is served.
func (b *bench) revokeToServed(ctx context.Context, l *large, pk *pkidServer) error {
	if _, err := waitETag(ctx, l.url(pk), ""); err != nil {
		return err
	}
	time.Sleep(b.sizes.rest) // whatever the start left to do
	settle()
	calls, served, err := l.follow(ctx, pk, b.sizes.revocations, 40*time.Second)
	if err != nil {
		return err
	}
	p99 := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[(len(d)*99+99)/100-1]
	}
	note := func(d []time.Duration) string { return fmt.Sprintf("of %d; median %s", len(d), tidy(median(d))) }
	b.report.recordAt("served/list", p99(served).Seconds(), l.revoked, note(served))
	b.report.recordAt("served/call", p99(calls).Seconds(), l.revoked, note(calls))
	log.Printf("  revoke to served: p99 %s; the call %s", tidy(p99(served)), tidy(p99(calls)))
	again := func(ctx context.Context) (sample, error) {
		return measure(pk.process, func() (sample, error) {
			calls, _, err := l.follow(ctx, pk, b.sizes.revocations/4, 10*time.Second)
			return sample{requests: len(calls)}, err
		})
	}
	return b.explain(ctx, "revoke to served", pk.process, again, "served/list", "served/call")
}

// follow revokes certificates one after the other, each once the list with the one before is served.
func (l *large) follow(ctx context.Context, pk *pkidServer, most int, limit time.Duration) (calls, served []time.Duration, err error) {
	operator, err := pk.operators(ctx, 1)
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(operator)
	etag, err := waitETag(ctx, l.url(pk), "")
	if err != nil {
		return nil, nil, err
	}
	for begin := time.Now(); len(calls) < most && (time.Since(begin) < limit || len(calls) < 3); {
		start := time.Now()
		if err := l.revokeAt(pk, operator[0]); err != nil {
			return nil, nil, err
		}
		calls = append(calls, time.Since(start))
		if etag, err = waitETag(ctx, l.url(pk), etag); err != nil {
			return nil, nil, err
		}
		served = append(served, time.Since(start))
		time.Sleep(50 * time.Millisecond)
	}
	return calls, served, nil
}

// revokeAt revokes one more certificate through the daemon.
func (l *large) revokeAt(pk *pkidServer, operator *conn) error {
	request := render("POST", pk.mtls, "/v1/certificates/"+l.spare().String()+"/revoke", []byte(`{"reason":"keyCompromise"}`), "Content-Type", "application/json")
	status, err := operator.do(request)
	if err != nil || status != 200 {
		return fmt.Errorf("revoking: %d %s %w", status, operator.body, err)
	}
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
