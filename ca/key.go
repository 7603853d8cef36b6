package ca

import (
	"crypto"
	"crypto/sha1" //nolint:gosec // G505: it names a key (RFC 5280 section 4.2.1.2, method 1) and protects nothing
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
)

// MaxCSR bounds a certificate request in octets, PEM or DER. An RSA-4096 request has about 1,600.
const MaxCSR = 16 << 10

// csrAlgorithms are those that a request may be signed with. crypto/x509 would take SHA-1 here.
var csrAlgorithms = []x509.SignatureAlgorithm{
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
}

// ProvenKey is a public key whose private half the requester was seen to use. Only the functions below make
// one, so a certificate cannot be asked for over a key that nobody proved.
type ProvenKey struct {
	pub crypto.PublicKey
	use [32]byte
}

// Use identifies the request that proved the key; two requests with the same one are a retry.
func (k ProvenKey) Use() [32]byte { return k.use }

// IsOf reports whether the key is that of a certificate.
func (k ProvenKey) IsOf(c *x509.Certificate) bool {
	pub, ok := k.pub.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && pub.Equal(c.PublicKey)
}

// ProveCSR reads a PKCS #10 request, PEM or DER, and checks its self-signature (RFC 2986 section 4.2).
// Everything else that the request says, its subject and extensions above all, is ignored: names come from
// the grant. The error is ErrCSR or ErrKey.
func ProveCSR(csr []byte) (ProvenKey, error) {
	if len(csr) == 0 || len(csr) > MaxCSR {
		return ProvenKey{}, fmt.Errorf("%w: want 1 to %d octets, got %d", ErrCSR, MaxCSR, len(csr))
	}
	der := csr
	if block, rest := pem.Decode(csr); block != nil {
		if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
			return ProvenKey{}, fmt.Errorf("%w: a PEM block of type %q; want CERTIFICATE REQUEST", ErrCSR, block.Type)
		}
		if next, _ := pem.Decode(rest); next != nil {
			return ProvenKey{}, fmt.Errorf("%w: more than one PEM block", ErrCSR)
		}
		der = block.Bytes
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return ProvenKey{}, fmt.Errorf("%w: want a PKCS #10 request as PEM or DER: %w", ErrCSR, err)
	}
	// The bounds on the key come before the signature check, which costs what the key's size makes it cost.
	if _, err := KeyTypeOf(req.PublicKey); err != nil {
		return ProvenKey{}, err
	}
	if !slices.Contains(csrAlgorithms, req.SignatureAlgorithm) {
		return ProvenKey{}, fmt.Errorf("%w: it is signed with %s; use SHA-256 or better, or Ed25519", ErrCSR, req.SignatureAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return ProvenKey{}, fmt.Errorf("%w: its signature does not prove possession of its key: %w", ErrCSR, err)
	}
	return ProvenKey{pub: req.PublicKey, use: sha256.Sum256(der)}, nil
}

// ProvePeer returns the certificate that the other side of a TLS connection authenticated with, and its key,
// which the handshake proved (RFC 8446 section 4.4.3), also where the session was resumed. ok is false
// without a certificate.
func ProvePeer(state *tls.ConnectionState) (leaf *x509.Certificate, key ProvenKey, ok bool) {
	if state == nil || !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return nil, ProvenKey{}, false
	}
	leaf = state.PeerCertificates[0]
	return leaf, ProvenKey{pub: leaf.PublicKey, use: sha256.Sum256(leaf.RawSubjectPublicKeyInfo)}, true
}

// ProveOwn vouches for a key that this process holds itself.
func ProveOwn(key crypto.Signer) (ProvenKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ProvenKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return ProvenKey{pub: key.Public(), use: sha256.Sum256(spki)}, nil
}

// IssuerID names an issuing CA in URLs and records: the first 8 octets of its subject key identifier, in hex.
func IssuerID(c *x509.Certificate) string {
	id := c.SubjectKeyId
	if len(id) < 8 {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		id = sum[:]
	}
	return hex.EncodeToString(id[:8])
}

// KeyIssuerID is the id of an issuing CA that has a key and no certificate yet. It is that of IssuerID if the certificate
// is given the usual subject key identifier (RFC 5280 section 4.2.1.2, method 1).
func KeyIssuerID(pub crypto.PublicKey) (string, error) {
	_, key, err := publicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(key) //nolint:gosec // G401: it names a key and protects nothing
	return hex.EncodeToString(sum[:8]), nil
}
