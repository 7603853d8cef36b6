package revocation

import (
	"container/list"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

const (
	// slack is for how long a token may be taken after the instant by which the issuer says that nobody does any more, as the
	// clocks of nodes may be apart, and verifiers be lenient about the end.
	slack = 2 * time.Minute
	// sweepEvery is how often what has expired is looked for.
	sweepEvery = 10 * time.Second
	// heldAfterReset is for how long a certificate on hold stays refused whose release may have been missed. A CRL
	// without it, or with it, is there by then.
	heldAfterReset = time.Minute
	// sweepAtOnce bounds the certificates that are looked up in the CRLs in one sweep.
	sweepAtOnce = 512
	// ahead is by how much the time in a token that was issued just now may be ahead of this machine's clock.
	ahead = time.Minute
)

// certificates are those that were revoked or are held, until a CRL at hand tells of them, or they expire; and those that
// were released, until no CRL at hand has them.
type certificates struct {
	most   int
	known  map[thumbprint.Cert]*list.Element
	order  list.List // of certificate, the oldest first
	swept  time.Time
	forgot uint64 // for want of room
}

type certificate struct {
	thumbprint thumbprint.Cert
	issuer     []byte // key identifier
	serial     *big.Int
	status     string
	until      time.Time
	released   bool // before it was revoked or held: what a CRL at hand says of it may be older than the release
}

// status returns what became of a certificate; empty if nothing is known.
func (c *certificates) status(t thumbprint.Cert) string {
	if e := c.known[t]; e != nil && e.Value.(*certificate).status != Good {
		return e.Value.(*certificate).status
	}
	return ""
}

func (c *certificates) take(ev Certificate, now time.Time) error {
	serial, ok := new(big.Int).SetString(ev.Serial, 16)
	issuer, err := hex.DecodeString(ev.IssuerKeyID)
	if !ok || err != nil || len(ev.Serial) > 40 || len(issuer) > 64 || ev.Thumbprint.IsZero() {
		return fmt.Errorf("%w: a certificate with serial %.50q of %.150q", errStream, ev.Serial, ev.IssuerKeyID)
	}
	if ev.Status != Revoked && ev.Status != Held && ev.Status != Good {
		return fmt.Errorf("%w: a certificate that is %.50q", errStream, ev.Status)
	}
	released := ev.Status == Good
	if e := c.known[ev.Thumbprint]; e != nil {
		released = released || e.Value.(*certificate).released
	}
	c.drop(ev.Thumbprint)
	until := ev.NotAfter.Add(slack)
	if !until.After(now) {
		return nil
	}
	if c.known == nil {
		c.known = map[thumbprint.Cert]*list.Element{}
	}
	if len(c.known) >= c.most {
		c.drop(c.order.Front().Value.(*certificate).thumbprint)
		c.forgot++
	}
	c.known[ev.Thumbprint] = c.order.PushBack(&certificate{ev.Thumbprint, issuer, serial, ev.Status, until, released})
	return nil
}

func (c *certificates) drop(t thumbprint.Cert) {
	if e := c.known[t]; e != nil {
		delete(c.known, t)
		c.order.Remove(e)
	}
}

// reset ends the holds of which nobody will tell when they are over.
func (c *certificates) reset(now time.Time) {
	for e := c.order.Front(); e != nil; e = e.Next() {
		if of := e.Value.(*certificate); of.status == Held && of.until.After(now.Add(heldAfterReset)) {
			of.until = now.Add(heldAfterReset)
		}
	}
}

// sweep drops those that have expired, and those that a CRL at hand has: the Checker goes back to none without them, but
// for a release, and after one they stay until a CRL was there that tells of it. Where no CRL at hand has one, because none of its shard's was ever shown here, others are looked for
// first the next time.
func (c *certificates) sweep(now time.Time, checker *crl.Checker) {
	if len(c.known) == 0 || now.Sub(c.swept) < sweepEvery {
		return
	}
	c.swept = now
	for e := c.order.Front(); e != nil; {
		of := e.Value.(*certificate)
		e = e.Next()
		if !of.until.After(now) {
			c.drop(of.thumbprint)
		}
	}
	if checker == nil {
		return
	}
	for range min(len(c.known), sweepAtOnce) {
		e := c.order.Front()
		c.order.MoveToBack(e)
		of := e.Value.(*certificate)
		listed := checker.Lists(of.issuer, of.serial)
		of.released = of.released && listed // the next list that has it is newer than the release
		if listed && !of.released || !listed && of.status == Good {
			c.drop(of.thumbprint)
		}
	}
}

// tokens is what is known of tokens that do not count though they have not expired.
type tokens struct {
	most      int
	notBefore time.Time // no token counts that was issued before
	clients   map[Hash]Client
	revoked   map[Hash]time.Time // until
	swept     time.Time
}

func newTokens(most int) *tokens {
	return &tokens{most: most, clients: map[Hash]Client{}, revoked: map[Hash]time.Time{}}
}

func (t *tokens) check(claims *tokenbind.Claims) error {
	if claims.IssuedAt.Before(t.notBefore) {
		return &RevokedError{"every token from before " + t.notBefore.UTC().Format(time.RFC3339) + " was ended"}
	}
	if len(t.clients) > 0 {
		if c, found := t.clients[HashOf(claims.ClientID)]; found && (c.Disabled || claims.IssuedAt.Before(c.TokensNotBefore)) {
			return &RevokedError{"the client was disabled"}
		}
	}
	if len(t.revoked) > 0 {
		if _, found := t.revoked[HashOf(claims.ID)]; found {
			return &RevokedError{"the token was revoked"}
		}
	}
	return nil
}

func (t *tokens) client(c Client, now time.Time) {
	if _, known := t.clients[c.ID]; !known && !t.room(now) {
		return
	}
	t.clients[c.ID] = c
}

func (t *tokens) token(r Token, now time.Time) {
	if _, known := t.revoked[r.ID]; !known && !t.room(now) {
		return
	}
	t.revoked[r.ID] = r.Until
}

// room makes room for one more. Where there is none, every token from before is refused in place of the single ones:
// clients then get new ones, and nothing that was revoked counts again.
func (t *tokens) room(now time.Time) bool {
	if len(t.clients)+len(t.revoked) < t.most {
		return true
	}
	t.swept = time.Time{}
	t.sweep(now)
	if len(t.clients)+len(t.revoked) < t.most {
		return true
	}
	if all := now.Add(ahead); all.After(t.notBefore) {
		t.notBefore = all
	}
	clear(t.clients)
	clear(t.revoked)
	return false
}

// sweep forgets what concerns no token any more.
func (t *tokens) sweep(now time.Time) {
	if now.Sub(t.swept) < sweepEvery {
		return
	}
	t.swept = now
	for id, c := range t.clients {
		if now.After(c.Until.Add(slack)) {
			delete(t.clients, id)
		}
	}
	for id, until := range t.revoked {
		if now.After(until.Add(slack)) {
			delete(t.revoked, id)
		}
	}
}
