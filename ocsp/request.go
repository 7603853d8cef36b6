package ocsp

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a request. One certificate with a nonce of the longest kind has some 300 octets.
const (
	MaxRequest = 4 << 10 // octets
	MaxCerts   = 16      // certificates that one request may ask about: each takes a look into the store
	maxNonce   = 128     // RFC 9654 section 2.1
	maxSerial  = 20      // RFC 5280 section 4.1.2.2
)

// request is what of an OCSPRequest (RFC 6960 section 4.1.1) makes a difference. Who asks does not: neither the
// requestor's name nor the signature is looked at, since the status is told to anybody.
type request struct {
	certs []certID
	nonce []byte // nil: none
}

// certID names a certificate by hashes of its issuer's name and key.
type certID struct {
	raw    string // DER, which the response repeats
	issuer issuerKey
	serial *big.Int
}

// issuerKey is how a CertID names an issuer.
type issuerKey struct{ hash, name, key string } // hash is the OID's DER content

var (
	oidNonce   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	contextTag = func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
)

// malformed says what is wrong with a request.
func malformed(what string) error { return errors.New("malformed request: " + what) }

// parseRequest reads a request, which is DER from its first octet to its last.
func parseRequest(der []byte) (*request, error) {
	if len(der) > MaxRequest {
		return nil, malformed("too long")
	}
	in := cryptobyte.String(der)
	var all, tbs, list cryptobyte.String
	var version int64
	if !in.ReadASN1(&all, cbasn1.SEQUENCE) || !in.Empty() ||
		!all.ReadASN1(&tbs, cbasn1.SEQUENCE) || !all.SkipOptionalASN1(contextTag(0)) || !all.Empty() ||
		!tbs.ReadOptionalASN1Integer(&version, contextTag(0), int64(0)) || !tbs.SkipOptionalASN1(contextTag(1)) ||
		!tbs.ReadASN1(&list, cbasn1.SEQUENCE) {
		return nil, malformed("not an OCSPRequest in DER")
	}
	if version != 0 {
		return nil, malformed("not version 1")
	}
	r := &request{}
	for !list.Empty() {
		if len(r.certs) == MaxCerts {
			return nil, malformed("too many certificates")
		}
		id, err := readSingle(&list)
		if err != nil {
			return nil, err
		}
		r.certs = append(r.certs, id)
	}
	if len(r.certs) == 0 {
		return nil, malformed("no certificate")
	}
	var err error
	if r.nonce, err = readExtensions(&tbs, 2); err != nil {
		return nil, err
	}
	if !tbs.Empty() {
		return nil, malformed("more than a TBSRequest")
	}
	return r, nil
}

// readSingle reads a Request: a CertID, and extensions of which none is known.
func readSingle(list *cryptobyte.String) (certID, error) {
	var single, raw cryptobyte.String
	if !list.ReadASN1(&single, cbasn1.SEQUENCE) || !single.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
		return certID{}, malformed("not a CertID")
	}
	id, err := readCertID(raw)
	if err != nil {
		return certID{}, err
	}
	nonce, err := readExtensions(&single, 0)
	if err == nil && nonce != nil {
		err = malformed("a nonce that is not the request's")
	}
	if err == nil && !single.Empty() {
		err = malformed("more than a Request")
	}
	return id, err
}

func readCertID(raw cryptobyte.String) (certID, error) {
	id := certID{raw: string(raw), serial: new(big.Int)}
	var all, algorithm, hash, name, key cryptobyte.String
	if !raw.ReadASN1(&all, cbasn1.SEQUENCE) || !all.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1(&hash, cbasn1.OBJECT_IDENTIFIER) ||
		!all.ReadASN1(&name, cbasn1.OCTET_STRING) || !all.ReadASN1(&key, cbasn1.OCTET_STRING) ||
		!all.ReadASN1Integer(id.serial) || !all.Empty() {
		return certID{}, malformed("not a CertID")
	}
	var null cryptobyte.String // the parameters of a hash are NULL or absent
	if !algorithm.Empty() && (!algorithm.ReadASN1(&null, cbasn1.NULL) || !null.Empty() || !algorithm.Empty()) {
		return certID{}, malformed("a hash with parameters")
	}
	if id.serial.BitLen() > 8*maxSerial {
		return certID{}, malformed("a serial number of more than 20 octets")
	}
	id.issuer = issuerKey{string(hash), string(name), string(key)}
	return id, nil
}

// readExtensions reads Extensions that may be there under a tag, and returns the nonce. What is critical must be known
// (RFC 5280 section 4.2); what is not may be passed over.
func readExtensions(in *cryptobyte.String, tag uint8) (nonce []byte, err error) {
	var outer, all cryptobyte.String
	var there bool
	if !in.ReadOptionalASN1(&outer, &there, contextTag(tag)) {
		return nil, malformed("not Extensions")
	}
	if !there {
		return nil, nil
	}
	if !outer.ReadASN1(&all, cbasn1.SEQUENCE) || !outer.Empty() {
		return nil, malformed("not Extensions")
	}
	for !all.Empty() {
		var one, value cryptobyte.String
		var id asn1.ObjectIdentifier
		var critical bool
		if !all.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&id) ||
			one.PeekASN1Tag(cbasn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) ||
			!one.ReadASN1(&value, cbasn1.OCTET_STRING) || !one.Empty() {
			return nil, malformed("not an Extension")
		}
		switch {
		case id.Equal(oidNonce) && nonce != nil:
			return nil, malformed("two nonces")
		case id.Equal(oidNonce):
			if nonce, err = readNonce(value); err != nil {
				return nil, err
			}
		case critical:
			return nil, malformed(fmt.Sprintf("critical extension %s", id))
		}
	}
	return nonce, nil
}

// readNonce reads a Nonce, whose length RFC 9654 section 2.1 bounds.
func readNonce(value cryptobyte.String) ([]byte, error) {
	var nonce cryptobyte.String
	if !value.ReadASN1(&nonce, cbasn1.OCTET_STRING) || !value.Empty() || len(nonce) == 0 || len(nonce) > maxNonce {
		return nil, malformed("want a nonce of 1 to 128 octets")
	}
	return nonce, nil
}

// newRequest writes the request for one certificate, as RFC 5019 section 2.1 wants it.
func newRequest(cert, issuer *x509.Certificate) ([]byte, error) {
	key, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	sequence := func(b *cryptobyte.Builder, content func(*cryptobyte.Builder)) { b.AddASN1(cbasn1.SEQUENCE, content) }
	sequence(&b, func(b *cryptobyte.Builder) { // OCSPRequest
		sequence(b, func(b *cryptobyte.Builder) { // TBSRequest
			sequence(b, func(b *cryptobyte.Builder) { // requestList
				sequence(b, func(b *cryptobyte.Builder) { // Request
					sequence(b, func(b *cryptobyte.Builder) { // CertID
						sequence(b, func(b *cryptobyte.Builder) {
							b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oidSHA1)) })
							b.AddASN1NULL()
						})
						b.AddASN1OctetString([]byte(sum(crypto.SHA1, issuer.RawSubject)))
						b.AddASN1OctetString([]byte(sum(crypto.SHA1, key)))
						b.AddASN1BigInt(cert.SerialNumber)
					})
				})
			})
		})
	})
	return b.Bytes()
}
