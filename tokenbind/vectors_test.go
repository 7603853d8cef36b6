package tokenbind

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/jws"
	"github.com/pkid/pkid/thumbprint"
)

// vector is an entry of testdata/vectors.json.
type vector struct {
	ID          string `json:"id"`
	Kind        string `json:"kind"`
	PEM         string `json:"pem"`
	X5T         string `json:"x5t#S256"`
	JWK         object `json:"jwk"`
	JKT         string `json:"jkt"`
	Proof       string `json:"proof"`
	Method      string `json:"method"`
	URL         string `json:"url"`
	Now         int64  `json:"now"`
	AccessToken string `json:"access_token"`
	ATH         string `json:"ath"`
	Expect      string `json:"expect"`
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("no vectors")
	}
	return out
}

func TestVectors(t *testing.T) {
	seen := map[string]int{}
	for _, v := range readVectors(t) {
		seen[v.Kind]++
		t.Run(v.ID, func(t *testing.T) {
			switch v.Kind {
			case "certificate":
				checkCertificateVector(t, v)
			case "jwk":
				checkJWKVector(t, v)
			case "proof":
				checkProofVector(t, v)
			}
		})
	}
	for _, kind := range []string{"certificate", "jwk", "proof"} {
		if seen[kind] == 0 {
			t.Errorf("no vector of kind %s", kind)
		}
	}
}

func checkCertificateVector(t *testing.T, v vector) {
	block, _ := pem.Decode([]byte(v.PEM))
	if block == nil {
		t.Fatal("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := thumbprint.OfCertificate(cert).String(); got != v.X5T {
		t.Errorf("x5t#S256 %s, want %s", got, v.X5T)
	}
}

func checkJWKVector(t *testing.T, v vector) {
	key, err := jws.PublicKey(v.JWK)
	if err != nil {
		t.Fatal(err)
	}
	alg, err := jws.AlgorithmOf(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := jws.KeyFits(alg, key); err != nil {
		t.Error(err)
	}
	if got, err := thumbprint.OfKey(key); v.JKT != "" && (err != nil || got.String() != v.JKT) {
		t.Errorf("jkt %s, %v; want %s", got, err, v.JKT)
	}
}

// checkProofVector checks the proof at the vector's own time, and then that every part of it counts.
func checkProofVector(t *testing.T, v vector) {
	now := func() time.Time { return time.Unix(v.Now, 0) }
	jkt, err := thumbprint.ParseKey(v.JKT)
	if err != nil {
		t.Fatal(err)
	}
	good := ProofRequest{Headers: []string{v.Proof}, Method: v.Method, URLs: []string{v.URL}, AccessToken: v.AccessToken, Key: jkt}
	check := func(r ProofRequest) (*Proof, error) {
		c := &ProofChecker{Replay: NewMemoryReplay(10, now), Now: now}
		return c.Check(t.Context(), r)
	}
	p, err := check(good)
	if accepted := err == nil; accepted != (v.Expect == "accept") {
		t.Fatalf("%v, want %s", err, v.Expect)
	}
	if err != nil {
		return
	}
	if p.Key.String() != v.JKT {
		t.Errorf("jkt %s, want %s", p.Key, v.JKT)
	}
	if v.ATH != "" && thumbprint.OfToken(v.AccessToken).String() != v.ATH {
		t.Errorf("ath %s, want %s", thumbprint.OfToken(v.AccessToken), v.ATH)
	}
	for name, edit := range map[string]func(*ProofRequest){
		"method": func(r *ProofRequest) { r.Method = "DELETE" },
		"URL":    func(r *ProofRequest) { r.URLs = []string{v.URL + "x"} },
		"token":  func(r *ProofRequest) { r.AccessToken += "x" },
		"key":    func(r *ProofRequest) { r.Key[0] ^= 1 },
	} {
		r := good
		edit(&r)
		if _, err := check(r); err == nil {
			t.Errorf("accepted with another %s", name)
		}
	}
}

// FuzzProof holds what an accepted proof promises against a second look that shares no code with the rules.
func FuzzProof(f *testing.F) {
	seeds := 0
	for _, v := range readVectors(f) {
		if v.Kind == "proof" {
			f.Add(v.Proof, v.Method, v.URL, v.AccessToken, v.Now)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, proof, method, url, token string, unix int64) {
		now := func() time.Time { return time.Unix(unix, 0) }
		c := &ProofChecker{Replay: NewMemoryReplay(10, now), Now: now}
		r := ProofRequest{Headers: []string{proof}, Method: method, URLs: []string{url}, AccessToken: token}
		p, err := c.Check(t.Context(), r)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		verifyIndependently(t, proof, method, token, p)
		if age := now().Sub(p.IssuedAt); age > 70*time.Second || age < -10*time.Second {
			t.Errorf("%v old", age)
		}
		if jkt, err := thumbprint.OfKey(p.PublicKey); err != nil || !jkt.Equal(p.Key) {
			t.Errorf("the key's thumbprint is %v, %v; got %v", jkt, err, p.Key)
		}
		if _, err := c.Check(t.Context(), r); err == nil {
			t.Error("accepted twice")
		}
	})
}
