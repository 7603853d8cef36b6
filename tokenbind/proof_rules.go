package tokenbind

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

// proofRun is the check of one proof under way.
type proofRun struct {
	ctx       context.Context
	c         *ProofChecker
	req       ProofRequest
	t         *trail
	maxAge    time.Duration
	tolerance time.Duration
	now       time.Time
	ath       thumbprint.Token // of req.AccessToken, if the caller has it

	// what the rules found so far
	header    [32]byte     // the hash of the encoded header, if it may be remembered
	seen      *knownHeader // if it was; then alg, publicKey and key are taken from it
	jws       *jws.Token
	alg       string
	jwk       map[string]any
	publicKey crypto.PublicKey
	key       thumbprint.Key
	jti       string
	issuedAt  time.Time
}

// proofRules are the twelve checks of RFC 9449 section 4.3, those of RFC 7515, 7518 and 8725 that they rest
// on, and last the replay, which alone changes something. What is cheap comes before the signature. Those of the
// header alone are judged once: see recall.
var proofRules = []rule[*proofRun]{
	{"one proof", "RFC 9449 4.3-1", needed, (*proofRun).judgeCount},
	{"form", "RFC 9449 4.3-2", needed, (*proofRun).judgeForm},
	{"typ", "RFC 9449 4.3-4", once, (*proofRun).judgeType},
	{"alg", "RFC 9449 4.3-5", needed | once, (*proofRun).judgeAlgorithm},
	{"crit", "RFC 7515 4.1.11", once, (*proofRun).judgeCritical},
	{"jwk is public", "RFC 9449 4.3-7", needed | once, (*proofRun).judgePrivate},
	{"jwk", "RFC 7518 6", needed | once, (*proofRun).judgeKeyForm},
	{"claims", "RFC 9449 4.3-3", needed, (*proofRun).judgeClaims},
	{"htm", "RFC 9449 4.3-8", 0, (*proofRun).judgeMethod},
	{"htu", "RFC 9449 4.3-9", 0, (*proofRun).judgeURL},
	{"nonce", "RFC 9449 4.3-10", 0, (*proofRun).judgeNonce},
	{"iat", "RFC 9449 4.3-11", 0, (*proofRun).judgeAge},
	{"ath", "RFC 9449 4.3-12", 0, (*proofRun).judgeToken},
	{checkKey, "RFC 9449 4.3-12", 0, (*proofRun).judgeKey},
	{"signature", "RFC 9449 4.3-6", 0, (*proofRun).judgeSignature},
	{"restart", "RFC 9449 11.1", 0, (*proofRun).judgeRestart},
	{CheckReplay, "RFC 9449 11.1", 0, (*proofRun).judgeReplay},
}

// CheckReplay is the name of the check whether a proof was used before: the last one, which alone depends on what the
// verifier has seen.
const CheckReplay = "replay"

// checkKey is the check whose failure a resource server reports as invalid_token (RFC 9449 section 7.1).
const checkKey = "key"

func (p *proofRun) judgeCount() finding {
	switch {
	case len(p.req.Headers) == 0:
		return fail("none", "one DPoP header").because("send a fresh proof with each request")
	case len(p.req.Headers) > 1:
		return fail(fmt.Sprintf("%d DPoP headers", len(p.req.Headers)), "one")
	case strings.Contains(p.req.Headers[0], ","):
		return fail("several values folded into one DPoP header", "one")
	}
	return pass("")
}

func (p *proofRun) judgeForm() finding {
	proof := p.req.Headers[0]
	if len(proof) > maxProof {
		return fail(fmt.Sprintf("%d octets", len(proof)), fmt.Sprintf("at most %d", maxProof))
	}
	var err error
	if p.jws, err = jws.Parse(proof, p.recall); err != nil {
		return fail("", "a JWT: header.payload.signature").because(jws.Short(err.Error())).from(err)
	}
	return pass("")
}

func (p *proofRun) judgeType() finding {
	if typ := p.jws.Header["typ"]; typ != "dpop+jwt" {
		return fail(jws.Show(typ), `"dpop+jwt"`)
	}
	return pass("dpop+jwt")
}

func (p *proofRun) judgeAlgorithm() finding {
	alg, _ := p.jws.Header["alg"].(string)
	i := slices.Index(p.c.algorithms(), alg)
	if i < 0 || !jws.Asymmetric(alg) {
		return fail(jws.Show(p.jws.Header["alg"]), "one of "+strings.Join(p.c.algorithms(), " "))
	}
	p.alg = p.c.algorithms()[i] // not the header's own text, which would be kept in memory for it
	return pass(alg)
}

func (p *proofRun) judgeCritical() finding {
	if _, found := p.jws.Header["crit"]; found {
		return fail("a crit header", "none").because("no extension is understood here")
	}
	return pass("")
}

func (p *proofRun) judgePrivate() finding {
	jwk, ok := p.jws.Header["jwk"].(map[string]any)
	if !ok {
		return fail(jws.Show(p.jws.Header["jwk"]), "a JWK object")
	}
	if m, found := jws.PrivateMember(jwk); found {
		return fail("a private key: member "+m, "a public key").because("treat this key as disclosed, and make another")
	}
	p.jwk = jwk
	return pass("")
}

func (p *proofRun) judgeKeyForm() finding {
	key, err := jws.PublicKey(p.jwk)
	if err == nil {
		err = jws.KeyFits(p.alg, key)
	}
	if err == nil {
		p.key, err = thumbprint.OfKey(key)
	}
	if err != nil {
		return fail("", "a public key for "+p.alg).because(err.Error()).from(err)
	}
	p.publicKey = key
	return p.t.pass(func() string { return "jkt " + p.key.String() })
}

func (p *proofRun) judgeClaims() finding {
	for _, name := range []string{"jti", "htm", "htu"} {
		if s, ok := p.jws.Claims[name].(string); !ok || s == "" {
			return fail(jws.Show(p.jws.Claims[name]), "a "+name+" claim, a string")
		}
	}
	p.jti = p.jws.Claims["jti"].(string)
	if len(p.jti) > maxJTI {
		return fail(fmt.Sprintf("a jti of %d octets", len(p.jti)), fmt.Sprintf("at most %d", maxJTI))
	}
	var ok bool
	if p.issuedAt, ok = jws.NumericDate(p.jws.Claims["iat"]); !ok {
		return fail(jws.Show(p.jws.Claims["iat"]), "an iat claim, a number of seconds")
	}
	return pass("")
}

func (p *proofRun) judgeMethod() finding {
	if htm := p.jws.Claims["htm"].(string); htm != p.req.Method {
		return fail(htm, p.req.Method).because("method names are case-sensitive")
	}
	return pass(p.req.Method)
}

func (p *proofRun) judgeURL() finding {
	htu := p.jws.Claims["htu"].(string)
	if len(p.req.URLs) == 0 {
		return fail(htu, "an URL of this server").because("the request was sent to a host that is none of this server's")
	}
	if len(htu) <= maxURL && slices.Contains(p.req.URLs, htu) { // as most clients write it: no other form matters
		return pass(htu)
	}
	seen, err := NormalURL(htu)
	if err != nil {
		return fail(htu, "the request's URL").because(err.Error()).from(err)
	}
	for _, u := range p.req.URLs {
		if wanted, err := NormalURL(u); err == nil && wanted == seen {
			return pass(seen)
		}
	}
	return fail(seen, strings.Join(p.req.URLs, " or ")).because(causeOfURL(seen, p.req.URLs))
}

func (p *proofRun) judgeNonce() finding {
	nonce, has := p.jws.Claims["nonce"]
	s, _ := nonce.(string)
	switch {
	case !has && !p.req.RequireNonce:
		return notApplicable("no nonce was asked for")
	case !has:
		return fail("no nonce", "the one in DPoP-Nonce").because("make a new proof with it").as(CodeUseNonce)
	case p.c.Nonces == nil && p.c.Since.IsZero():
		return notApplicable("this server gives no nonces")
	case p.c.Nonces != nil && p.c.Nonces.Valid(s), p.fromThisStart():
		return pass("")
	default:
		return fail("an old or foreign nonce", "the one in DPoP-Nonce").because("make a new proof with it").as(CodeUseNonce)
	}
}

func (p *proofRun) judgeAge() finding {
	age := p.now.Sub(p.issuedAt)
	if -p.tolerance <= age && age <= p.maxAge+p.tolerance {
		return pass("")
	}
	seen := fmt.Sprintf("made %v ago", age.Round(time.Second))
	hint := fmt.Sprintf("the proof is too old, or the client's clock is slow by about %v", age.Round(time.Second))
	if age < 0 {
		seen = fmt.Sprintf("made %v ahead of now", -age.Round(time.Second))
		hint = fmt.Sprintf("the client's clock is fast by about %v", -age.Round(time.Second))
	}
	return fail(seen, fmt.Sprintf("at most %v ago or %v ahead", p.maxAge+p.tolerance, p.tolerance)).because(hint)
}

func (p *proofRun) judgeToken() finding {
	if p.req.AccessToken == "" {
		return notApplicable("no access token")
	}
	if p.ath.IsZero() {
		p.ath = thumbprint.OfToken(p.req.AccessToken)
	}
	s, _ := p.jws.Claims["ath"].(string)
	if ath, err := thumbprint.ParseToken(s); err != nil || !ath.Equal(p.ath) {
		return fail(jws.Show(p.jws.Claims["ath"]), p.ath.String()).because("ath is the hash of the token that is sent along")
	}
	return pass(s)
}

func (p *proofRun) judgeKey() finding {
	if p.req.Key.IsZero() {
		return notApplicable("any key will do")
	}
	if !p.key.Equal(p.req.Key) {
		return fail("jkt "+p.key.String(), p.req.Key.String()).because("the token is bound to another key")
	}
	return p.t.pass(p.key.String)
}

func (p *proofRun) judgeSignature() finding {
	if err := p.jws.Verify(p.alg, p.publicKey); err != nil {
		return fail("", "a signature by the key in jwk").from(err)
	}
	p.remember()
	return pass("")
}

// judgeRestart refuses a proof that may have been used before Replay knew of proofs. Such a proof has an iat of
// at most Since and tolerance. A nonce that was made after Since shows that the proof was made after it too, so
// the client needs only to try once more.
func (p *proofRun) judgeRestart() finding {
	switch {
	case p.c.Since.IsZero():
		return notApplicable("proofs are remembered across restarts")
	case p.issuedAt.After(p.c.Since.Add(p.tolerance)), p.fromThisStart():
		return pass("")
	}
	return fail("a proof that may have been used before this server started", "one made after").
		because("make a new proof with the nonce in DPoP-Nonce").as(CodeUseNonce)
}

// fromThisStart reports whether the proof carries a nonce that this checker made for judgeRestart.
func (p *proofRun) fromThisStart() bool {
	s, _ := p.jws.Claims["nonce"].(string)
	return p.c.fresh != nil && s != "" && p.c.fresh.Valid(s)
}

// nonce is the one to hand out. For as long as judgeRestart may refuse a fresh proof it is one that satisfies
// judgeRestart too, so that a client never needs a third try.
func (p *proofRun) nonce() string {
	restarting := p.c.fresh != nil && !p.now.After(p.c.Since.Add(p.maxAge+2*p.tolerance))
	if p.c.Nonces == nil || restarting {
		return p.c.fresh.Current()
	}
	return p.c.Nonces.Current()
}

func (p *proofRun) judgeReplay() finding {
	if p.t.first != nil {
		return notApplicable("not reached: a proof that failed is not used up")
	}
	id := sha256.Sum256(append(p.key[:], p.jti...)) // the key has a fixed size, so this is unambiguous
	err := p.c.Replay.Use(p.ctx, id, p.issuedAt.Add(p.maxAge+2*p.tolerance))
	switch {
	case err == nil:
		return pass("")
	case errors.Is(err, ErrReplayed):
		return fail("a jti that was used before", "a fresh proof for each request").because("also for a retry").from(err)
	default:
		return fail("", "a place to remember the proof").from(err).as(codeUnavailable)
	}
}
