package ca

import "context"

// Check decides on r and has it signed, and holds what forge makes of the certificate against the decision.
func (a *Authority) Check(ctx context.Context, r Request, forge func(der []byte) []byte) error {
	d, err := a.decide(ctx, r.Profile, r.ClientID, r.Names, r.Key, r.Lifetime)
	if err != nil {
		return err
	}
	return d.checkForged(ctx, forge)
}

// CheckResponder does the same for the certificate of an OCSP responder.
func (a *Authority) CheckResponder(ctx context.Context, r ResponderRequest, forge func(der []byte) []byte) error {
	d, err := a.decideResponder(ctx, r)
	if err != nil {
		return err
	}
	return d.checkForged(ctx, forge)
}

func (d *decision) checkForged(ctx context.Context, forge func(der []byte) []byte) error {
	serial := newSerial(d.now)
	tbs, err := d.issuer.leaf.write(d, serial)
	if err != nil {
		return err
	}
	signature, err := d.issuer.Signer.SignCertificate(ctx, tbs)
	if err != nil {
		return err
	}
	return check(forge(tbs.signed(signature)), d, serial)
}
