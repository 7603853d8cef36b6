package tokenbind

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

const maxToken = 16 << 10 // octets

// requestRules are the checks of a request, its token and its certificate. A failure is invalid_token unless
// the rule says otherwise. Those of the token and the configuration alone are judged once: see recall.
var requestRules = []rule[*request]{
	{"forwarded certificate", "RFC 8705 6.5", 0, (*request).judgeForwarded},
	{"no token in the query", "FAPI 2.0 5.3.4", 0, (*request).judgeQuery},
	{"authorization", "RFC 9449 7.2", needed, (*request).judgeAuthorization},
	{"token form", "RFC 7519 7.2", needed | once, (*request).judgeForm},
	{"token typ", "RFC 9068 4", once, (*request).judgeType},
	{"token alg", "RFC 8725 3.1", needed | once, (*request).judgeAlgorithm},
	{"token crit", "RFC 7515 4.1.11", once, (*request).judgeCritical},
	{"token iss", "RFC 9068 4", once, (*request).judgeIssuer},
	{"token signature", "RFC 9068 4", once, (*request).judgeSignature},
	{"token aud", "RFC 9068 4", once, (*request).judgeAudience},
	{"token lifetime", "RFC 9068 4", 0, (*request).judgeLifetime},
	{"token claims", "RFC 9068 2.2", once, (*request).judgeClaims},
	{"cnf", "RFC 7800 3.1", needed | once, (*request).judgeConfirmation},
	{"binding", "RFC 9449 7.2", 0, (*request).judgeBinding},
	{CheckCertificate, "RFC 8705 3", 0, (*request).judgeCertificate},
	{"certificate validity", "RFC 8705 7.5", 0, (*request).judgeValidity},
	{"certificate revocation", "FAPI 2.0 5.3.4", 0, (*request).judgeRevocation},
	{"token revocation", "FAPI 2.0 5.3.4", 0, (*request).judgeTokenStatus},
}

// standingRules are those of them that may hold at first and fail later.
var standingRules = []rule[*request]{
	{"forwarded certificate", "RFC 8705 6.5", 0, (*request).judgeForwarded},
	{"token lifetime", "RFC 9068 4", 0, (*request).judgeLifetime},
	{CheckCertificate, "RFC 8705 3", 0, (*request).judgeCertificate},
	{"certificate validity", "RFC 8705 7.5", 0, (*request).judgeValidity},
	{"certificate revocation", "FAPI 2.0 5.3.4", 0, (*request).judgeRevocation},
	{"token revocation", "FAPI 2.0 5.3.4", 0, (*request).judgeTokenStatus},
}

// CheckCertificate is the name of the check whether the client showed the certificate that its token is bound to.
const CheckCertificate = "certificate"

var scopeRules = []rule[*request]{
	{"scope", "RFC 6750 3.1", 0, (*request).judgeScope},
}

func (q *request) judgeQuery() finding {
	if raw := q.r.URL.RawQuery; !strings.Contains(raw, "%") && !strings.Contains(raw, "access_token") {
		return pass("")
	}
	if query, _ := url.ParseQuery(q.r.URL.RawQuery); query.Has("access_token") {
		return fail("access_token in the query", "a token in the Authorization header").
			because("what stands in an URL ends up in logs: treat the token as disclosed").as(CodeInvalidRequest)
	}
	return pass("")
}

func (q *request) judgeAuthorization() finding {
	values := q.r.Header.Values("Authorization")
	if len(values) > 1 {
		return fail(fmt.Sprintf("%d Authorization headers", len(values)), "one").as(CodeInvalidRequest)
	}
	noToken := fail("", "an access token").because("send Authorization: Bearer or DPoP").as(codeNoCredentials)
	if len(values) == 0 {
		return noToken
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	switch {
	case strings.EqualFold(scheme, schemeBearer):
		q.scheme = schemeBearer
	case strings.EqualFold(scheme, schemeDPoP):
		q.scheme = schemeDPoP
	default:
		return noToken
	}
	q.token = strings.TrimLeft(token, " ")
	if q.recall(); !q.known() && !token68(q.token) {
		scheme, q.scheme = q.scheme, "" // perhaps both schemes in one header
		return fail("something else after "+scheme, "one token").as(CodeInvalidRequest)
	}
	return pass(q.scheme)
}

// token68 of RFC 9110 section 11.2.
func token68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !token68Octets[s[i]] {
			return false
		}
	}
	return s != ""
}

// token68Octets is a table because every octet of every token is looked at.
var token68Octets = func() (table [256]bool) {
	for c := range table {
		table[c] = unreserved(byte(c)) || c == '+' || c == '/'
	}
	return table
}()

func (q *request) judgeForm() finding {
	if len(q.token) > maxToken {
		return fail(fmt.Sprintf("%d octets", len(q.token)), fmt.Sprintf("at most %d", maxToken))
	}
	var err error
	if q.jws, err = jws.Parse(q.token, nil); err != nil {
		return fail("", "a signed JWT").because(jws.Short(err.Error())).from(err)
	}
	return pass("")
}

func (q *request) judgeType() finding {
	typ, _ := q.jws.Header["typ"].(string)
	if strings.EqualFold(typ, "at+jwt") || strings.EqualFold(typ, "application/at+jwt") { // RFC 7515 section 4.1.9
		return pass(typ)
	}
	return fail(jws.Show(q.jws.Header["typ"]), `"at+jwt"`).because("only access tokens are taken, not ID tokens or assertions")
}

func (q *request) judgeAlgorithm() finding {
	alg, _ := q.jws.Header["alg"].(string)
	i := slices.Index(q.v.conf.Algorithms, alg)
	if i < 0 {
		return fail(jws.Show(q.jws.Header["alg"]), "one of "+strings.Join(q.v.conf.Algorithms, " "))
	}
	q.alg = q.v.conf.Algorithms[i] // not the header's own text, which would be kept in memory for it
	return pass(alg)
}

func (q *request) judgeCritical() finding {
	if _, found := q.jws.Header["crit"]; found {
		return fail("a crit header", "none").because("no extension is understood here")
	}
	return pass("")
}

func (q *request) judgeIssuer() finding {
	if iss := q.jws.Claims["iss"]; iss != q.v.conf.Issuer {
		return fail(jws.Show(iss), q.v.conf.Issuer).because("the token is from another issuer, or the issuer's URL is written differently here")
	}
	q.claims.Issuer = q.v.conf.Issuer
	return pass(q.claims.Issuer)
}

func (q *request) judgeSignature() finding {
	if q.t.first != nil && q.claims.Issuer == "" {
		return notApplicable("not reached: another issuer's keys are not known")
	}
	if v, found := q.jws.Header["kid"]; found {
		var ok bool
		if q.kid, ok = v.(string); !ok {
			return fail("kid: "+jws.Show(v), "a string")
		}
	}
	keys, err := q.v.keys.Keys(q.ctx, q.kid)
	if err != nil {
		return fail("", "the issuer's keys").because("they cannot be had at the moment").from(err).as(codeUnavailable)
	}
	for _, k := range keys {
		if !k.usable(q.alg) {
			continue
		}
		if err = q.jws.Verify(q.alg, k.Key); err == nil {
			q.key = k.Key
			return q.t.pass(func() string { return "kid " + k.ID })
		}
	}
	if err == nil { // none was tried
		return fail("kid "+jws.Show(q.kid), "one of the issuer's keys for "+q.alg).
			because("the issuer has withdrawn the key, or the token is from another")
	}
	return fail("", "a signature by the issuer").from(err)
}

func (q *request) judgeAudience() finding {
	aud, ok := jws.StringList(q.jws.Claims["aud"])
	if !ok || !slices.Contains(aud, q.v.conf.Audience) {
		return fail(strings.Join(aud, " "), q.v.conf.Audience).because("the token is for another server: ask for one with this resource")
	}
	q.claims.Audience = aud
	return pass(q.v.conf.Audience)
}

// judgeLifetime looks at the clock on every request, at the claims once.
func (q *request) judgeLifetime() finding {
	if !q.known() {
		if f := q.readTimes(); f.failed() {
			return f
		}
	}
	if end := q.claims.ExpiresAt.Add(q.v.tolerance); !q.now.Before(end) {
		q.forget()
		return fail("expired "+q.now.Sub(q.claims.ExpiresAt).Round(time.Second).String()+" ago", "a token that is still valid").
			because("the token has expired: get a new one; if it is new, the clock here is fast, or the issuer's slow, by at least that")
	}
	for _, from := range []time.Time{q.claims.NotBefore, q.claims.IssuedAt} {
		if from.After(q.now.Add(q.v.tolerance)) {
			ahead := from.Sub(q.now).Round(time.Second).String()
			return fail("valid in "+ahead, "a token that is valid now").because("the clock here is slow, or the issuer's fast, by about " + ahead)
		}
	}
	return q.t.pass(func() string { return "until " + q.claims.ExpiresAt.UTC().Format(time.RFC3339) })
}

func (q *request) readTimes() finding {
	for _, c := range []struct {
		claim    string
		to       *time.Time
		required bool
	}{{"exp", &q.claims.ExpiresAt, true}, {"nbf", &q.claims.NotBefore, false}, {"iat", &q.claims.IssuedAt, false}} {
		v, found := q.jws.Claims[c.claim]
		if !found && !c.required {
			continue
		}
		var ok bool
		if *c.to, ok = jws.NumericDate(v); !ok {
			return fail(c.claim+": "+jws.Show(v), "a number of seconds")
		}
	}
	return pass("")
}

func (q *request) judgeClaims() finding {
	q.claims.Raw = q.jws.Claims
	var scope string
	for _, c := range []struct {
		name string
		to   *string
	}{{"sub", &q.claims.Subject}, {"client_id", &q.claims.ClientID}, {"jti", &q.claims.ID}, {"scope", &scope}} {
		v, found := q.jws.Claims[c.name]
		var ok bool
		if *c.to, ok = v.(string); found && !ok {
			return fail(c.name+": "+jws.Show(v), "a string")
		}
	}
	q.claims.Scope = strings.Fields(scope)
	return pass("")
}

// judgeConfirmation reads cnf. A member that is not known, alone, refuses the token: it demands a proof that
// is not understood here. Beside a known one it is ignored, as RFC 7800 section 3.1 has it.
func (q *request) judgeConfirmation() finding {
	v, found := q.jws.Claims["cnf"]
	if !found {
		return notApplicable("the token has none")
	}
	cnf, ok := v.(map[string]any)
	if !ok {
		return fail(jws.Show(v), "an object")
	}
	var c Confirmation
	var err error
	if c.Cert, err = confirm(cnf, "x5t#S256", thumbprint.ParseCert); err == nil {
		c.Key, err = confirm(cnf, "jkt", thumbprint.ParseKey)
	}
	if err != nil {
		return fail(err.Error(), "43 characters of unpadded base64url").from(err)
	}
	if c.IsZero() {
		return fail("no member that is known here", "x5t#S256 or jkt")
	}
	q.claims.Confirmation = c
	return pass("")
}

// confirm reads one member of cnf, zero if it is absent. The zero thumbprint itself is an error: nothing has
// it, and it must not be taken for an absent one.
func confirm[T interface{ IsZero() bool }](cnf map[string]any, name string, parse func(string) (T, error)) (T, error) {
	var zero T
	v, found := cnf[name]
	if !found {
		return zero, nil
	}
	s, _ := v.(string)
	t, err := parse(s)
	if err != nil || t.IsZero() {
		return zero, fmt.Errorf("%s: %s", name, jws.Show(v))
	}
	return t, nil
}

// judgeBinding holds the scheme against the token, so that a bound token is never taken for a bearer token.
func (q *request) judgeBinding() finding {
	c := q.claims.Confirmation
	switch {
	case !c.Key.IsZero() && q.scheme != schemeDPoP:
		return fail("a DPoP-bound token with the Bearer scheme", "the DPoP scheme and a proof")
	case !c.Key.IsZero() && q.v.conf.NoDPoP:
		return fail("a DPoP-bound token", "one that is bound to a certificate").because("this server takes no DPoP proofs")
	case c.Key.IsZero() && q.scheme == schemeDPoP:
		return fail("the DPoP scheme", "a token that is bound to a DPoP key").because("this token is bound to no DPoP key: send it with the Bearer scheme")
	case c.IsZero() && !q.v.conf.AllowBearer:
		return fail("a token that is bound to nothing", "one that is bound to a certificate or a DPoP key")
	}
	return pass("")
}

func (q *request) judgeScope() finding {
	if len(q.v.conf.RequiredScopes) == 0 {
		return notApplicable("no scope is required")
	}
	for _, s := range q.v.conf.RequiredScopes {
		if !slices.Contains(q.claims.Scope, s) {
			return fail(strings.Join(q.claims.Scope, " "), strings.Join(q.v.conf.RequiredScopes, " ")).
				because("ask for a token with this scope, which the client's record must allow")
		}
	}
	return q.t.pass(func() string { return strings.Join(q.claims.Scope, " ") })
}
