package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

var bearerAct = act{
	title: "A bearer token works for whoever holds it",
	text:  "A client gets a token that is bound to nothing, which pkid gives only to clients added with --insecure-bearer.",
	play: func(ctx context.Context, d *demo) error {
		c, err := d.register(ctx, client.ClientRecord{ID: d.name("bearer"), Bearer: true, Resources: []string{d.rs.url}})
		if err != nil {
			return err
		}
		source, err := d.source(client.TokenConfig{ClientID: c.ID, Secret: c.Secret})
		if err != nil {
			return err
		}
		token, err := d.fetch(ctx, source, grant{
			auth: "client_secret_basic", shown: "no cnf", why: "the client proved that it knows a secret; there is no key to bind to",
			bound: tokenbind.Confirmation.IsZero,
		})
		if err != nil {
			return err
		}
		return d.step(step{
			title:   "a thief uses the stolen token",
			request: "GET " + d.rs.url + careless + "\nAuthorization: Bearer " + short(token),
			why:     "whoever shows a bearer token is taken for its owner (RFC 6750)",
			run: func() (fmt.Stringer, error) {
				return d.expect(ctx, trusting(d.ca.Roots()), careless, http.StatusOK, "", "Authorization", "Bearer "+token)
			},
		})
	},
}

var certificateAct = act{
	title: "A certificate-bound token works for its owner alone",
	text:  "RFC 8705: the token carries the SHA-256 of the certificate it was given to, and every server compares.",
	play: func(ctx context.Context, d *demo) error {
		owner, err := d.enrol(ctx, client.InvitationRequest{ClientID: d.name("owner"), Resources: []string{d.rs.url}})
		if err != nil {
			return err
		}
		source, err := d.source(client.TokenConfig{Identity: owner})
		if err != nil {
			return err
		}
		x5t := thumbprint.OfCertificate(owner.Certificate().Leaf)
		token, err := d.fetch(ctx, source, grant{
			auth: "tls_client_auth", shown: `cnf {"x5t#S256": "` + x5t.String() + `"}`, why: "it is bound to the certificate that the client showed",
			bound: func(cnf tokenbind.Confirmation) bool { return cnf.Cert.Equal(x5t) },
		})
		if err != nil {
			return err
		}
		request := "GET " + d.rs.url + guarded + "\nAuthorization: Bearer " + short(token) + "\ncertificate "
		if err := d.step(step{
			title: "the owner uses it", request: request + x5t.String(),
			why: "the certificate of the connection is the token's (RFC 8705 section 3)",
			run: func() (fmt.Stringer, error) {
				return d.expect(ctx, source.Client(), guarded, http.StatusOK, "")
			},
		}); err != nil {
			return err
		}
		return d.stolenFromCertificate(ctx, token, request, x5t)
	},
}

// stolenFromCertificate tries an owner's token without a certificate, and with another one of the same CA.
func (d *demo) stolenFromCertificate(ctx context.Context, token, request string, owner thumbprint.Cert) error {
	thief, err := d.enrol(ctx, client.InvitationRequest{ClientID: d.name("thief")})
	if err != nil {
		return err
	}
	if err := d.step(step{
		title: "a thief uses the stolen token", request: request + "none",
		why: "a bound token is never taken as a bearer token",
		run: func() (fmt.Stringer, error) {
			return d.expect(ctx, trusting(d.ca.Roots()), guarded, http.StatusUnauthorized, "invalid_token", "Authorization", "Bearer "+token)
		},
	}); err != nil {
		return err
	}
	own := thumbprint.OfCertificate(thief.Certificate().Leaf)
	return d.step(step{
		title: "a thief with a certificate of the same CA uses it", request: request + own.String(),
		why: fmt.Sprintf("the thumbprints differ:\nin the token    %s\nthe thief's     %s", owner, own),
		run: func() (fmt.Stringer, error) {
			return d.expect(ctx, thief.HTTPClient(), guarded, http.StatusUnauthorized, "invalid_token", "Authorization", "Bearer "+token)
		},
	})
}

var dpopAct = act{
	title: "A DPoP-bound token, for clients without a certificate",
	text:  "RFC 9449: the token carries the thumbprint of a key, and each request a fresh proof signed with it.",
	play: func(ctx context.Context, d *demo) error {
		c, err := d.register(ctx, client.ClientRecord{ID: d.name("dpop"), DPoP: true, Resources: []string{d.rs.url}})
		if err != nil {
			return err
		}
		key, err := client.NewKey("P-256")
		if err != nil {
			return err
		}
		owner, err := tokenbind.NewProver(key)
		if err != nil {
			return err
		}
		source, err := d.source(client.TokenConfig{ClientID: c.ID, Secret: c.Secret, DPoPKey: key})
		if err != nil {
			return err
		}
		jkt := owner.Key()
		token, err := d.fetch(ctx, source, grant{
			auth: "client_secret_basic, with a DPoP proof", shown: `cnf {"jkt": "` + jkt.String() + `"}`, why: "it is bound to the key that signed the proof",
			bound: func(cnf tokenbind.Confirmation) bool { return cnf.Key.Equal(jkt) && cnf.Cert.IsZero() },
		})
		if err != nil {
			return err
		}
		return d.proofs(ctx, token, owner)
	},
}

// proofs plays the owner's request and three thefts of it.
func (d *demo) proofs(ctx context.Context, token string, owner *tokenbind.Prover) error {
	url := d.rs.url + guarded
	proof, err := owner.Proof(http.MethodGet, url, tokenbind.ProofOptions{AccessToken: token})
	if err != nil {
		return err
	}
	key, err := client.NewKey("P-256")
	if err != nil {
		return err
	}
	thief, err := tokenbind.NewProver(key)
	if err != nil {
		return err
	}
	forged, err := thief.Proof(http.MethodGet, url, tokenbind.ProofOptions{AccessToken: token})
	if err != nil {
		return err
	}
	for _, s := range []struct {
		title, scheme, proof, code, why string
		status                          int
	}{
		{"the owner uses it", "DPoP", proof, "", "the proof is signed with the token's key, for this method, URL and token, just now (section 4.3)", http.StatusOK},
		{"a thief uses the stolen token as a bearer token", "Bearer", "", "invalid_token", "a server must refuse a DPoP-bound token that comes as Bearer (section 7.2)", http.StatusUnauthorized},
		{"a thief signs a proof with another key", "DPoP", forged, "invalid_token", fmt.Sprintf("the keys differ:\nin the token    %s\nthe thief's     %s", owner.Key(), thief.Key()), http.StatusUnauthorized},
		{"a thief replays the owner's whole request", "DPoP", proof, "invalid_dpop_proof", "a proof is good once: its jti was seen before (section 11.1)", http.StatusUnauthorized},
	} {
		headers := []string{"Authorization", s.scheme + " " + token}
		request := "GET " + url + "\nAuthorization: " + s.scheme + " " + short(token)
		if s.proof != "" {
			headers = append(headers, "DPoP", s.proof)
			request += "\nDPoP: " + short(s.proof)
		}
		if err := d.step(step{title: s.title, request: request, why: s.why, run: func() (fmt.Stringer, error) {
			return d.expect(ctx, trusting(d.ca.Roots()), guarded, s.status, s.code, headers...)
		}}); err != nil {
			return err
		}
	}
	return nil
}

// source is a token source for the demo's resource server.
func (d *demo) source(c client.TokenConfig) (*client.TokenSource, error) {
	c.Issuer, c.Roots, c.Resource = d.ca.Info().URLs.Public, d.ca.Roots(), d.rs.url
	return client.NewTokenSource(c)
}

// grant is a step that gets a token, and what the token must be bound to.
type grant struct {
	auth, shown, why string
	bound            func(tokenbind.Confirmation) bool
}

func (d *demo) fetch(ctx context.Context, source *client.TokenSource, g grant) (string, error) {
	var token *client.Token
	err := d.step(step{
		title:   "the owner gets a token",
		request: "POST /oauth/token  grant_type=client_credentials  (" + g.auth + ")",
		why:     g.why,
		run: func() (fmt.Stringer, error) {
			var err error
			if token, err = source.Token(ctx); err != nil {
				return nil, err
			}
			cnf, err := confirmationOf(token.AccessToken)
			if err == nil && !g.bound(cnf) {
				err = fmt.Errorf("the token's cnf is %+v", cnf)
			}
			return text(fmt.Sprintf("200 OK  token_type %s, %s", token.Type, g.shown)), err
		},
	})
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}

// expect calls the resource server and compares the answer with the story.
func (d *demo) expect(ctx context.Context, hc *http.Client, path string, status int, code string, headers ...string) (fmt.Stringer, error) {
	defer hc.CloseIdleConnections()
	a, err := get(ctx, hc, d.rs.url+path, headers...)
	if err != nil {
		return nil, err
	}
	return a, a.want(status, code)
}
