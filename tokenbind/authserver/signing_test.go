package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkid/pkid/internal/jws"
)

// brokenKey signs with what a faulty device might return.
type brokenKey struct {
	crypto.Signer
	signature []byte
	err       error
}

func (k brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return k.signature, k.err
}

func TestToken_KeyThatFailsIsUnavailable(t *testing.T) {
	for name, key := range map[string]brokenKey{
		"an error": {Signer: newKey(t), err: errors.New("the device is gone")}, "no signature": {Signer: newKey(t), signature: []byte{0x30, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, func(c *Config) { c.Keys = []SigningKey{{key, "ES256"}} })
			mustRefuse(t, h.token(clientID("a"), presenting(h.enrol("a"))), 503, "temporarily_unavailable", "")
		})
	}
}

func TestVerify_OneTextPerToken(t *testing.T) {
	h := newHouse(t)
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	if h.keys.Load().verify(token) == nil {
		t.Fatal("the token is not taken")
	}
	key := h.config.Keys[0].Key.(*ecdsa.PrivateKey)
	parts := strings.Split(token, ".")
	// again signs another header, or another payload, with the right key.
	again := func(header, payload string) string {
		signer, err := newSigningKeys([]SigningKey{{key, "ES256"}})
		if err != nil {
			t.Fatal(err)
		}
		input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + payload
		signature, err := jws.Sign(signer.set[0].key, "ES256", []byte(input))
		if err != nil {
			t.Fatal(err)
		}
		return input + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(parts[0])
	if h.keys.Load().verify(again(string(raw), parts[1])) == nil {
		t.Error("the same token with another signature is not taken") // so the rest is refused for what it is
	}
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	order := key.Curve.Params().N
	stretched := append(append(new(big.Int).SetBytes(sig[:32]).FillBytes(make([]byte, 33)), 0), sig[32:]...)
	for name, bad := range map[string]string{
		"padding":               token + "=",
		"line break":            token[:len(token)-3] + "\n" + token[len(token)-3:],
		"line break in payload": parts[0] + "." + parts[1][:9] + "\r\n" + parts[1][9:] + "." + parts[2],
		"stray bits":            token[:len(token)-1] + nextLetter(token[len(token)-1]),
		"two parts":             parts[0] + "." + parts[1],
		"header alone":          parts[0] + ".",
		"no signature":          parts[0] + "." + parts[1] + ".",
		"four parts":            token + "." + parts[2],
		"no header":             "." + parts[1] + "." + parts[2],
		"crit":                  again(strings.Replace(string(raw), "{", `{"crit":["exp"],`, 1), parts[1]),
		"another key's header":  again(strings.Replace(string(raw), `"alg":"ES256"`, `"alg":"none"`, 1), parts[1]),
		"no JSON":               again(string(raw), base64.RawURLEncoding.EncodeToString([]byte("x"))),
		"no base64url":          again(string(raw), "e30="),
		"long numbers":          parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(stretched),
		"number of the order":   parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(append(order.Bytes(), sig[32:]...)),
		"zeros":                 parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
	} {
		for range 2 { // nor at the second sight
			if h.keys.Load().verify(bad) != nil {
				t.Errorf("%s: taken", name)
			}
		}
	}
}

// nextLetter is a character of base64url whose first bits are those of c.
func nextLetter(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// What another library makes of our tokens: its key set, its parser, its arithmetic.
func TestSign_OthersVerify(t *testing.T) {
	for alg, key := range signers(t) {
		keys, err := newSigningKeys([]SigningKey{{key, alg}})
		if err != nil {
			t.Fatal(err)
		}
		token, err := keys.sign([]byte("before:"), &accessClaims{Issuer: "https://as.example", Audience: []string{"a", "b"}, Scope: `"`})
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimPrefix(string(token), "before:")
		signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		header := signed.Signatures[0].Protected
		if header.KeyID != keys.set[0].id || header.ExtraHeaders[jose.HeaderType] != tokenType {
			t.Errorf("%s: header %+v", alg, header)
		}
		published, err := keys.publish()
		if err != nil {
			t.Fatal(err)
		}
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(published, &set); err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(set); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		for range 2 { // at the first sight, and remembered
			if keys.verify(text) == nil {
				t.Errorf("%s: we do not take it", alg)
			}
		}
	}
}

func TestVerify_RemembersShortTokensOnly(t *testing.T) {
	keys, err := newSigningKeys([]SigningKey{{newKey(t), "ES256"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2 * maxVerified} {
		token, err := keys.sign(nil, &accessClaims{Subject: strings.Repeat("x", n)})
		if err != nil {
			t.Fatal(err)
		}
		first, second := keys.verify(string(token)), keys.verify(string(token))
		if first == nil || second == nil || (first == second) != (n == 1) {
			t.Errorf("%d octets: remembered: %t", len(token), first == second)
		}
	}
	if keys.verify("x") != nil || keys.verified.Len() != 1 {
		t.Errorf("%d texts are remembered; want the one token", keys.verified.Len())
	}
}

// A server that no longer publishes a key knows nothing of what it signed, seen before or not.
func TestVerify_KeyThatIsGone(t *testing.T) {
	h := newHouse(t)
	ask := h.resourceServer()
	token, _ := mustIssue(t, h.token(clientID("a"), presenting(h.enrol("a"))))
	mustBeActive(t, ask(token), true)
	h.config.Keys = []SigningKey{{newKey(t), "ES256"}}
	next, err := New(h.config)
	if err != nil {
		t.Fatal(err)
	}
	*h.Server = *next
	mustBeActive(t, ask(token), false)
}
