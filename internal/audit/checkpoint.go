package audit

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Checkpoint says that a log ended with an entry at an instant. Kept where who can write the log cannot, it proves later
// that the log up to there is the one of then.
//
// It is one line of seven texts with a space between: the mark, the origin, the number and the hash of the entry, the
// instant (RFC 3339), the key's id, and the signature in base64. ECDSA with SHA-256 signs what stands before the last
// space, so that a shell and openssl can check it.
type Checkpoint struct {
	Origin string // of the log: where its CA is reached
	Head
	Time time.Time // in seconds
	Key  string    // KeyID of who signed it

	signed    string
	signature []byte
}

const (
	checkpointMark = "pkid-checkpoint-v1"
	maxCheckpoint  = 1024 // octets of a line
)

// ErrCheckpoint: a line that is no checkpoint, or one that no known key signed.
var ErrCheckpoint = errors.New("not a valid checkpoint")

// KeyID names a key in a checkpoint: 16 hex digits of the SHA-256 of its SubjectPublicKeyInfo.
func KeyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("audit key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8]), nil
}

// SignCheckpoint returns a checkpoint's line, without its end.
func SignCheckpoint(key crypto.Signer, origin string, head Head, at time.Time) (string, error) {
	id, err := KeyID(key.Public())
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s %s %d %s %s %s", checkpointMark, origin, head.Seq, head.Hash, at.UTC().Format(time.RFC3339), id)
	digest := sha256.Sum256([]byte(text))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing a checkpoint: %w", err)
	}
	line := text + " " + base64.StdEncoding.EncodeToString(signature)
	c, err := ParseCheckpoint(line)
	if err == nil {
		err = c.Verify(key.Public())
	}
	if err != nil {
		return "", fmt.Errorf("checking a checkpoint that was signed: %w", err)
	}
	return line, nil
}

// ParseCheckpoint reads a line. It does not check the signature.
func ParseCheckpoint(line string) (Checkpoint, error) {
	if len(line) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: longer than %d octets", ErrCheckpoint, maxCheckpoint)
	}
	f := strings.Split(line, " ")
	if len(f) != 7 || f[0] != checkpointMark || f[1] == "" {
		return Checkpoint{}, fmt.Errorf("%w: want a line of seven words that begins with %s", ErrCheckpoint, checkpointMark)
	}
	c := Checkpoint{Origin: f[1], Key: f[5], signed: strings.Join(f[:6], " ")}
	var errs [4]error
	c.Seq, errs[0] = strconv.ParseUint(f[2], 10, 64)
	errs[1] = c.Hash.UnmarshalText([]byte(f[3]))
	c.Time, errs[2] = time.Parse(time.RFC3339, f[4])
	c.signature, errs[3] = base64.StdEncoding.Strict().DecodeString(f[6])
	if err := errors.Join(errs[:]...); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	return c, nil
}

// Verify checks that one of these keys signed it; they are *ecdsa.PublicKey.
func (c *Checkpoint) Verify(keys ...crypto.PublicKey) error {
	digest := sha256.Sum256([]byte(c.signed))
	ids := make([]string, 0, len(keys))
	for _, key := range keys {
		pub, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("a checkpoint is checked with an ECDSA key, not a %T", key)
		}
		id, err := KeyID(pub)
		if err != nil {
			return err
		}
		if ids = append(ids, id); id == c.Key && ecdsa.VerifyASN1(pub, digest[:], c.signature) {
			return nil
		}
	}
	if slices.Contains(ids, c.Key) {
		return fmt.Errorf("%w: the signature is not over these words: they were changed", ErrCheckpoint)
	}
	return fmt.Errorf("%w: it names key %s, and the keys to check it with are %s", ErrCheckpoint, c.Key, strings.Join(ids, ", "))
}

// ReadCheckpoints reads lines that these keys signed, in any order. The error names the line.
func ReadCheckpoints(r io.Reader, keys ...crypto.PublicKey) ([]Checkpoint, error) {
	var all []Checkpoint
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		c, err := ParseCheckpoint(lines.Text())
		if err == nil {
			err = c.Verify(keys...)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		all = append(all, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading checkpoints: %w", err)
	}
	return all, nil
}
