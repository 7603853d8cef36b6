package tokenbind

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/recent"
	"github.com/pkid/pkid/thumbprint"
)

// The error codes of a ProofError (RFC 9449 sections 5 and 8).
const (
	CodeInvalidProof = "invalid_dpop_proof"
	CodeUseNonce     = "use_dpop_nonce"
)

// Bounds of what a stranger may send.
const (
	maxProof     = 8 << 10 // octets of a DPoP header's value
	maxJTI       = 256
	maxTolerance = time.Minute // FAPI 2.0 section 5.3.2.1
)

// ProofAlgorithms are those that a ProofChecker takes by default. RS256 and its kin are allowed by RFC 9449
// but not by FAPI 2.0 section 5.4, which wants PSS; they are left out.
func ProofAlgorithms() []string {
	return []string{"ES256", "EdDSA", "PS256", "ES384", "ES512", "PS384", "PS512"}
}

// ProofRequest is what a DPoP proof is checked against.
type ProofRequest struct {
	Headers      []string       // r.Header.Values("DPoP")
	Method       string         // of the request
	URLs         []string       // of the request, absolute, as the client sees it; any of them may match
	AccessToken  string         // at a resource server: the token, for ath. Empty at the token endpoint
	Key          thumbprint.Key // the key that the proof must have (cnf.jkt), or zero
	RequireNonce bool           // needs ProofChecker.Nonces
}

// Proof is a DPoP proof that passed every check.
type Proof struct {
	Key       thumbprint.Key // the jkt to bind a token to
	ID        string         // jti
	IssuedAt  time.Time
	PublicKey crypto.PublicKey
}

// ProofChecker checks DPoP proofs (RFC 9449 section 4.3). Replay is required; the zero value of each other
// field is its default. It is safe for concurrent use. Its fields are not to be changed once it is used.
//
// It remembers the keys of proofs that passed, up to some 8,000 at less than 1 KiB each, and saves reading them
// again. Every proof's claims and signature are judged for themselves.
//
// It does not check that the access token is valid or that it is bound to the key: that is for the caller,
// who passes the token's jkt as ProofRequest.Key.
type ProofChecker struct {
	// Algorithms that are taken; ProofAlgorithms() by default. Symmetric ones and none are never taken.
	Algorithms []string
	// MaxAge is how old a proof may be; 60 s by default. It is accepted from MaxAge and Tolerance ago to
	// Tolerance ahead, both ends included.
	MaxAge time.Duration
	// Tolerance is how far clocks may be apart; 10 s by default, at most 60 s.
	Tolerance time.Duration
	// Nonces, if set, are known here: a proof that carries a nonce must carry a valid one.
	Nonces *Nonces
	// Replay remembers proofs by SHA-256(jkt || jti), so that nobody can use up another's jti. It is asked to
	// remember for the whole window and one Tolerance more, for nodes whose clocks are apart.
	Replay Replay
	// Since is the instant from which on Replay knows of every proof, such as the start of a process that
	// remembers them in memory. Zero: it knows of all. A proof that may have been used before Since, made up to
	// Tolerance after it by a fast clock, is refused with CodeUseNonce and a nonce of this very checker, whether
	// Nonces are set or not: with that nonce the client is let in at its second try, never at a third. A clock that is
	// set back by more over the restart makes older proofs pass for newer: then set Since by as much later.
	Since time.Time
	Now   func() time.Time // time.Now by default

	once    sync.Once                             // guards making the two below
	fresh   *Nonces                               // for judgeRestart, made after Since; nil without a Since
	headers *recent.Cache[[32]byte, *knownHeader] // by the SHA-256 of their text
}

// ProofError reports a proof that was refused.
type ProofError struct {
	Code    string // CodeInvalidProof or CodeUseNonce
	Nonce   string // with CodeUseNonce: the nonce to hand out
	Check   string // the check that failed, such as "htu"
	Section string // where it is written, such as "RFC 9449 4.3-9"
	Seen    string // what the proof says
	Wanted  string // what it should say
	Hint    string // what to do about it

	text string
	err  error
}

// Error is one line for the client's developer: what was seen, what was wanted, what to do. It is printable
// ASCII without quotes, fit for an error_description.
func (e *ProofError) Error() string { return e.text }

func (e *ProofError) Unwrap() error { return e.err }

// Check checks a proof and uses it up. A proof that is refused is reported as a *ProofError; any other error
// means that it could not be checked, by a Replay that failed or a checker set up wrongly.
func (c *ProofChecker) Check(ctx context.Context, r ProofRequest) (*Proof, error) {
	var t trail
	run, err := c.run(ctx, r, &t)
	if err != nil {
		return nil, err
	}
	if walk(&t, proofRules, run) {
		return &Proof{run.key, run.jti, run.issuedAt, run.publicKey}, nil
	}
	return nil, run.refusal()
}

// Explain checks a proof as Check does, reports every check, and uses the proof up if all else passed.
func (c *ProofChecker) Explain(ctx context.Context, r ProofRequest) ([]Check, error) {
	t := trail{all: true}
	run, err := c.run(ctx, r, &t)
	if err != nil {
		return nil, err
	}
	walk(&t, proofRules, run)
	return t.checks, nil
}

// refusal is the error for the rule that failed.
func (p *proofRun) refusal() error {
	f := p.t.first
	if f.code == codeUnavailable {
		return fmt.Errorf("remembering a DPoP proof: %w", f.err)
	}
	e := &ProofError{
		Code:    CodeInvalidProof,
		Check:   f.name,
		Section: f.section,
		Seen:    f.seen,
		Wanted:  f.wanted,
		Hint:    f.hint,
		text:    printable("DPoP proof: " + f.Error()),
		err:     f.err,
	}
	if f.code == CodeUseNonce {
		e.Code, e.Nonce = CodeUseNonce, p.nonce()
	}
	return e
}

// run begins the check of one proof, with the defaults filled in.
func (c *ProofChecker) run(ctx context.Context, r ProofRequest, t *trail) (*proofRun, error) {
	c.once.Do(c.begin)
	p := &proofRun{ctx: ctx, c: c, req: r, t: t, maxAge: c.MaxAge, tolerance: c.Tolerance}
	if p.maxAge == 0 {
		p.maxAge = time.Minute
	}
	if p.tolerance == 0 {
		p.tolerance = 10 * time.Second
	}
	switch {
	case c.Replay == nil:
		return nil, errors.New("checking a DPoP proof: no Replay")
	case p.maxAge < 0, p.tolerance < 0, p.tolerance > maxTolerance:
		return nil, fmt.Errorf("checking a DPoP proof: MaxAge %v, Tolerance %v (at most %v)", c.MaxAge, c.Tolerance, maxTolerance)
	case r.RequireNonce && c.Nonces == nil:
		return nil, errors.New("checking a DPoP proof: a nonce is required, but there are no Nonces")
	}
	p.now = time.Now()
	if c.Now != nil {
		p.now = c.Now()
	}
	return p, nil
}

// begin makes what a checker keeps for itself, at its first proof.
func (c *ProofChecker) begin() {
	c.headers = recent.New[[32]byte, *knownHeader](maxHeaders)
	if c.Since.IsZero() {
		return
	}
	lifetime, now := startNonceLifetime, c.Now
	if c.Nonces != nil { // then fresh ones stand in for them, and must not outlive them
		lifetime = c.Nonces.lifetime
	}
	if now == nil {
		now = time.Now
	}
	c.fresh = &Nonces{randomKey(), "since", lifetime, now} // their key is known to this checker alone
}

// startNonceLifetime is for checkers that know no other nonces: those for Since show only that a proof is
// younger than the process, and a client that keeps one need not be bothered soon again.
const startNonceLifetime = time.Hour

func (c *ProofChecker) algorithms() []string {
	if c.Algorithms != nil {
		return c.Algorithms
	}
	return defaultProofAlgorithms
}

var defaultProofAlgorithms = ProofAlgorithms()
