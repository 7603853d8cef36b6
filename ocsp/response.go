package ocsp

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// OCSPResponseStatus (RFC 6960 section 4.2.1).
const (
	statusSuccessful   = 0
	statusMalformed    = 1
	statusInternal     = 2
	statusTryLater     = 3
	statusUnauthorized = 6
)

// The octets of a response that says why there is no other: these have no signature.
func failure(status byte) []byte { return []byte{0x30, 3, byte(cbasn1.ENUM), 1, status} }

const (
	oidBasic      = "\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01"     // id-pkix-ocsp-basic
	ecdsaSHA256   = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02" // RFC 5758 section 3.2
	nonceExtnID   = "\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x02"     // id-pkix-ocsp-nonce
	statusGood    = "\x80\x00"                                         // [0] IMPLICIT NULL
	statusUnknown = "\x82\x00"                                         // [2] IMPLICIT NULL
	zulu          = "20060102150405Z"                                  // GeneralizedTime, without fractions of seconds
)

// answer is what a response says of one certificate.
type answer struct {
	cert   certID
	status Status
}

// toBeSigned is a ResponseData.
type toBeSigned struct {
	delegate               *Delegate
	answers                []answer
	nonce                  []byte
	thisUpdate, nextUpdate time.Time
}

// sign returns the DER of a successful OCSPResponse (RFC 6960 section 4.2.1). It carries the delegate's certificate, by
// which a client that knows the issuer alone believes it.
func (t *toBeSigned) sign() ([]byte, error) {
	data, err := t.data()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(data)
	signature, err := t.delegate.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing an OCSP response: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(statusSuccessful)
		b.AddASN1(contextTag(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes([]byte(oidBasic))
				b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { t.basic(b, data, signature) })
			})
		})
	})
	return b.Bytes()
}

// basic writes a BasicOCSPResponse.
func (t *toBeSigned) basic(b *cryptobyte.Builder, data, signature []byte) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(data)
		b.AddBytes([]byte(ecdsaSHA256))
		b.AddASN1BitString(signature)
		b.AddASN1(contextTag(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(t.delegate.Certificate.Raw) })
		})
	})
}

// data is the DER of the ResponseData.
func (t *toBeSigned) data() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(contextTag(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(t.delegate.keyHash) }) // responderID, byKey
		addTime(b, t.thisUpdate)                                                                           // producedAt
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, a := range t.answers {
				t.single(b, a)
			}
		})
		if t.nonce == nil {
			return
		}
		b.AddASN1(contextTag(1), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddBytes([]byte(nonceExtnID))
					b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(t.nonce) })
				})
			})
		})
	})
	return b.Bytes()
}

// single writes a SingleResponse.
func (t *toBeSigned) single(b *cryptobyte.Builder, a answer) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte(a.cert.raw))
		switch a.status.Kind {
		case Good:
			b.AddBytes([]byte(statusGood))
		case Revoked:
			b.AddASN1(contextTag(1), func(b *cryptobyte.Builder) { // IMPLICIT RevokedInfo
				addTime(b, a.status.At)
				if a.status.Reason != 0 { // unspecified is better left out (RFC 5280 section 5.3.1)
					b.AddASN1(contextTag(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(a.status.Reason)) })
				}
			})
		default:
			b.AddBytes([]byte(statusUnknown))
		}
		addTime(b, t.thisUpdate)
		b.AddASN1(contextTag(0), func(b *cryptobyte.Builder) { addTime(b, t.nextUpdate) })
	})
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	b.AddASN1(cbasn1.GeneralizedTime, func(b *cryptobyte.Builder) { b.AddBytes(t.UTC().AppendFormat(nil, zulu)) })
}
