package authserver

import (
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// ErrClientMetadata reports a client record that cannot be: "invalid_client_metadata" of RFC 7591 section
// 3.2.2. Its wrapped text says what is wrong.
var ErrClientMetadata = errors.New("invalid client metadata")

// Bounds on a client's record.
const (
	maxClientID  = 128
	maxScopes    = 100
	maxScope     = 128 // octets of one scope
	maxResources = 32
	maxURI       = 2048
	maxGrant     = 6 << 10 // octets of all scopes and resources, so that a token for all of them stays below maxToken
	maxJWKS      = 64 << 10
	maxKeys      = 32
)

// Subject picks the one name that identifies a tls_client_auth client (RFC 8705 section 2.1.2) out of what a
// registration request said. The error is ErrClientMetadata unless exactly one is set.
func Subject(names map[SubjectKind]string) (SubjectKind, string, error) {
	var kind SubjectKind
	for k, name := range names {
		switch {
		case name == "":
		case kind != "":
			return "", "", invalid("a client has exactly one of %s, %s, %s, %s and %s", SubjectDN, SANDNS, SANURI, SANIP, SANEmail)
		default:
			kind = k
		}
	}
	if kind == "" {
		return "", "", invalid("tls_client_auth needs one of %s, %s, %s, %s and %s", SubjectDN, SANDNS, SANURI, SANIP, SANEmail)
	}
	return kind, names[kind], nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrClientMetadata, fmt.Sprintf(format, args...))
}

// validate refuses a record that could not work, or that would do less than it seems to.
func (c *Client) validate() error {
	if err := validID(c.ID); err != nil {
		return err
	}
	for _, check := range []func() error{c.validateSubject, c.validateKeys, c.validateSecret, c.validateScopes, c.validateResources, c.Nonce.validate, c.Profile.validate} {
		if err := check(); err != nil {
			return err
		}
	}
	if c.DPoP && c.InsecureBearer {
		return invalid("dpop_bound_access_tokens and insecure_bearer exclude each other")
	}
	return c.Profile.admit(c)
}

// validID accepts the characters of RFC 6749 appendix A.1.
func validID(id string) error {
	if id == "" || len(id) > maxClientID || strings.TrimSpace(id) != id {
		return invalid("a client_id has 1 to %d characters and no space at its ends", maxClientID)
	}
	if strings.ContainsFunc(id, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return invalid("a client_id has printable ASCII characters only")
	}
	return nil
}

func (c *Client) validateSubject() error {
	if c.Auth != TLSClientAuth {
		if c.SubjectKind != "" || c.Subject != "" {
			return invalid("a certificate subject goes with %s, not with %s", TLSClientAuth, c.Auth)
		}
		return nil
	}
	if len(c.Subject) > maxURI {
		return invalid("%s is longer than %d octets", c.SubjectKind, maxURI)
	}
	var err error
	switch c.SubjectKind {
	case SubjectDN:
		_, err = parseDN(c.Subject)
	case SANDNS:
		err = exactDNS(c.Subject)
	case SANURI:
		var u *url.URL
		if u, err = url.Parse(c.Subject); err == nil && (!u.IsAbs() || u.String() != c.Subject) {
			err = errors.New("want an absolute URI in its normal form")
		}
	case SANIP:
		var addr netip.Addr
		if addr, err = netip.ParseAddr(c.Subject); err == nil && addr.Zone() != "" {
			err = errors.New("an address in a certificate has no zone")
		}
	case SANEmail:
		var a *mail.Address
		if a, err = mail.ParseAddress(c.Subject); err == nil && a.Address != c.Subject {
			err = errors.New("want an address and nothing else")
		}
	default:
		_, _, err := Subject(nil)
		return err
	}
	if err != nil {
		return invalid("%s %q: %v", c.SubjectKind, c.Subject, err)
	}
	return nil
}

// exactDNS accepts host names. A wildcard stands for many names, and a client has one.
func exactDNS(name string) error {
	ok := len(name) <= 253
	for label := range strings.SplitSeq(strings.ToLower(name), ".") {
		ok = ok && label != "" && len(label) <= 63 && strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
	}
	if !ok {
		return errors.New("want a DNS name without wildcard or trailing dot")
	}
	return nil
}

func (c *Client) validateKeys() error {
	takesKeys := c.Auth == SelfSignedTLSClientAuth || c.Auth == PrivateKeyJWT
	switch hasSet, hasURI := len(c.JWKS) > 0, c.JWKSURI != ""; {
	case !takesKeys && (hasSet || hasURI):
		return invalid("jwks and jwks_uri go with %s and %s, not with %s", SelfSignedTLSClientAuth, PrivateKeyJWT, c.Auth)
	case takesKeys && hasSet == hasURI:
		return invalid("%s needs exactly one of jwks and jwks_uri", c.Auth)
	case hasURI:
		return validKeyURI(c.JWKSURI)
	case !hasSet:
		return nil
	}
	keys, err := parseKeySet(c.JWKS, nil)
	if err != nil {
		return invalid("jwks: %v", err)
	}
	certified := func(k clientKey) bool { return k.cert != nil }
	if c.Auth == SelfSignedTLSClientAuth && !slices.ContainsFunc(keys, certified) {
		return invalid("%s needs a key with its certificate in x5c (RFC 8705 section 2.2.2)", c.Auth)
	}
	return nil
}

// validKeyURI accepts https alone (FAPI 2.0 section 5.4.1 item 5): who can change the answer is the client.
func validKeyURI(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(s) > maxURI {
		return invalid("jwks_uri %q is no https URL", s)
	}
	return nil
}

func (c *Client) validateSecret() error {
	hash, sealed := len(c.SecretHash) > 0, len(c.SealedSecret) > 0
	switch c.Auth {
	case ClientSecretBasic, ClientSecretPost:
		if !hash || sealed {
			return invalid("%s needs a secret of its own; add the client anew to change its authentication method", c.Auth)
		}
	case ClientSecretJWT:
		if hash || !sealed {
			return invalid("%s needs a secret of its own; add the client anew to change its authentication method", c.Auth)
		}
	case TLSClientAuth, SelfSignedTLSClientAuth, PrivateKeyJWT:
		if hash || sealed {
			return invalid("%s takes no secret", c.Auth)
		}
	default:
		return invalid("token_endpoint_auth_method %q is not one of %v", c.Auth, authMethods)
	}
	return nil
}

func (c *Client) validateScopes() error {
	if len(c.Scopes) > maxScopes {
		return invalid("more than %d scopes", maxScopes)
	}
	for _, s := range c.Scopes {
		if !validScope(s) {
			return invalid("scope %q: want 1 to %d printable ASCII characters without space, quote and backslash", s, maxScope)
		}
	}
	return nil
}

// validScope is the scope-token of RFC 6749 section 3.3.
func validScope(s string) bool {
	return s != "" && len(s) <= maxScope && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= 0x20 || r > 0x7e || r == '"' || r == '\\'
	})
}

func (c *Client) validateResources() error {
	if len(c.Resources) > maxResources {
		return invalid("more than %d resources", maxResources)
	}
	for _, r := range c.Resources {
		if !validResource(r) {
			return invalid("resource %q: want an absolute URI without fragment (RFC 8707 section 2)", r)
		}
	}
	if n := len(strings.Join(c.Resources, "")) + len(strings.Join(c.Scopes, "")); n > maxGrant {
		return invalid("scopes and resources of %d octets together: at most %d, or a token for all of them would be too long", n, maxGrant)
	}
	return nil
}

func validResource(s string) bool {
	u, err := url.Parse(s)
	return err == nil && len(s) <= maxURI && u.IsAbs() && !strings.Contains(s, "#")
}
