package stepca

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
)

// iterations is the PBKDF2 cost of the files that a daemon opens at each start: some 8 ms, so that it answers in
// less than 100 ms. The passphrase that quickstart makes has 192 random bits, which no count could add to. Who
// prefers a passphrase of words raises the cost with `openssl pkcs8 -topk8 -iter N`; files of up to maxIterations
// are read. The root's key is opened once in years and costs coldIterations, which OWASP asks for.
const (
	iterations     = 50_000
	coldIterations = 600_000
	maxIterations  = 10_000_000
	saltSize       = 16
)

var (
	// errPadding is what a wrong passphrase nearly always looks like.
	errPadding = errors.New("wrong padding")
	// errEnvelope reports an encryption that is damaged or of another kind.
	errEnvelope = errors.New("want PKCS #8 encrypted with PBES2, PBKDF2 and AES-CBC, as `openssl pkcs8 -topk8 -v2 aes-256-cbc` writes it")
)

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidHMACSHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	oidAES128CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// encryptedPrivateKeyInfo is RFC 5958 section 3 with the one algorithm that is read and written: PBES2
// (RFC 8018 appendix A.4).
type encryptedPrivateKeyInfo struct {
	Algorithm struct {
		OID    asn1.ObjectIdentifier
		Params struct {
			KDF struct {
				OID    asn1.ObjectIdentifier
				Params pbkdf2Params
			}
			Cipher struct {
				OID asn1.ObjectIdentifier
				IV  []byte
			}
		}
	}
	Ciphertext []byte
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// encrypt wraps plaintext with AES-256-CBC under a key from PBKDF2 with HMAC-SHA-256 and that many iterations.
func encrypt(plaintext, passphrase []byte, cost int) ([]byte, error) {
	var e encryptedPrivateKeyInfo
	salt, iv := make([]byte, saltSize), make([]byte, aes.BlockSize)
	rand.Read(salt)
	rand.Read(iv)
	e.Algorithm.OID = oidPBES2
	e.Algorithm.Params.KDF.OID = oidPBKDF2
	e.Algorithm.Params.KDF.Params = pbkdf2Params{
		Salt: salt, Iterations: cost,
		PRF: pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue},
	}
	e.Algorithm.Params.Cipher.OID = oidAES256CBC
	e.Algorithm.Params.Cipher.IV = iv

	block, err := e.cipher(passphrase)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	e.Ciphertext = append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(e.Ciphertext, e.Ciphertext)
	return asn1.Marshal(e)
}

// decrypt opens what encrypt or OpenSSL wrote. The error is errEnvelope or errPadding; one wrong passphrase
// in 256 passes for right, so the caller checks what came out.
func decrypt(der, passphrase []byte) ([]byte, error) {
	var e encryptedPrivateKeyInfo
	rest, err := asn1.Unmarshal(der, &e)
	if err != nil || len(rest) > 0 {
		return nil, errEnvelope
	}
	block, err := e.cipher(passphrase)
	if err != nil {
		return nil, err
	}
	iv, out := e.Algorithm.Params.Cipher.IV, e.Ciphertext
	if len(iv) != aes.BlockSize || len(out) == 0 || len(out)%aes.BlockSize != 0 {
		return nil, errEnvelope
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, out)
	pad := int(out[len(out)-1])
	if pad == 0 || pad > aes.BlockSize || !bytes.HasSuffix(out, bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errPadding
	}
	return out[:len(out)-pad], nil
}

func (e *encryptedPrivateKeyInfo) cipher(passphrase []byte) (cipher.Block, error) {
	kdf, p := e.Algorithm.Params.KDF, e.Algorithm.Params.KDF.Params
	if !e.Algorithm.OID.Equal(oidPBES2) || !kdf.OID.Equal(oidPBKDF2) || p.Iterations < 1 || p.Iterations > maxIterations {
		return nil, errEnvelope
	}
	var prf func() hash.Hash
	switch {
	case p.PRF.Algorithm.Equal(oidHMACSHA256):
		prf = sha256.New
	case p.PRF.Algorithm.Equal(oidHMACSHA512):
		prf = sha512.New
	default:
		return nil, errEnvelope
	}
	var size int
	switch {
	case e.Algorithm.Params.Cipher.OID.Equal(oidAES128CBC):
		size = 16
	case e.Algorithm.Params.Cipher.OID.Equal(oidAES256CBC):
		size = 32
	default:
		return nil, errEnvelope
	}
	if p.KeyLength != 0 && p.KeyLength != size {
		return nil, errEnvelope
	}
	key, err := pbkdf2.Key(prf, string(passphrase), p.Salt, p.Iterations, size)
	if err != nil {
		return nil, fmt.Errorf("deriving key: %w", err)
	}
	return aes.NewCipher(key)
}
