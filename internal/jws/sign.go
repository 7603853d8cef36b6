package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"errors"
	"fmt"
)

// Sign makes a signature as a JWS has it. The key must fit the algorithm, as KeyFits has it.
func Sign(key crypto.Signer, alg string, input []byte) ([]byte, error) {
	hash, known := hashes[alg]
	if !known {
		return nil, fmt.Errorf("no signatures are made with %q", alg)
	}
	if hash == 0 {
		return key.Sign(rand.Reader, input, hash)
	}
	opts := crypto.SignerOpts(hash)
	if isPSS(alg) {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	var room [sha512.Size]byte
	signature, err := key.Sign(rand.Reader, appendDigest(room[:0], alg, input), opts)
	if err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); ok {
		return fromDER(pub.Curve, signature)
	}
	return signature, nil
}

// octets is the length of a number of an ECDSA signature (RFC 7518 section 3.4).
func octets(curve elliptic.Curve) int { return (curve.Params().BitSize + 7) / 8 }

const (
	integer  = 0x02 // ASN.1 tags
	sequence = 0x30
	long     = 0x80 // a length, if it does not fit the seven bits below: in how many octets it follows
)

// toDER writes the two numbers of an ECDSA signature as crypto/ecdsa wants them: an ASN.1 SEQUENCE of two
// INTEGERs, whose contents are shorter than 256 octets on every curve.
func toDER(r, s []byte) []byte {
	der := make([]byte, 3, 3+2*3+len(r)+len(s))
	der = appendInteger(appendInteger(der, r), s)
	size := len(der) - 3
	if size < long {
		der[1], der[2] = sequence, byte(size)
		return der[1:]
	}
	der[0], der[1], der[2] = sequence, long|1, byte(size)
	return der
}

// appendInteger writes an unsigned number of less than 127 octets as a DER INTEGER.
func appendInteger(der, number []byte) []byte {
	for len(number) > 1 && number[0] == 0 {
		number = number[1:]
	}
	if number[0] >= 0x80 { // or it would be negative
		return append(append(der, integer, byte(len(number)+1), 0), number...)
	}
	return append(append(der, integer, byte(len(number))), number...)
}

var errMalformed = errors.New("the key made a malformed ECDSA signature")

// fromDER is toDER the other way, for what a crypto.Signer returns, which may be anything: both numbers at full
// length.
func fromDER(curve elliptic.Curve, der []byte) ([]byte, error) {
	if len(der) > 2 && der[0] == sequence && der[1] == long|1 && der[2] >= long {
		der = der[1:] // the length stands one octet later
	} else if len(der) < 2 || der[0] != sequence || der[1] >= long {
		return nil, errMalformed
	}
	if int(der[1]) != len(der)-2 {
		return nil, errMalformed
	}
	size := octets(curve)
	raw, rest := make([]byte, 2*size), der[2:]
	for half := raw; len(half) > 0; half = half[size:] {
		if len(rest) < 3 || rest[0] != integer || rest[1] == 0 || int(rest[1]) > len(rest)-2 {
			return nil, errMalformed
		}
		number := rest[2 : 2+rest[1]]
		rest = rest[2+rest[1]:]
		if number[0] >= 0x80 { // negative
			return nil, errMalformed
		}
		if number[0] == 0 && len(number) > 1 {
			if number = number[1:]; number[0] < 0x80 { // not the shortest form
				return nil, errMalformed
			}
		}
		if len(number) > size {
			return nil, errMalformed
		}
		copy(half[size-len(number):], number)
	}
	if len(rest) > 0 {
		return nil, errMalformed
	}
	return raw, nil
}
