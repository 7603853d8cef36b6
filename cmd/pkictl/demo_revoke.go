package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
)

// patience is how long after its revocation a certificate may still work anywhere.
const patience = time.Second

// pollPause is between two questions.
const pollPause = 10 * time.Millisecond

var revocationAct = act{
	title: "A revoked certificate stops working everywhere within a second",
	text:  "The owner's certificate is revoked. Its token is still minutes from its expiry.",
	play: func(ctx context.Context, d *demo) error {
		owner, err := d.enrol(ctx, client.InvitationRequest{ClientID: d.name("leaver"), Resources: []string{d.rs.url}})
		if err != nil {
			return err
		}
		reader, err := d.register(ctx, client.ClientRecord{ID: d.name("reader"), Introspect: true})
		if err != nil {
			return err
		}
		source, err := d.source(client.TokenConfig{Identity: owner})
		if err != nil {
			return err
		}
		token, err := source.Token(ctx)
		if err != nil {
			return err
		}
		places, err := d.places(ctx, owner, reader, token.AccessToken)
		if err != nil {
			return err
		}
		for _, p := range places {
			if err := d.step(step{title: p.name + ", before", request: p.request, why: p.before, run: func() (fmt.Stringer, error) {
				answer, refused, err := p.ask(ctx)
				if err == nil && refused {
					err = errors.New("it refuses already")
				}
				return text(answer), err
			}}); err != nil {
				return err
			}
		}
		return d.revoke(ctx, owner, places)
	},
}

// place is somewhere that has to refuse a revoked certificate.
type place struct {
	name, request, before, after string
	ask                          func(context.Context) (answer string, refused bool, err error)
}

func (d *demo) places(ctx context.Context, owner *client.Identity, reader *client.ClientRecord, token string) ([]place, error) {
	issuing, err := issuers(ctx, d.ca)
	if err != nil {
		return nil, err
	}
	serial := owner.Certificate().Leaf.SerialNumber
	urls := d.ca.Info().URLs
	return []place{
		{
			"the token endpoint", "POST " + urls.MTLS + "/oauth/token  with the owner's certificate",
			"the certificate is good", "no new token for it",
			func(ctx context.Context) (string, bool, error) { return d.askToken(ctx, owner) },
		},
		{
			"introspection", "POST " + urls.Public + "/oauth/introspect  token=" + short(token),
			"the token is good", "its tokens end with it, before they expire",
			func(ctx context.Context) (string, bool, error) { return d.introspect(ctx, reader, token) },
		},
		{
			"the resource server's verifier", "GET " + d.rs.url + guarded + "\nAuthorization: Bearer " + short(token) + "\nwith the owner's certificate",
			"the certificate is the token's", "the verifier asks a crl.Checker, which polls the CRL",
			func(ctx context.Context) (string, bool, error) { return d.askVerifier(ctx, owner, token) },
		},
		{
			"the CRL", "GET " + issuing[0].url,
			"its serial is not on the list", "nginx, openssl and everybody else can read it there",
			func(ctx context.Context) (string, bool, error) { return askCRL(ctx, issuing[0], serial) },
		},
	}, nil
}

// revoke revokes, and asks everywhere at once, again and again, until the answer is no.
func (d *demo) revoke(ctx context.Context, owner *client.Identity, places []place) error {
	serial := fmt.Sprintf("%032x", owner.Certificate().Leaf.SerialNumber)
	var at time.Time
	if err := d.step(step{
		title: "an operator revokes the certificate", request: "POST /v1/certificates/" + serial + "/revoke  {\"reason\": \"keyCompromise\"}",
		why: "the answer comes when the revocation is durable; the clock starts here",
		run: func() (fmt.Stringer, error) {
			c, err := d.api.Revoke(ctx, serial, client.Revocation{Reason: "keyCompromise"})
			at = time.Now()
			if err != nil {
				return nil, err
			}
			return text("200 OK  status " + c.Status), nil
		},
	}); err != nil {
		return err
	}
	type outcome struct {
		answer string
		after  time.Duration
		err    error
	}
	outcomes := make([]outcome, len(places))
	ctx, cancel := context.WithDeadline(ctx, at.Add(5*patience))
	defer cancel()
	var all sync.WaitGroup
	for i, p := range places {
		all.Go(func() {
			o := &outcomes[i]
			for refused := false; !refused && o.err == nil; {
				o.answer, refused, o.err = p.ask(ctx)
				o.after = time.Since(at)
				time.Sleep(pollPause)
			}
			if o.err == nil && o.after > patience {
				o.err = fmt.Errorf("that is more than %s", patience)
			}
		})
	}
	all.Wait()
	for i, p := range places {
		o := outcomes[i]
		if err := d.step(step{title: p.name + ", after", request: p.request, why: p.after, run: func() (fmt.Stringer, error) {
			return text(fmt.Sprintf("%s\nafter %s", o.answer, o.after.Round(time.Millisecond))), o.err
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) askToken(ctx context.Context, owner *client.Identity) (string, bool, error) {
	source, err := d.source(client.TokenConfig{Identity: owner})
	if err != nil {
		return "", false, err
	}
	_, err = source.Token(ctx)
	if e, ok := errors.AsType[*client.TokenError](err); ok && e.Code == "invalid_client" {
		return fmt.Sprintf("%d %s", e.Status, e), true, nil
	}
	return "200 OK", false, err
}

func (d *demo) introspect(ctx context.Context, reader *client.ClientRecord, token string) (string, bool, error) {
	form := strings.NewReader(url.Values{"token": {token}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.ca.Info().URLs.Public+"/oauth/introspect", form)
	if err != nil {
		return "", false, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(reader.ID), url.QueryEscape(reader.Secret))
	hc := trusting(d.ca.Roots())
	defer hc.CloseIdleConnections()
	resp, err := hc.Do(req)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", false, err
	}
	var status struct {
		Active *bool `json:"active"`
	}
	if err := json.Unmarshal(body, &status); err != nil || status.Active == nil {
		return "", false, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return fmt.Sprintf("200 OK  {\"active\": %t, ...}", *status.Active), !*status.Active, nil
}

func (d *demo) askVerifier(ctx context.Context, owner *client.Identity, token string) (string, bool, error) {
	hc := owner.HTTPClient()
	defer hc.CloseIdleConnections()
	a, err := get(ctx, hc, d.rs.url+guarded, "Authorization", "Bearer "+token)
	if err != nil {
		return "", false, err
	}
	return a.String(), a.want(http.StatusUnauthorized, "invalid_token") == nil, nil
}

func askCRL(ctx context.Context, i issuer, serial *big.Int) (string, bool, error) {
	der, err := download(ctx, i.url)
	if err != nil {
		return "", false, err
	}
	list, err := crl.ParseAndVerify(der, i.cert, i.url, time.Now())
	if err != nil {
		return "", false, err
	}
	e, found := list.Lookup(serial)
	if !found {
		return fmt.Sprintf("200 OK  CRL %d does not list it", list.Number), false, nil
	}
	return fmt.Sprintf("200 OK  CRL %d lists it: %s", list.Number, crl.ReasonName(e.Reason)), true, nil
}
