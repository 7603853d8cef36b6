package stepca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
)

// A key outside the process gets this long to sign, and this many signatures at once. No more than maxWaiting requests
// wait for their turn: a device makes some hundred signatures a second, and who comes later is better told at once.
const (
	signTimeout = 10 * time.Second
	maxInFlight = 32
	maxWaiting  = 512
)

// A probe of a key that failed gets this long, and is made no more often than this.
const (
	probeTimeout = 2 * time.Second
	probeEvery   = 2 * time.Second
)

// gate stands before a key outside the process, which may be slow, hang or go away. crypto.Signer has no context, so the
// key is waited for from a goroutine, which ends when the key answers; slots bounds how many a device that hangs can hold.
type gate struct {
	key   crypto.Signer
	slots chan struct{} // holds an element for each signature under way
	queue chan struct{} // holds an element for each request, signatures under way included

	mu     sync.Mutex // guards the rest
	failed error      // of the last signature, if it failed
	probed time.Time  // when the last probe began
}

func newGate(key crypto.Signer) *gate {
	return &gate{key: key, slots: make(chan struct{}, maxInFlight), queue: make(chan struct{}, maxInFlight+maxWaiting)}
}

// gateOf returns the gate before a key: none if the key is in memory, which signs in no time.
func gateOf(key crypto.Signer) *gate {
	switch key := key.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
		return nil
	case *gate:
		return key
	default:
		return newGate(key)
	}
}

// Public returns the public key.
func (g *gate) Public() crypto.PublicKey { return g.key.Public() }

// Sign is sign for those who have no context.
func (g *gate) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return g.sign(context.Background(), digest, opts)
}

// sign signs, or fails with ca.ErrSignerAway, or with ctx's error if that ended first.
func (g *gate) sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	select {
	case g.queue <- struct{}{}:
		defer func() { <-g.queue }()
	default:
		return nil, fmt.Errorf("%w: %d requests wait for it already", ca.ErrSignerAway, maxWaiting)
	}
	return g.wait(ctx, signTimeout, digest, opts)
}

func (g *gate) wait(ctx context.Context, timeout time.Duration, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case g.slots <- struct{}{}:
	case <-inner.Done():
		return nil, g.gaveUp(ctx, inner)
	}
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-g.slots }()
		out, err := g.ask(digest, opts)
		if err != nil {
			err = fmt.Errorf("%w: %w", ca.ErrSignerAway, err)
		}
		g.note(err) // also of an answer that came too late for its request
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		return a.out, a.err
	case <-inner.Done():
		return nil, g.gaveUp(ctx, inner)
	}
}

// ask asks the key. A panic of what speaks to a device would end the process, since no request's goroutine is above it.
func (g *gate) ask(digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in what speaks to the device: %v", r)
		}
	}()
	return g.key.Sign(rand.Reader, digest, opts)
}

// gaveUp tells a requester who left from a key that does not answer.
func (g *gate) gaveUp(ctx, inner context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("waiting for the key: %w", err)
	}
	err := fmt.Errorf("%w: %w", ca.ErrSignerAway, inner.Err())
	g.note(err)
	return err
}

// note keeps what became of the last signature.
func (g *gate) note(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = err
}

// check returns why the last signature failed. Then nobody may ask for one any more, so it tries by itself.
func (g *gate) check(ctx context.Context) error {
	g.mu.Lock()
	failed := g.failed
	due := failed != nil && time.Since(g.probed) >= probeEvery
	if due {
		g.probed = time.Now()
	}
	g.mu.Unlock()
	if !due {
		return failed
	}
	// A text that is no certificate's, CRL's or token's: nobody can use the signature.
	text := []byte("pkid asks whether this key signs\n")
	sum := sha256.Sum256(text)
	digest, hash := sum[:], crypto.SHA256
	if kind, err := ca.KeyTypeOf(g.Public()); err == nil && kind == ca.Ed25519 {
		digest, hash = text, crypto.Hash(0)
	}
	_, err := g.wait(ctx, probeTimeout, digest, hash)
	return err
}

// Check returns nil if a key that OpenKey returned is in memory, or signed when it was last asked to. It asks again by
// itself when that failed, so that a key that came back is found without a request.
func Check(ctx context.Context, key crypto.Signer) error {
	if g, ok := key.(*gate); ok {
		return g.check(ctx)
	}
	return nil
}
