package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The floor is what cannot be left out: net/http over TLS and the crypto of the work, without a store, a
// policy, a log or a check of what was signed. It runs as a process of its own, as the contenders do: this
// program again, told by floorEnv.

const (
	floorEnv  = "PKID_BENCH_FLOOR"      // the address to serve
	floorDir  = "PKID_BENCH_FLOOR_CA"   // the directory of the testCA
	floorFile = "PKID_BENCH_FLOOR_FILE" // what /file serves from memory
)

// floorServer is that process.
type floorServer struct {
	*process
	addr string
}

func (b *bench) startFloor(ctx context.Context, name, file string) (*floorServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := b.ca.server(); err != nil {
		return nil, err
	}
	s := &floorServer{}
	if s.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	s.process, err = b.start(name, b.dir, []string{floorEnv + "=" + s.addr, floorDir + "=" + b.ca.dir, floorFile + "=" + file}, self)
	if err != nil {
		return nil, err
	}
	err = s.ready(ctx, time.Minute, func() error { return answers(ctx, "https://"+s.addr+"/", clientTLS(b.ca.roots)) })
	if err != nil {
		s.stop()
	}
	return s, err
}

// floor is the process's state.
type floor struct {
	issuer   *x509.Certificate
	key      *ecdsa.PrivateKey
	inserts  chan insert
	template x509.Certificate
	origin   string
}

func serveFloor(addr string) error {
	dir := os.Getenv(floorDir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "issuing.crt"), filepath.Join(dir, "issuing.key"))
	if err != nil {
		return err
	}
	server, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	if err != nil {
		return err
	}
	f := &floor{issuer: pair.Leaf, key: pair.PrivateKey.(*ecdsa.PrivateKey), inserts: make(chan insert, 1024), origin: "https://" + addr}
	f.template = x509.Certificate{
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		CRLDistributionPoints: []string{"http://127.0.0.1:8080/crl/0123456789abcdef.crl"},
		IssuingCertificateURL: []string{"http://127.0.0.1:8080/issuers/0123456789abcdef.crt"},
	}
	db, err := bolt.Open(filepath.Join(dir, fmt.Sprintf("floor-%d.db", os.Getpid())), 0o600, nil)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it is thrown away
	go f.write(db)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(http.ResponseWriter, *http.Request) {})
	for path, work := range map[string]func(*http.Request) ([]byte, error){
		"POST /issue": f.issue, "POST /issue-durable": f.issueDurable, "POST /renew": f.renew,
		"POST /token": f.token, "POST /dpop": f.dpop, "POST /introspect": f.introspect,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			body, err := work(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_, _ = w.Write(body)
		})
	}
	if file := os.Getenv(floorFile); file != "" {
		content, err := os.ReadFile(file) //nolint:gosec // G703: the bench names it
		if err != nil {
			return err
		}
		mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/pkix-crl")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		})
		plain := &http.Server{Addr: plainOf(addr), Handler: mux, ReadHeaderTimeout: time.Second}
		go plain.ListenAndServe() //nolint:errcheck // the load finds out
	}
	s := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12,
	}}
	return s.ListenAndServeTLS("", "")
}

// plainOf is where the floor serves plain HTTP: the same port of another loopback address.
func plainOf(addr string) string { return strings.Replace(addr, "127.0.0.1:", "127.0.0.2:", 1) }

func (f *floor) issue(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<10))
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(body)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	t := f.template
	t.Subject, t.DNSNames = csr.Subject, csr.DNSNames
	return f.create(&t, csr.PublicKey)
}

func (f *floor) create(t *x509.Certificate, pub any) ([]byte, error) {
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] &= 0x7f
	t.SerialNumber = new(big.Int).SetBytes(serial[:])
	return x509.CreateCertificate(rand.Reader, t, f.issuer, pub, f.key)
}

func (f *floor) renew(r *http.Request) ([]byte, error) {
	if len(r.TLS.PeerCertificates) == 0 {
		return nil, errors.New("no client certificate")
	}
	old := r.TLS.PeerCertificates[0]
	t := f.template
	t.Subject, t.DNSNames = old.Subject, old.DNSNames
	return f.create(&t, old.PublicKey)
}

// insert is a certificate that waits to become durable.
type insert struct {
	der  []byte
	done chan error
}

// issueDurable is issue, and one put into bbolt in a transaction that is shared with whoever waits.
func (f *floor) issueDurable(r *http.Request) ([]byte, error) {
	der, err := f.issue(r)
	if err != nil {
		return nil, err
	}
	i := insert{der, make(chan error, 1)}
	f.inserts <- i
	return der, <-i.done
}

func (f *floor) write(db *bolt.DB) {
	n := uint64(0)
	for first := range f.inserts {
		batch := []insert{first}
		for range len(f.inserts) {
			batch = append(batch, <-f.inserts)
		}
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("certificates"))
			if err != nil {
				return err
			}
			for _, i := range batch {
				n++
				if err := b.Put([]byte(fmt.Sprintf("%016x", n)), i.der); err != nil {
					return err
				}
			}
			return nil
		})
		for _, i := range batch {
			i.done <- err
		}
	}
}

// claims are those that a bound access token has.
type claims struct {
	Issuer   string            `json:"iss"`
	Subject  string            `json:"sub"`
	Audience string            `json:"aud"`
	Expiry   int64             `json:"exp"`
	IssuedAt int64             `json:"iat"`
	ID       string            `json:"jti"`
	Client   string            `json:"client_id"`
	Cnf      map[string]string `json:"cnf"`
}

// mint makes a JWT and the token endpoint's answer.
func (f *floor) mint(client, member, bound string) ([]byte, error) {
	now := time.Now().Unix()
	payload, _ := json.Marshal(claims{f.origin, client, f.origin, now + 300, now, rand.Text(), client, map[string]string{member: bound}})
	const header = `{"alg":"ES256","kid":"floor","typ":"at+jwt"}`
	token := base64url.AppendEncode(nil, []byte(header))
	token = base64url.AppendEncode(append(token, '.'), payload)
	digest := sha256.Sum256(token)
	x, y, err := ecdsa.Sign(rand.Reader, f.key, digest[:])
	if err != nil {
		return nil, err
	}
	var raw [64]byte
	x.FillBytes(raw[:32])
	y.FillBytes(raw[32:])
	token = base64url.AppendEncode(append(token, '.'), raw[:])
	return fmt.Appendf(nil, `{"access_token":%q,"token_type":"Bearer","expires_in":300}`, token), nil
}

func (f *floor) token(r *http.Request) ([]byte, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return nil, errors.New("no client certificate")
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return f.mint(r.PostForm.Get("client_id"), "x5t#S256", base64url.EncodeToString(sum[:]))
}

func (f *floor) dpop(r *http.Request) ([]byte, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	var header struct {
		JWK struct{ X, Y string } `json:"jwk"`
	}
	var payload struct {
		ID     string `json:"jti"`
		Method string `json:"htm"`
		URL    string `json:"htu"`
	}
	proof := r.Header.Get("DPoP")
	parts := strings.Split(proof, ".")
	if len(parts) != 3 || decodePart(parts[0], &header) != nil || decodePart(parts[1], &payload) != nil {
		return nil, errAnswer
	}
	x, err1 := base64url.DecodeString(header.JWK.X)
	y, err2 := base64url.DecodeString(header.JWK.Y)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(f.key.Curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, err
	}
	if !verifyES256(pub, proof) || payload.Method != r.Method || payload.URL != f.origin+"/dpop" {
		return nil, errors.New("bad proof")
	}
	canonical := fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, header.JWK.X, header.JWK.Y)
	jkt := sha256.Sum256(canonical)
	return f.mint(r.PostForm.Get("client_id"), "jkt", base64url.EncodeToString(jkt[:]))
}

func (f *floor) introspect(r *http.Request) ([]byte, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	token := r.PostForm.Get("token")
	parts := strings.Split(token, ".")
	var c claims
	if len(parts) != 3 || !verifyES256(&f.key.PublicKey, token) || decodePart(parts[1], &c) != nil {
		return nil, errors.New("bad token")
	}
	return json.Marshal(struct {
		Active bool `json:"active"`
		claims
	}{true, c})
}

func decodePart(part string, to any) error {
	raw, err := base64url.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}

// verifyES256 checks the signature of a compact JWS.
func verifyES256(pub *ecdsa.PublicKey, token string) bool {
	i := strings.LastIndexByte(token, '.')
	raw, err := base64url.DecodeString(token[i+1:])
	if err != nil || len(raw) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(token[:i]))
	return ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
}
