package integration

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// overloaded is a daemon with room for next to nothing, and counts what it answers to far more.
type overloaded struct {
	*pkitest.Server
	id *client.Identity

	mu      sync.Mutex // guards answers
	answers map[string]int
}

// Far more come than are served. Each of them gets what it asked for or hears when to come again; meanwhile an operator
// revokes and the CRL is published, strangers who connect and say nothing harm nobody, and afterwards all is as before.
func TestOverload(t *testing.T) {
	none := 0
	o := &overloaded{answers: map[string]int{}, Server: pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) {
		c.Limits.Requests, c.Limits.Wait = 2, 20*time.Millisecond
		c.Limits.Connections, c.Limits.ConnectionsPerAddress, c.Limits.NewConnections = 128, 128, 16
		c.Limits.FailuresPerAddress = &none
	}})}
	o.id = o.Enrol(t, client.InvitationRequest{ClientID: "robot"})
	victim := o.Enrol(t, client.InvitationRequest{ClientID: "victim"})

	ctx, stop := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	for range 40 {
		crowd.Go(func() {
			o.hammer(ctx, t, "/oauth/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"robot"}})
		})
		crowd.Go(func() { o.hammer(ctx, t, "/v1/certificates/renew", nil) })
	}
	for range 150 {
		crowd.Go(func() { silence(ctx, host(o.URLs.Public)) })
	}
	for _, path := range []string{"/oauth/token", "/v1/certificates/renew"} {
		o.eventually(t, path+" 503")
		o.eventually(t, path+" 20"+map[string]string{"/oauth/token": "0", "/v1/certificates/renew": "1"}[path])
	}
	o.revoke(t, victim)
	o.healthy(t)
	stop()
	crowd.Wait()

	for answer, n := range o.answers {
		if !regexp.MustCompile(` (200|201|429|503)$`).MatchString(answer) {
			t.Errorf("%d times %s", n, answer)
		}
	}
	o.recovered(t)
}

// hammer asks for the same again and again, on a connection of its own, until it is told to stop.
func (o *overloaded) hammer(ctx context.Context, t *testing.T, path string, form url.Values) {
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: o.id.TLSConfig()}, Timeout: 30 * time.Second}
	defer hc.CloseIdleConnections()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, o.URLs.MTLS+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Error(err)
			return
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode == http.StatusServiceUnavailable && (err != nil || after < 1) {
			t.Errorf("%s: 503 with Retry-After %q", path, resp.Header.Get("Retry-After"))
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("%s: reading the answer: %v", path, err)
		}
		resp.Body.Close()
		o.mu.Lock()
		o.answers[fmt.Sprint(path, " ", resp.StatusCode)]++
		o.mu.Unlock()
	}
}

// silence connects, and says nothing for as long as it may stay.
func silence(ctx context.Context, addr string) {
	for ctx.Err() == nil {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			continue // refused, as it may be
		}
		gone := context.AfterFunc(ctx, func() { c.Close() })
		_, _ = io.Copy(io.Discard, c)
		gone()
		c.Close()
	}
}

func (o *overloaded) eventually(t *testing.T, answer string) {
	t.Helper()
	pkitest.Eventually(t, time.Minute, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.answers[answer] == 0 {
			return fmt.Errorf("no %s among %v", answer, o.answers)
		}
		return nil
	})
}

// revoke revokes a certificate, and waits until the CRL has it.
func (o *overloaded) revoke(t *testing.T, victim *client.Identity) {
	t.Helper()
	leaf := victim.Certificate().Leaf
	if _, err := o.Operator(t).Revoke(t.Context(), fmt.Sprintf("%032x", leaf.SerialNumber), client.Revocation{Reason: "superseded"}); err != nil {
		t.Fatalf("revoking under load: %v", err)
	}
	pkitest.Eventually(t, time.Minute, func() error {
		resp, err := http.Get(leaf.CRLDistributionPoints[0])
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		list, err := x509.ParseRevocationList(pkitest.ReadAll(t, resp.Body))
		if err != nil {
			return err
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
				return nil
			}
		}
		return fmt.Errorf("CRL %s lacks the certificate", list.Number)
	})
}

// healthy asks, under load, what monitoring and resource servers ask, and for memory within a bound. This process is
// the crowd as well.
func (o *overloaded) healthy(t *testing.T) {
	t.Helper()
	ops := "http://" + o.Config.Listen.Ops
	for _, path := range []string{"/healthz", "/readyz"} {
		if resp := o.get(t, http.DefaultClient, ops+path); resp != "200" {
			t.Errorf("%s answers %s", path, resp)
		}
	}
	resp, err := http.Get(ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics := string(pkitest.ReadAll(t, resp.Body))
	held := regexp.MustCompile(`(?m)^go_memory_bytes (\d+)$`).FindStringSubmatch(metrics)
	if held == nil {
		t.Fatal("the metrics lack go_memory_bytes")
	}
	if n, err := strconv.Atoi(held[1]); err != nil || n > 512<<20 {
		t.Errorf("%s octets of memory are held, %v", held[1], err)
	}
	for _, line := range []string{`pkid_requests_refused_total\{route="oauth.token",`, `pkid_requests_refused_total\{route="certificates.renew",`} {
		if !regexp.MustCompile(`(?m)^` + line + `reason="(queue full|waited)"\} [1-9]`).MatchString(metrics) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	open := regexp.MustCompile(`(?m)^pkid_connections\{listener="public"\} (\d+)$`).FindStringSubmatch(metrics)
	if open == nil {
		t.Fatal("the metrics lack the public listener's connections")
	}
	if n, _ := strconv.Atoi(open[1]); n > o.Config.Limits.Connections {
		t.Errorf("%d connections are open on the public listener", n)
	}
}

func (o *overloaded) get(t *testing.T, hc *http.Client, url string) string {
	t.Helper()
	resp, err := hc.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	pkitest.ReadAll(t, resp.Body)
	return strconv.Itoa(resp.StatusCode)
}

// recovered wants everything to be as if nothing had been.
func (o *overloaded) recovered(t *testing.T) {
	t.Helper()
	pkitest.Eventually(t, time.Minute, func() error {
		if got := o.get(t, o.id.HTTPClient(), o.URLs.Public+"/v1/ca"); got != "200" {
			return fmt.Errorf("the public listener answers %s", got)
		}
		return nil
	})
	wantTokenError(t, o.id, "")
	if err := o.id.Renew(t.Context(), client.RenewOptions{}); err != nil {
		t.Errorf("renewing after all of it: %v", err)
	}
	o.Enrol(t, client.InvitationRequest{ClientID: "newcomer"})
}
