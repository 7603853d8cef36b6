package authserver

import (
	"testing"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// restart replaces the server by one that shares what is stored, and that remembers proofs in memory.
func (p *prover) restart(since time.Time, replay tokenbind.Replay) {
	p.Helper()
	p.config.ProofsSince, p.config.Replay = since, replay
	next, err := New(p.config)
	if err != nil {
		p.Fatal(err)
	}
	*p.Server = *next
}

// crash restarts the server without what it remembered.
func (p *prover) crash() {
	p.Helper()
	p.restart(p.clock.now(), tokenbind.NewMemoryReplay(1000, p.clock.now))
}

func TestE27_ReplayRefusedAfterACrash(t *testing.T) {
	for name, demand := range map[string]bool{"nonces demanded": true, "no nonces": false} {
		t.Run(name, func(t *testing.T) {
			p, client := dpopHouse(t, func(c *Config) { c.RequireNonce = demand })
			nonce := ""
			if demand {
				nonce = p.token(nil, client, header("DPoP", p.proof(""))).header.Get("DPoP-Nonce")
			}
			used := p.proof(nonce)
			mustIssue(t, p.token(nil, client, header("DPoP", used)))
			p.clock.advance(time.Second)
			p.crash()
			for range 9 { // for as long as it is not too old
				a := p.token(nil, client, header("DPoP", used))
				mustRefuse(t, a, 400, "use_dpop_nonce", "before this server started")
				fresh := p.proof(a.header.Get("DPoP-Nonce"))
				mustIssue(t, p.token(nil, client, header("DPoP", fresh)))
				mustRefuse(t, p.token(nil, client, header("DPoP", fresh)), 400, "invalid_dpop_proof", "jti")
				p.clock.advance(69 * time.Second / 9)
			}
			p.clock.advance(2 * time.Second)
			mustRefuse(t, p.token(nil, client, header("DPoP", used)), 400, "invalid_dpop_proof", "too old")
		})
	}
}

func TestE27_ProofOfAFastClockRefusedAfterACrash(t *testing.T) {
	p, client := dpopHouse(t)
	ahead, err := p.Proof("POST", p.url+TokenPath, tokenbind.ProofOptions{Now: p.clock.now().Add(9 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	mustIssue(t, p.token(nil, client, header("DPoP", ahead)))
	p.crash()
	mustRefuse(t, p.token(nil, client, header("DPoP", ahead)), 400, "use_dpop_nonce", "")
}

func TestToken_ClientWithoutNoncesIsServedSoonAfterACrash(t *testing.T) {
	p, client := dpopHouse(t)
	p.crash()
	a := p.token(nil, client, header("DPoP", p.proof("")))
	mustRefuse(t, a, 400, "use_dpop_nonce", "DPoP-Nonce")
	p.clock.advance(defaultTolerance + time.Second)
	mustIssue(t, p.token(nil, client, header("DPoP", p.proof(""))))
}

func TestToken_NothingIsDemandedAfterACleanRestart(t *testing.T) {
	p, client := dpopHouse(t)
	used, unused := p.proof(""), p.proof("")
	mustIssue(t, p.token(nil, client, header("DPoP", used)))
	p.restart(time.Time{}, p.config.Replay) // which was handed on
	mustIssue(t, p.token(nil, client, header("DPoP", unused)))
	mustRefuse(t, p.token(nil, client, header("DPoP", used)), 400, "invalid_dpop_proof", "jti")
}

// A client that sends the newest nonce it was given is refused once after a crash, and never again while it goes on.
func TestToken_NoncesAfterACrashDoNotSpoilEachOther(t *testing.T) {
	for name, demand := range map[string]bool{"nonces demanded": true, "no nonces": false} {
		t.Run(name, func(t *testing.T) {
			p, client := dpopHouse(t, func(c *Config) { c.RequireNonce = demand })
			nonce, refusals := "", 0
			ask := func() {
				a := p.token(nil, client, header("DPoP", p.proof(nonce)))
				if next := a.header.Get("DPoP-Nonce"); next != "" {
					nonce = next
				}
				if a.status != 200 {
					mustRefuse(t, a, 400, "use_dpop_nonce", "")
					refusals++
				}
			}
			ask()
			ask()
			refusals = 0
			p.crash()
			for range 120 {
				ask()
				p.clock.advance(2 * time.Second)
			}
			if refusals != 1 {
				t.Errorf("%d refusals; want one", refusals)
			}
		})
	}
}

// So does one whose clock is slow, whose fresh proofs are held for longer, and in whose answers the nonce must stay one
// that lets it in.
func TestToken_SlowClientAfterACrash(t *testing.T) {
	p, client := dpopHouse(t, requireNonce)
	nonce, refusals := "", 0
	p.crash()
	for range 50 {
		proof, err := p.Proof("POST", p.url+TokenPath, tokenbind.ProofOptions{Nonce: nonce, Now: p.clock.now().Add(-65 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		a := p.token(nil, client, header("DPoP", proof))
		if next := a.header.Get("DPoP-Nonce"); next != "" {
			nonce = next
		}
		if a.status != 200 {
			mustRefuse(t, a, 400, "use_dpop_nonce", "")
			refusals++
		}
		p.clock.advance(2 * time.Second)
	}
	if refusals != 1 {
		t.Errorf("%d refusals; want one", refusals)
	}
}
