package tokenbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"weak"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

const (
	maxTokens     = 16_384
	maxKnownToken = 4 << 10 // octets; longer tokens are rare, and are judged anew each time
)

// knownToken is what came of a token that passed all rules of a request before: what was read from it, and by
// which key it is verified. It holds nothing of a request, and nothing that time changes.
type knownToken struct {
	claims Claims
	alg    string
	kid    string
	key    crypto.PublicKey

	// cert passed judgeCertificate. All requests of a connection have the same, as have most connections of a
	// client at once, so its thumbprint need not be computed again. The token does not keep it in memory.
	cert weak.Pointer[x509.Certificate]
}

// known reports whether the token passed before, so that rules which pass once and for all need not be judged.
func (q *request) known() bool { return q.seen != nil }

// recall looks the token up among those that passed before. Its signature then need not be verified again, for
// as long as the issuer still has the key: a key that was withdrawn or replaced ends its tokens. The issuer's
// keys are asked for as at first sight, so that remote ones are refreshed no less often.
//
// That a request is answered faster shows that this token was used here lately, to somebody who has the token,
// and helps nobody without it: what is looked up is its hash, and how long that takes says nothing of others.
func (q *request) recall() {
	if q.t.all || len(q.token) > maxKnownToken {
		return
	}
	q.hash = jws.Sum256(q.token)
	t, found := q.v.tokens.Get(q.hash)
	if !found {
		return
	}
	keys, err := q.v.keys.Keys(q.ctx, t.kid)
	if err != nil {
		return // for judgeSignature to report
	}
	for i := range keys {
		if keys[i].usable(t.alg) && sameKey(keys[i].Key, t.key) {
			q.seen, q.claims = t, t.claims
			return
		}
	}
	q.v.tokens.Drop(q.hash)
}

// remember keeps a token whose request passed every rule, so that nothing gets in which its holder did not
// prove to hold.
func (q *request) remember() {
	if !q.known() && !q.hash.IsZero() { // it is zero where recall did not look
		q.v.tokens.Put(q.hash, &knownToken{q.claims, q.alg, q.kid, q.key, weak.Make(q.cert)})
	}
}

// forget is for a token that ended, or whose certificate did.
func (q *request) forget() {
	if q.known() {
		q.v.tokens.Drop(q.hash)
	}
}

// sameKey compares two public keys. A source that returns the same pointer each time saves comparing by value.
func sameKey(a, b crypto.PublicKey) bool {
	switch a.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		if a == b {
			return true
		}
	}
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

const (
	maxHeaders     = 8192
	maxKnownHeader = 2 << 10 // octets, in base64url; that of the longest RSA key that is taken has less than half
)

// knownHeader is what came of the header of a proof whose signature holds. A client's proofs all have the same,
// so its key need not be read and checked again for each.
type knownHeader struct {
	alg       string
	publicKey crypto.PublicKey
	key       thumbprint.Key
}

func (p *proofRun) known() bool { return p.seen != nil }

// recall looks an encoded header up among those that passed before. They are told apart by their exact text, so
// that nothing depends on how it is read. A stranger can have as many keys as he likes remembered, by valid
// proofs; what others then lose is a little time.
func (p *proofRun) recall(header string) bool {
	if p.t.all || len(header) > maxKnownHeader {
		return false
	}
	p.header = jws.Sum256(header)
	seen, found := p.c.headers.Get(p.header)
	if found {
		p.seen, p.alg, p.publicKey, p.key = seen, seen.alg, seen.publicKey, seen.key
	}
	return found
}

// remember keeps a header that passed its rules, and whose key made the proof's signature.
func (p *proofRun) remember() {
	if !p.known() && p.header != [32]byte{} {
		p.c.headers.Put(p.header, &knownHeader{p.alg, p.publicKey, p.key})
	}
}
