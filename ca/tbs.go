package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // G505: it names a key (RFC 5280 section 4.2.1.2, method 1) and protects nothing
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// TBSCertificate is what is signed of a certificate (RFC 5280 section 4.1), as a digest. Only this package makes one,
// of a decision, so that who holds an Authority's Signer cannot have another certificate signed.
type TBSCertificate struct {
	der       []byte
	digest    []byte
	algorithm crlAlgorithm
}

// Digest returns what the key is to sign: the digest by Hash or, if that is zero, the DER itself.
func (t TBSCertificate) Digest() []byte { return bytes.Clone(t.digest) }

// Hash is that of the signature algorithm; zero for Ed25519, which takes the message itself.
func (t TBSCertificate) Hash() crypto.Hash { return t.algorithm.hash }

// signed returns the DER of the whole certificate.
func (t TBSCertificate) signed(signature []byte) []byte {
	b := make([]byte, 0, len(t.der)+len(t.algorithm.der)+len(signature)+16)
	return element(b, tagSequence, func(b []byte) []byte {
		b = append(append(b, t.der...), t.algorithm.der...)
		return bitString(b, signature)
	})
}

// Object identifiers, as their content octets.
const (
	oidCommonName       = "\x55\x04\x03"
	oidSubjectKeyID     = "\x55\x1d\x0e"
	oidKeyUsage         = "\x55\x1d\x0f"
	oidSubjectAltName   = "\x55\x1d\x11"
	oidBasicConstraints = "\x55\x1d\x13"
	oidCRLPoints        = "\x55\x1d\x1f"
	oidAuthorityKeyID   = "\x55\x1d\x23"
	oidExtKeyUsage      = "\x55\x1d\x25"
	oidAuthorityInfo    = "\x2b\x06\x01\x05\x05\x07\x01\x01"
	oidOCSP             = "\x2b\x06\x01\x05\x05\x07\x30\x01"
	oidOCSPNoCheck      = "\x2b\x06\x01\x05\x05\x07\x30\x01\x05"
	oidCAIssuers        = "\x2b\x06\x01\x05\x05\x07\x30\x02"
	oidServerAuth       = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	oidClientAuth       = "\x2b\x06\x01\x05\x05\x07\x03\x02"
	oidOCSPSigning      = "\x2b\x06\x01\x05\x05\x07\x03\x09"
)

// The tags of a GeneralName (RFC 5280 section 4.2.1.6).
const (
	generalEmail = 1
	generalDNS   = 2
	generalURI   = 6
	generalIP    = 7
)

// leafWriter writes the certificates of one issuer. What is the same in all of them is encoded once.
type leafWriter struct {
	algorithm crlAlgorithm
	issuer    []byte // its name
	authority []byte // the extensions that lead to it: its key identifier, and where its certificate and its OCSP responder are
	responder []byte // the same for the responder itself, of which nobody asks
}

func newLeafWriter(i *Issuer) (*leafWriter, error) {
	cert := i.Signer.Certificate()
	kind, err := KeyTypeOf(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("issuing CA %q: %w", cert.Subject, err)
	}
	w := &leafWriter{algorithm: crlAlgorithms[kind], issuer: cert.RawSubject}
	keyID := extension(nil, oidAuthorityKeyID, false, func(b []byte) []byte {
		return element(b, tagSequence, func(b []byte) []byte { return primitive(b, contextTag(0), cert.SubjectKeyId) })
	})
	w.authority = authorityInfo(bytes.Clone(keyID), i.OCSPURL, i.AIAURL)
	w.responder = authorityInfo(keyID, "", i.AIAURL)
	return w, nil
}

// authorityInfo appends the extension that says where to ask about a certificate, if anywhere, and where its issuer's is.
func authorityInfo(b []byte, ocsp, issuer string) []byte {
	access := func(b []byte, method, url string) []byte {
		return element(b, tagSequence, func(b []byte) []byte {
			return primitive(primitive(b, asn1.TagOID, method), contextTag(generalURI), url)
		})
	}
	return extension(b, oidAuthorityInfo, false, func(b []byte) []byte {
		return element(b, tagSequence, func(b []byte) []byte {
			if ocsp != "" {
				b = access(b, oidOCSP, ocsp)
			}
			return access(b, oidCAIssuers, issuer)
		})
	})
}

// crlPoint is the extension that says where a certificate's CRL is.
func crlPoint(url string) []byte {
	return extension(nil, oidCRLPoints, false, func(b []byte) []byte {
		return element(b, tagSequence, func(b []byte) []byte { // of points, of which there is one
			return element(b, tagSequence, func(b []byte) []byte {
				return element(b, contextTag(0)|0x20, func(b []byte) []byte { // distributionPoint
					return element(b, contextTag(0)|0x20, func(b []byte) []byte { // fullName
						return primitive(b, contextTag(generalURI), url)
					})
				})
			})
		})
	})
}

var usageOIDs = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageServerAuth:  oidServerAuth,
	x509.ExtKeyUsageClientAuth:  oidClientAuth,
	x509.ExtKeyUsageOCSPSigning: oidOCSPSigning,
}

// usageExtensions are those that say what a profile's certificates are for: signatures, by keys that are no CA's.
func usageExtensions(usages []x509.ExtKeyUsage) []byte {
	b := extension(nil, oidKeyUsage, true, func(b []byte) []byte {
		return append(b, asn1.TagBitString, 2, 7, 0x80) // digitalSignature, the first bit of one
	})
	b = extension(b, oidExtKeyUsage, false, func(b []byte) []byte {
		return element(b, tagSequence, func(b []byte) []byte {
			for _, u := range usages {
				b = primitive(b, asn1.TagOID, usageOIDs[u])
			}
			return b
		})
	})
	return extension(b, oidBasicConstraints, true, func(b []byte) []byte { return append(b, tagSequence, 0) })
}

// write returns what is to be signed for d under a serial number. Its extensions come in the order of
// crypto/x509.
func (w *leafWriter) write(d *decision, serial Serial) (TBSCertificate, error) {
	algorithm, key, err := publicKey(d.key)
	if err != nil {
		return TBSCertificate{}, err
	}
	der := element(make([]byte, 0, 1024), tagSequence, func(b []byte) []byte {
		b = append(b, 0xa0, 3, asn1.TagInteger, 1, 2) // version 3
		b = positive(b, serial[:])
		b = append(append(b, w.algorithm.der...), w.issuer...)
		b = element(b, tagSequence, func(b []byte) []byte { return instant(instant(b, d.notBefore), d.notAfter) })
		b = subject(b, d.names.CommonName)
		b = element(b, tagSequence, func(b []byte) []byte { return bitString(append(b, algorithm...), key) })
		return element(b, 0xa3, func(b []byte) []byte {
			return element(b, tagSequence, func(b []byte) []byte {
				b = append(b, d.profile.usage...)
				b = keyIdentifier(b, key)
				if d.profile == responderProfile {
					b = append(b, w.responder...)
					return extension(b, oidOCSPNoCheck, false, func(b []byte) []byte { return append(b, asn1.TagNull, 0) })
				}
				b = append(b, w.authority...)
				b = alternativeNames(b, d.names)
				return append(b, d.shard.extension...)
			})
		})
	})
	return TBSCertificate{der: der, digest: w.algorithm.digest([][]byte{der}), algorithm: w.algorithm}, nil
}

// subject appends a Name of one common name.
func subject(b []byte, commonName string) []byte {
	return element(b, tagSequence, func(b []byte) []byte {
		return element(b, tagSet, func(b []byte) []byte {
			return element(b, tagSequence, func(b []byte) []byte {
				return directoryString(primitive(b, asn1.TagOID, oidCommonName), commonName)
			})
		})
	})
}

// keyIdentifier appends the subject key identifier (RFC 5280 section 4.2.1.2, method 1).
func keyIdentifier(b, key []byte) []byte {
	sum := sha1.Sum(key) //nolint:gosec // G401: see the import
	return extension(b, oidSubjectKeyID, false, func(b []byte) []byte { return primitive(b, asn1.TagOctetString, sum[:]) })
}

// alternativeNames appends the subject alternative name, if there is any.
func alternativeNames(b []byte, n Names) []byte {
	if n.count() == 0 {
		return b
	}
	return extension(b, oidSubjectAltName, false, func(b []byte) []byte {
		return element(b, tagSequence, func(b []byte) []byte {
			for _, s := range n.DNS {
				b = primitive(b, contextTag(generalDNS), s)
			}
			for _, s := range n.Emails {
				b = primitive(b, contextTag(generalEmail), s)
			}
			for _, a := range n.IPs {
				b = primitive(b, contextTag(generalIP), a.AsSlice())
			}
			for _, s := range n.URIs {
				b = primitive(b, contextTag(generalURI), s)
			}
			return b
		})
	})
}

// The AlgorithmIdentifiers of public keys (RFC 5480 section 2.1.1, RFC 3279 section 2.3.1, RFC 8410 section 3).
var (
	rsaKey = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
	keyIDs = map[KeyType]string{
		P256:    "\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
		P384:    "\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
		P521:    "\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
		Ed25519: "\x30\x05\x06\x03\x2b\x65\x70",
		RSA2048: rsaKey, RSA3072: rsaKey, RSA4096: rsaKey,
	}
)

// publicKey returns the two parts of a SubjectPublicKeyInfo.
func publicKey(pub crypto.PublicKey) (algorithm string, key []byte, err error) {
	kind, err := KeyTypeOf(pub)
	if err != nil {
		return "", nil, err
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		key, err = k.Bytes() // uncompressed
	case *rsa.PublicKey:
		key = x509.MarshalPKCS1PublicKey(k)
	case ed25519.PublicKey:
		key = bytes.Clone(k)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return keyIDs[kind], key, nil
}
