//go:build ignore

// generate makes the directories beside it: it configures step-ca, has it issue and revoke, stops it, and leaves its home.
//
//	go run internal/stepimport/testdata/generate.go STEP-CA-BINARY
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	address  = "127.0.0.1:29443"
	password = "step by step"
	century  = 800_000 * time.Hour // so that the tests go on working
)

// clients are whom certificates are issued to: names, and why they are revoked, if they are.
var clients = []struct {
	file    string
	subject string
	sans    []string
	revoke  int // CRLReason; -1: not
}{
	{"billing", "billing", []string{"billing", "billing.example.com"}, -1},
	{"stolen", "stolen.example.com", []string{"stolen.example.com"}, 1},
	{"replaced", "replaced.example.com", []string{"replaced.example.com"}, 4},
	{"wildcard", "wildcard.example.com", []string{"*.example.com"}, -1},
	{"alice", "Alice Example", []string{"alice@example.com"}, -1},
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: generate STEP-CA-BINARY")
	}
	for _, engine := range []string{"badgerv2", "badgerv1", "bbolt"} {
		if err := generate(os.Args[1], filepath.Join("internal/stepimport/testdata", engine), engine); err != nil {
			log.Fatalf("%s: %v", engine, err)
		}
	}
}

func generate(stepca, home, engine string) error {
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	for _, dir := range []string{"config", "certs", "secrets", "db", "clients"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o755); err != nil {
			return err
		}
	}
	root, err := authority(home)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(home)
	if err != nil {
		return err
	}
	if err := configure(home, abs, engine, key); err != nil {
		return err
	}
	cmd := exec.Command(stepca, filepath.Join(abs, "config/ca.json"), "--password-file", filepath.Join(abs, "password"))
	cmd.Env, cmd.Stderr = append(os.Environ(), "STEPPATH="+abs), os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	work := use(home, root, key)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil || work != nil {
		return errors.Join(work, err)
	}
	// As in step-ca's container image, whatever directory this was made in.
	return configure(home, "/home/step", engine, key)
}

// authority makes root and intermediate as `step ca init` does, the keys encrypted in the two ways that step has.
func authority(home string) (*x509.Certificate, error) {
	ca := func(name string, pathLen int) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "Example " + name}, SerialNumber: big.NewInt(time.Now().UnixNano()),
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(century + 24*time.Hour), IsCA: true, BasicConstraintsValid: true,
			MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root, err := certify(home, "root_ca", ca("Root CA", 1), nil, rootKey, rootKey)
	if err != nil {
		return nil, err
	}
	if _, err := certify(home, "intermediate_ca", ca("Intermediate CA", 0), root, key, rootKey); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(home, "password"), []byte(password+"\n"), 0o644); err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte(password), x509.PEMCipherAES256)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(home, "secrets/intermediate_ca_key"), pem.EncodeToMemory(block), 0o644); err != nil {
		return nil, err
	}
	der, err = x509.MarshalPKCS8PrivateKey(rootKey)
	if err != nil {
		return nil, err
	}
	openssl := exec.Command("openssl", "pkcs8", "-topk8", "-v2", "aes256", "-passout", "pass:"+password)
	openssl.Stdin = bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	text, err := openssl.Output()
	if err != nil {
		return nil, err
	}
	return root, os.WriteFile(filepath.Join(home, "secrets/root_ca_key"), text, 0o644)
}

func certify(home, name string, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(home, "certs", name+".crt"), text, 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func configure(dir, home, engine string, key *ecdsa.PrivateKey) error {
	source := filepath.Join(home, "db")
	if engine == "bbolt" {
		source = filepath.Join(home, "db", "step.db")
	}
	public := jose.JSONWebKey{Key: key.Public(), KeyID: "test", Algorithm: "ES256", Use: "sig"}
	config := map[string]any{
		"root": filepath.Join(home, "certs/root_ca.crt"), "crt": filepath.Join(home, "certs/intermediate_ca.crt"),
		"key": filepath.Join(home, "secrets/intermediate_ca_key"), "address": address, "dnsNames": []string{"127.0.0.1"},
		"db":  map[string]string{"type": engine, "dataSource": source, "badgerFileLoadingMode": "FileIO"},
		"crl": map[string]any{"enabled": true, "generateOnRevoke": true, "cacheDuration": "24h"},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "JWK", "name": "test", "key": public, "claims": map[string]string{"maxTLSCertDuration": century.String()},
		}}},
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config/ca.json"), append(text, '\n'), 0o644)
}

// use has step-ca issue and revoke.
func use(home string, root *x509.Certificate, key *ecdsa.PrivateKey) error {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	api := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second}
	for n := 0; ; n++ {
		resp, err := api.Get("https://" + address + "/health")
		if err == nil {
			resp.Body.Close()
			break
		}
		if n == 100 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "test"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(root.Raw)
	token := func(act, subject string, sans []string) (string, error) {
		var id [16]byte
		rand.Read(id[:])
		now := time.Now()
		return jwt.Signed(signer).Claims(jwt.Claims{
			Issuer: "test", Subject: subject, Audience: jwt.Audience{"https://" + address + "/1.0/" + act}, ID: hex.EncodeToString(id[:]),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(now.Add(5 * time.Minute)),
		}).Claims(map[string]any{"sans": sans, "sha": hex.EncodeToString(sum[:])}).Serialize()
	}
	for _, c := range clients {
		ott, err := token("sign", c.subject, c.sans)
		if err != nil {
			return err
		}
		cert, err := enrol(api, home, c.file, c.subject, c.sans, ott)
		if err != nil {
			return fmt.Errorf("%s: %w", c.file, err)
		}
		if c.revoke < 0 {
			continue
		}
		serial := cert.SerialNumber.String()
		if ott, err = token("revoke", serial, nil); err != nil {
			return err
		}
		body := map[string]any{"serial": serial, "ott": ott, "reasonCode": c.revoke, "passive": true}
		if err := post(api, "revoke", body, nil); err != nil {
			return err
		}
	}
	// The record of a revocation is all that is left of a certificate that step-ca was told to revoke and did not issue.
	const unknown = "123456789012345678901234567890123456789"
	ott, err := token("revoke", unknown, nil)
	if err != nil {
		return err
	}
	return post(api, "revoke", map[string]any{"serial": unknown, "ott": ott, "reasonCode": 5, "passive": true}, nil)
}

func enrol(api *http.Client, home, file, subject string, sans []string, ott string) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: subject}}
	for _, san := range sans {
		if bytes.ContainsRune([]byte(san), '@') {
			template.EmailAddresses = append(template.EmailAddresses, san)
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Chain []string `json:"certChain"`
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	body := map[string]any{"csr": string(text), "ott": ott, "notAfter": (century - time.Hour).String()}
	if err := post(api, "sign", body, &answer); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(home, "clients", file)
	if err := os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path+".crt", []byte(answer.Chain[0]+answer.Chain[1]), 0o644); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(answer.Chain[0]))
	return x509.ParseCertificate(block.Bytes)
}

func post(api *http.Client, act string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := api.Post("https://"+address+"/1.0/"+act, "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s %s %w", act, resp.Status, got, err)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(got, answer)
}
