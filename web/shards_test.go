package web

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
)

// TestShards_AreServedEach: a shard has a URL of its own, which /v1/ca tells, and the list there is that shard's.
func TestShards_AreServedEach(t *testing.T) {
	f := newFixture(t)
	issuer := f.c.Authority.Issuer()
	var got client.CA
	f.do(request{url: f.public.URL + "/v1/ca"}).want(t, http.StatusOK, &got)
	urls := got.Issuers[0].CRLs()
	if !slices.Equal(got.Issuers[0].Shards, []uint32{0, 1}) || len(urls) != 2 || urls[0] != issuer.CRLURL || urls[1] != issuer.CRLURLOf(1) {
		t.Fatalf("/v1/ca: shards %v at %v", got.Issuers[0].Shards, urls)
	}
	for n, url := range urls {
		var der []byte
		eventually(t, func() error {
			a := f.do(request{url: url})
			if a.StatusCode != http.StatusOK {
				return errors.New(a.Status)
			}
			der = []byte(a.body)
			return nil
		})
		for other, want := range urls {
			_, err := crl.ParseAndVerify(der, issuer.Signer.Certificate(), want, time.Now())
			if (err == nil) != (n == other) {
				t.Errorf("the list at %s as that for %s: %v", url, want, err)
			}
		}
	}
	base := strings.TrimSuffix(issuer.CRLURL, ".crl")
	for _, path := range []string{"-2.crl", "-0.crl", "-01.crl", "-4294967296.crl", "-4294967297.crl", "-99999999999999999999999.crl", "-2-delta.crl", "-.crl", "--1.crl"} {
		if a := f.do(request{url: base + path}); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d", path, a.StatusCode)
		}
	}
}

// TestShards_DoNotMultiplyMetrics: there are as many lines for two shards as for a thousand.
func TestShards_DoNotMultiplyMetrics(t *testing.T) {
	f := newFixture(t)
	eventually(t, func() error {
		for _, st := range f.c.CRL.Status() {
			if st.NextUpdate.IsZero() {
				return fmt.Errorf("%s is not published", st.Shard)
			}
		}
		return nil
	})
	body := f.do(request{url: f.ops.URL + "/metrics"}).body
	id := f.c.Authority.Issuer().ID()
	for _, name := range []string{"shards", "entries", "number", "this_update_seconds", "next_update_seconds", "age_seconds", "pending_seconds", "publication_failed"} {
		if n := strings.Count(body, "\npkid_crl_"+name+`{issuer="`+id+`"} `); n != 1 {
			t.Errorf("%d lines of pkid_crl_%s, want 1", n, name)
		}
	}
	if !strings.Contains(body, `pkid_crl_shards{issuer="`+id+`"} 2`+"\n") || strings.Contains(body, `pkid_crl_next_update_seconds{issuer="`+id+`"} 0`+"\n") {
		t.Errorf("metrics of the CRLs: %s", body)
	}
}

// That the last list of a shard runs out is as it should be, and of any other a reason to worry.
func TestShards_ThatHaveEndedAreReady(t *testing.T) {
	f := newFixture(t)
	ready := func() string { return f.do(request{url: f.ops.URL + "/readyz"}).Status }
	eventually(t, func() error {
		if status := ready(); !strings.HasPrefix(status, "200") {
			return errors.New(status)
		}
		return nil
	})
	late := f.c.CRL.Status()[0].NextUpdate.Add(time.Minute)
	f.now = func() time.Time { return late }
	if status := ready(); !strings.HasPrefix(status, "503") {
		t.Errorf("with lists that have run out: %s", status)
	}
	for _, shard := range f.c.CRL.Shards() {
		f.c.CRL.Retire(shard, time.Now().Add(-time.Hour))
	}
	if status := ready(); !strings.HasPrefix(status, "200") {
		t.Errorf("with the last lists of shards that have run out: %s", status)
	}
}
