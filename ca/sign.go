package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// backdate is how far NotBefore lies in the past, for relying parties whose clocks are a little behind.
const backdate = time.Minute

// decision is a certificate that may be signed. Only decide and decideResponder make one, so nothing else can be signed.
type decision struct {
	issuer              *issuing
	profile             *Profile
	clientID            string
	names               Names
	key                 crypto.PublicKey
	now                 time.Time // milliseconds
	notBefore, notAfter time.Time // seconds
	parent              Serial
	shard               *shard // which CRL is to speak of it
}

func (a *Authority) decide(ctx context.Context, profile, clientID string, names Names, key ProvenKey, lifetime time.Duration) (*decision, error) {
	p, lifetime, err := a.checkGrant(profile, names, lifetime)
	if err != nil {
		return nil, err
	}
	if err := p.checkKey(key); err != nil {
		return nil, err
	}
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	issuer := a.issuers.Load().at(now)
	notAfter, err := issuer.until(now, lifetime)
	if err != nil {
		return nil, err
	}
	if notAfter.Sub(now) < MinLifetime-time.Second {
		return nil, fmt.Errorf("%w: the issuing CA expires at %s", ErrLifetime, issuer.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return &decision{
		issuer:  issuer,
		profile: p, clientID: clientID, names: names, key: key.pub,
		now: now.UTC().Truncate(time.Millisecond), notBefore: now.UTC().Add(-backdate).Truncate(time.Second), notAfter: notAfter,
		shard: issuer.shards.assign(ctx),
	}, nil
}

// until is when a certificate of that lifetime ends that the issuing CA signs now: not after its own.
func (i *issuing) until(now time.Time, lifetime time.Duration) (time.Time, error) {
	if now.Before(i.cert.NotBefore) {
		return time.Time{}, fmt.Errorf("%w: the issuing CA is not valid before %s", ErrClock, i.cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return earlier(now.Add(lifetime).UTC().Truncate(time.Second), i.cert.NotAfter), nil
}

// checkGrant checks what does not depend on the key, and returns the lifetime to use.
func (a *Authority) checkGrant(profile string, names Names, lifetime time.Duration) (*Profile, time.Duration, error) {
	p, ok := a.profiles[profile]
	if !ok {
		return nil, 0, fmt.Errorf("%w: %q", ErrProfile, profile)
	}
	if err := names.validate(); err != nil {
		return nil, 0, err
	}
	if err := p.c.Policy.Check(names); err != nil {
		return nil, 0, fmt.Errorf("%w by profile %q: %w", ErrNames, profile, err)
	}
	if lifetime == 0 {
		lifetime = p.c.Lifetime
	}
	if lifetime < MinLifetime || lifetime > p.c.MaxLifetime {
		return nil, 0, fmt.Errorf("%w: profile %q takes %s to %s, not %s", ErrLifetime, profile, MinLifetime, p.c.MaxLifetime, lifetime)
	}
	return p, lifetime, nil
}

// sign signs d, checks the result and records it. A serial that is taken, which 80 random bits make
// unlikely, is drawn again.
func (a *Authority) sign(ctx context.Context, d *decision, action string, spend *Spend) (*Issued, error) {
	for range 3 {
		rec, err := a.signOnce(ctx, d)
		if err != nil {
			return nil, err
		}
		err = a.store.Insert(ctx, rec, spend, d.event(rec, action, audit.From(ctx), spend))
		if errors.Is(err, ErrDuplicate) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("recording certificate %s: %w", rec.Serial, err)
		}
		return d.issuer.issued(rec), nil
	}
	return nil, fmt.Errorf("recording certificate: %w three times: is the random generator broken?", ErrDuplicate)
}

func (d *decision) event(rec *Record, action string, actor audit.Actor, spend *Spend) audit.Event {
	detail := map[string]string{
		"client":    rec.ClientID,
		"profile":   rec.Profile,
		"not_after": rec.NotAfter.Format(time.RFC3339),
		"x5t#S256":  rec.Thumbprint.String(),
	}
	if !rec.Parent.IsZero() {
		detail["renews"] = rec.Parent.String()
	}
	if spend != nil {
		detail["invitation"] = spend.ID
	}
	return audit.Event{Time: d.now, Actor: actor, Action: action, Subject: rec.Serial.String(), Detail: detail}
}

func (a *Authority) signOnce(ctx context.Context, d *decision) (*Record, error) {
	serial := newSerial(d.now)
	tbs, err := d.issuer.leaf.write(d, serial)
	if err != nil {
		return nil, err
	}
	signature, err := d.issuer.Signer.SignCertificate(ctx, tbs)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	der := tbs.signed(signature)
	if err := check(der, d, serial); err != nil {
		return nil, err
	}
	return &Record{
		Serial: serial, Issuer: d.issuer.id, Shard: d.shard.number, ClientID: d.clientID, Profile: d.profile.Name(),
		Thumbprint: thumbprint.OfDER(der), NotBefore: d.notBefore, NotAfter: d.notAfter, IssuedAt: d.now,
		Parent: d.parent, Names: d.names.Text(), DER: der,
	}, nil
}
