package integration

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var proofModules = []module{
	{"check-dpop-proof-nbf-exp", byDPoP, func(t *testing.T, one, _ *party, _ string) {
		timed := ask{proof: func(_, claims map[string]any) {
			claims["nbf"], claims["exp"] = time.Now().Unix(), time.Now().Add(time.Minute).Unix()
		}}
		one.open("nbf and exp in the proof", one.mustToken(timed), timed)
	}},
	{"dpop-proof-iat-10-seconds-before-and-after", byDPoP, func(t *testing.T, one, _ *party, _ string) {
		for _, ahead := range []time.Duration{-10 * time.Second, 9 * time.Second, 10 * time.Second} {
			late := ask{proof: claim("iat", time.Now().Add(ahead).Unix())}
			one.open("iat", one.mustToken(late), late)
		}
		for _, d := range []time.Duration{-time.Hour, 65 * time.Second, time.Hour} {
			late := ask{proof: claim("iat", time.Now().Add(d).Unix())}
			one.refuses(d.String(), late, "invalid_dpop_proof")
		}
	}},
	{"dpop-negative-tests", byDPoP, func(t *testing.T, one, two *party, token string) {
		for what, a := range badProofs(one, two) {
			one.refuses(what, a, "invalid_dpop_proof")
			one.shut(what, token, a)
		}
		one.shut("no ath", token, ask{proof: claim("ath", nil)})
		one.shut("another token's ath", token, ask{proof: claim("ath", base64.RawURLEncoding.EncodeToString(make([]byte, 32)))})
		one.shut("another key", token, ask{prover: two.proofKey})
		one.shut("as Bearer", token, ask{scheme: "Bearer"})
	}},
	{"dpop-negative-tests: what is allowed", byDPoP, func(t *testing.T, one, _ *party, token string) {
		for what, a := range goodProofs(one) {
			one.open(what, token, a)
		}
	}},
	{"dpop-negative-tests: jti reuse", byDPoP, func(t *testing.T, one, two *party, token string) {
		one.open("a nonce, if one is wanted", token, ask{})
		for what, a := range map[string]ask{"the same proof": {proofs: remember()}, "the same jti": {proof: claim("jti", "fixed-"+one.id)}} {
			one.open(what, token, a)
			one.shut(what+", again", token, a)
		}
		once := ask{proofs: remember()}
		one.mustToken(once)
		one.refuses("the same proof at the token endpoint", once, "invalid_dpop_proof")
		two.mustToken(ask{proof: claim("jti", "fixed-"+one.id)}) // one client's jti is not another's
	}},
}

// remember makes each request send the first one's proof.
func remember() func(string) []string {
	var first string
	return func(proof string) []string {
		if first == "" {
			first = proof
		}
		return []string{first}
	}
}

// badProofs are refused by every server. Each is good but for the one thing (RFC 9449 section 4.3).
func badProofs(one, two *party) map[string]ask {
	bad := map[string]ask{
		"two headers": {proofs: func(p string) []string { return []string{p, p} }},
		"folded":      {proofs: func(p string) []string { return []string{p + "," + p} }},
		"no JWT":      {proofs: func(p string) []string { return []string{strings.ReplaceAll(p, ".", "")} }},
		"two parts":   {proofs: func(p string) []string { return []string{p[:strings.LastIndex(p, ".")]} }},
		"empty":       {proofs: func(string) []string { return []string{""} }},
		"signature": {proofs: func(p string) []string {
			return []string{p[:len(p)-10] + strings.Map(func(r rune) rune {
				if r == 'A' {
					return 'B'
				}
				return 'A'
			}, p[len(p)-10:len(p)-4]) + p[len(p)-4:]}
		}},
		"typ":               {proof: headed("typ", "JWT")},
		"typ of the token":  {proof: headed("typ", "at+jwt")},
		"alg none":          {proof: headed("alg", "none")},
		"alg HS256":         {proof: headed("alg", "HS256")},
		"alg RS256":         {proof: headed("alg", "RS256")},
		"alg of the curve":  {proof: headed("alg", "ES384")},
		"jwk of the other":  {proof: headed("jwk", jose.JSONWebKey{Key: two.proofKey.Public()})},
		"private jwk":       {proof: headed("jwk", jose.JSONWebKey{Key: one.proofKey})},
		"symmetric jwk":     {proof: headed("jwk", jose.JSONWebKey{Key: []byte("secret")})},
		"crit":              {proof: headed("crit", []string{"b64"})},
		"htm":               {proof: claim("htm", http.MethodPut)},
		"htm in lower case": {proof: func(_, claims map[string]any) { claims["htm"] = strings.ToLower(claims["htm"].(string)) }},
		"htu":               {proof: claim("htu", "https://other.example/accounts")},
		"htu with another path": {proof: func(_, claims map[string]any) {
			claims["htu"] = claims["htu"].(string) + "/more"
		}},
		"htu over http": {proof: func(_, claims map[string]any) {
			claims["htu"] = strings.Replace(claims["htu"].(string), "https:", "http:", 1)
		}},
		"iat an hour ago":   {proof: claim("iat", time.Now().Add(-time.Hour).Unix())},
		"iat in an hour":    {proof: claim("iat", time.Now().Add(time.Hour).Unix())},
		"iat that is text":  {proof: claim("iat", "now")},
		"jti that is empty": {proof: claim("jti", "")},
	}
	for _, name := range []string{"typ", "alg", "jwk"} {
		bad["no "+name] = ask{proof: headed(name, nil)}
	}
	for _, name := range []string{"jti", "htm", "htu", "iat"} {
		bad["no "+name] = ask{proof: claim(name, nil)}
	}
	return bad
}

// goodProofs are taken by every server, though unusual.
func goodProofs(one *party) map[string]ask {
	rewritten := func(from, to string) ask {
		return ask{proof: func(_, claims map[string]any) { claims["htu"] = strings.Replace(claims["htu"].(string), from, to, 1) }}
	}
	return map[string]ask{
		"htu with query and fragment": rewritten("/accounts", "/accounts?x=y#z"),
		"htu with dot segments":       rewritten("/accounts", "/x/../accounts"),
		"htu percent-encoded":         rewritten("/accounts", "/%61ccounts"),
		"htu with scheme in capitals": rewritten("https:", "HTTPS:"),
		"more in header and claims": {proof: func(header, claims map[string]any) {
			header["x"], claims["y"] = "z", []int{1}
		}},
		"the scheme in lower case": {scheme: "dpop"},
		"a long jti":               {proof: claim("jti", strings.Repeat("j", 255)+one.id[:1])},
	}
}
