package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

const (
	maxBody        = 8 << 20 // of an answer that is read whole
	requestTimeout = 30 * time.Second
)

// newTransport has a bound on every wait that does not depend on what the server has to send.
func newTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  requestTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 1 << 20,
		ForceAttemptHTTP2:      true,
	}
}

// showing returns a configuration that trusts roots and shows one certificate, whatever is renewed meanwhile,
// or none if it is nil. No session is resumed, so each connection shows it anew.
func showing(cert *tls.Certificate, roots *x509.CertPool) *tls.Config {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: tokenbind.CipherSuites(), RootCAs: roots}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return conf
}

// newHTTPClient follows no redirects: pkid sends none, and a secret must not follow one elsewhere.
func newHTTPClient(conf *tls.Config) *http.Client {
	return &http.Client{
		Transport:     newTransport(conf),
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call sends in as JSON, if it is not nil, and decodes the answer into out, if that is not nil. A status
// outside 2xx is a *Problem.
func call(ctx context.Context, hc *http.Client, method, target string, header http.Header, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := hc.Do(req)
	if err != nil {
		return unanswered(req, err)
	}
	defer resp.Body.Close()
	text, err := readBody(resp)
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return problemOf(resp, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", req.URL.Redacted(), err)
	}
	return nil
}

// unreachableError is a connection that could not be made.
type unreachableError struct {
	base  string
	dial  *net.OpError
	whole error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("pkid does not answer at %s: is it running? (pkid serve): %v", e.base, e.dial)
}

func (e *unreachableError) Unwrap() error { return e.whole }

// unanswered says of a connection that was refused, or led nowhere, what that mostly means.
func unanswered(req *http.Request, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && req.Context().Err() == nil {
		return &unreachableError{base: req.URL.Scheme + "://" + req.URL.Host, dial: op, whole: err}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("what answers at %s://%s is not of the CA whose root is trusted here: %w", req.URL.Scheme, req.URL.Host, err)
	}
	return err
}

func readBody(resp *http.Response) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", resp.Request.URL.Redacted(), err)
	}
	if len(text) > maxBody {
		return nil, fmt.Errorf("the answer of %s is larger than %d octets", resp.Request.URL.Redacted(), maxBody)
	}
	return text, nil
}

// problemOf reads a problem document; whatever else answers, such as a proxy, becomes one.
func problemOf(resp *http.Response, text []byte) *Problem {
	p := new(Problem)
	if err := json.Unmarshal(text, p); err != nil || p.Title == "" {
		p = &Problem{Title: fmt.Sprintf("%s answered %s", resp.Request.URL.Host, resp.Status)}
	}
	p.Status = resp.StatusCode
	return p
}

// retry calls f until it succeeds, fails for good, or has been called six times, about 15 s in all.
func retry(ctx context.Context, f func() error) error {
	const attempts, first = 6, 500 * time.Millisecond
	for n := 0; ; n++ {
		err := f()
		if err == nil || n == attempts-1 || !transient(err) {
			return err
		}
		if sleep(ctx, jitter(first<<n, 0.5)) != nil {
			return err
		}
	}
}

// transient reports whether the same request may succeed a little later: the connection failed, or the
// server says that it is at fault or overloaded.
func transient(err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Status >= 500 || p.Status == http.StatusTooManyRequests
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	_, ok := errors.AsType[*url.Error](err)
	return ok && !errors.Is(err, context.Canceled)
}

// jitter returns d changed by at most the given part of it, up or down.
func jitter(d time.Duration, part float64) time.Duration {
	return d + spread(time.Duration(part*float64(d)))
}

// spread returns anything from -d to d.
func spread(d time.Duration) time.Duration {
	return time.Duration((2*rand.Float64() - 1) * float64(d)) // spreads load, hides nothing
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// join appends a path to a base URL.
func join(base, path string) string { return strings.TrimSuffix(base, "/") + path }
