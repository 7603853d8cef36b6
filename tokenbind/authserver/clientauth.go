package authserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// credentials are what a request authenticates its client with: a secret, an assertion, or, without both,
// the certificate of its connection.
type credentials struct {
	id        string
	method    AuthMethod // ClientSecretBasic or ClientSecretPost; empty with an assertion or a certificate
	secret    string
	assertion *assertion
}

// basicChallenge answers a client that tried HTTP authentication (RFC 6749 section 5.2).
const basicChallenge = `Basic realm="pkid", charset="UTF-8"`

// authenticate finds out which client is calling. It is the same at every endpoint (RFC 8705 section 2), and
// takes only the method of the client's record. The error is a *refusal, or the server cannot decide.
func (s *Server) authenticate(c *call) (*Client, error) {
	cred, err := readCredentials(c)
	c.clientID = cred.id
	if err != nil {
		return nil, err
	}
	client, err := s.c.Registry.Get(c.http.Context(), cred.id)
	if errors.Is(err, ErrNoClient) {
		client = &Client{ID: cred.id} // without a method, so that every check fails, as slowly as for others
	} else if err != nil {
		return nil, fmt.Errorf("reading client %q: %w", cred.id, err)
	}
	switch {
	case cred.assertion != nil:
		err = s.checkAssertion(c, client, cred.assertion)
	case cred.method != "":
		err = checkSecret(client, cred)
	default:
		err = s.checkCertificate(c, client)
	}
	if err != nil {
		return nil, err
	}
	if client.Disabled {
		return nil, invalidClient("client %q was disabled; ask the operator to enable it", client.ID)
	}
	if err := s.checkProfile(client); err != nil {
		return nil, err
	}
	return client, nil
}

// readCredentials sorts out the one method that a request uses (RFC 6749 section 2.3).
func readCredentials(c *call) (credentials, error) {
	id, secret := c.form.Get("client_id"), c.form.Get("client_secret")
	headers := c.http.Header.Values("Authorization")
	hasAssertion := c.form.Has("client_assertion") || c.form.Has("client_assertion_type")
	cred := credentials{id: id}
	if used(len(headers) > 0, secret != "", hasAssertion) > 1 || len(headers) > 1 {
		return cred, invalidRequest("the request authenticates its client in more than one way; use the one that it is registered with")
	}
	var err error
	switch {
	case len(headers) == 1:
		cred, err = readBasic(c.http)
	case secret != "":
		cred.method, cred.secret = ClientSecretPost, secret
	case hasAssertion:
		cred.assertion, err = readAssertion(c.form)
		if err == nil {
			cred.id = cred.assertion.claims.subject
		}
	case c.cert == nil:
		return cred, invalidClient("the request does not authenticate its client: present the client's certificate on the mTLS endpoint, " +
			"or send its secret or an assertion")
	case id == "": // RFC 8705 section 2: the certificate alone does not name the client
		return cred, invalidRequest("a request with a client certificate needs client_id")
	}
	if err != nil {
		return cred, err
	}
	if id != "" && id != cred.id {
		return cred, invalidRequest("client_id %q differs from the client that authenticates, %q", truncate(id, maxClientID), truncate(cred.id, maxClientID))
	}
	if cred.id == "" {
		return cred, invalidRequest("client_id is missing")
	}
	return cred, nil
}

func used(methods ...bool) (n int) {
	for _, m := range methods {
		if m {
			n++
		}
	}
	return n
}

// readBasic reads client_secret_basic, whose two parts are form-encoded (RFC 6749 section 2.3.1).
func readBasic(r *http.Request) (credentials, error) {
	name, password, ok := r.BasicAuth()
	id, err1 := url.QueryUnescape(name)
	secret, err2 := url.QueryUnescape(password)
	if !ok || err1 != nil || err2 != nil {
		unreadable := invalidClient("the Authorization header is not Basic with the form-encoded client_id and secret (RFC 6749 section 2.3.1)")
		unreadable.challenge = basicChallenge
		return credentials{}, unreadable
	}
	return credentials{id: id, method: ClientSecretBasic, secret: secret}, nil
}

// checkSecret compares a secret. Unknown clients, other methods and wrong secrets are answered alike, after
// the same work.
func checkSecret(client *Client, cred credentials) error {
	matches := secretMatches(client.SecretHash, cred.secret)
	if matches && client.Auth == cred.method {
		return nil
	}
	err := failed("registered method %q, used %q, secret matches: %t", client.Auth, cred.method, matches)
	if cred.method == ClientSecretBasic {
		err.challenge = basicChallenge
	}
	return err
}
