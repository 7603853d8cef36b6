package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// The files of an identity directory.
const (
	keyName  = "client.key"  // PKCS#8 PEM, 0600
	certName = "client.crt"  // PEM, leaf first; its presence says that the enrolment is complete
	rootName = "root.crt"    // PEM, the root of now first
	infoName = "pkid.json"   // Info
	csrName  = "client.csr"  // PEM, while an enrolment waits for its answer
	nextName = "client.next" // key and chain, while a renewal replaces the two files
	lockName = ".lock"
)

// ErrNoIdentity reports a directory that holds no identity.
var ErrNoIdentity = errors.New("no identity here: enrol with `pkictl enroll TOKEN --out DIR`, or name another directory")

// ErrIdentityExists reports a directory that holds an identity, which Enroll never overwrites.
var ErrIdentityExists = errors.New("this directory holds an identity already: renew it with `pkictl renew`, or enrol into another directory")

// Info is what an identity knows of itself and its CA: pkid.json.
type Info struct {
	Name        string `json:"name,omitempty"` // the CA's
	ClientID    string `json:"client_id"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the DER of the root that it was enrolled with, lower-case hex
	URLs        URLs   `json:"urls"`
}

// Identity is a certificate, its key and the root to trust, kept in a directory. Its methods may be called
// at once. Several processes may share a directory; each sees what another renewed.
type Identity struct {
	dir  string
	info Info

	mu    sync.Mutex          // guards what follows
	roots []*x509.Certificate // that of now first
	pair  *tls.Certificate
	stamp fileStamp // of client.crt when pair was read
}

// Load reads the identity in dir, and finishes a renewal that a crash interrupted. The error is
// ErrNoIdentity if there is none.
func Load(dir string) (*Identity, error) {
	if found, err := holdsIdentity(dir); err != nil {
		return nil, err
	} else if !found {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoIdentity)
	}
	id := &Identity{dir: dir}
	if err := id.readInfo(); err != nil {
		return nil, unreadable(err)
	}
	err := id.read()
	if errors.Is(err, fs.ErrPermission) {
		return nil, unreadable(err)
	}
	if err != nil || exists(id.path(nextName)) {
		// A crash, or another process that is renewing at this moment: its lock tells which.
		unlock, lockErr := lockDir(context.Background(), dir)
		if lockErr != nil {
			return nil, errors.Join(err, lockErr)
		}
		defer unlock()
		if err = id.applyNext(); err == nil {
			err = id.read()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity in %s: %w", dir, err)
	}
	return id, nil
}

// holdsIdentity reports whether an identity is in dir, whole or with a renewal to be finished. What cannot be
// looked at is not taken for absent.
func holdsIdentity(dir string) (bool, error) {
	for _, name := range []string{certName, nextName} {
		_, err := os.Lstat(filepath.Join(dir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, unreadable(err)
		}
	}
	return false, nil
}

// Create writes a new identity into dir, which is made if missing: key, chain (leaf first, without root) and
// info. The error is ErrIdentityExists if there is one. Enroll does the same after it asked the CA; pkid
// itself uses Create for the first operator.
func Create(dir string, key crypto.Signer, chain []*x509.Certificate, root *x509.Certificate, info Info) (*Identity, error) {
	unlock, err := openDir(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, name := range []string{certName, keyName, nextName} {
		if exists(filepath.Join(dir, name)) {
			return nil, fmt.Errorf("%s: %w", dir, ErrIdentityExists)
		}
	}
	pair, err := newPair(chain, key)
	if err != nil {
		return nil, err
	}
	// Until client.next is there, there is no identity and nothing in the way of another attempt; from then on
	// it is whole, and Load finishes what a crash interrupts.
	id, err := describe(dir, root, info)
	if err != nil {
		return nil, err
	}
	return id, id.install(pair)
}

// openDir makes dir if it is missing, and locks it.
func openDir(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return lockDir(ctx, dir)
}

// describe writes what an identity knows beside its key and its certificate.
func describe(dir string, root *x509.Certificate, info Info) (*Identity, error) {
	id := &Identity{dir: dir}
	text, _ := json.MarshalIndent(info, "", "  ") // strings: always encodable
	if err := writeFile(id.path(rootName), marshalChain([]*x509.Certificate{root}), 0o644); err != nil {
		return nil, err
	}
	if err := writeFile(id.path(infoName), append(text, '\n'), 0o644); err != nil {
		return nil, err
	}
	return id, id.readInfo()
}

// complete writes what belongs beside client.key. client.crt comes last: it says that the rest is there.
func complete(dir string, pair *tls.Certificate, root *x509.Certificate, info Info) (*Identity, error) {
	id, err := describe(dir, root, info)
	if err != nil {
		return nil, err
	}
	if err := writeFile(id.path(certName), chainText(pair), 0o644); err != nil {
		return nil, err
	}
	return id, errors.Join(removeFile(id.path(csrName)), id.read())
}

// Dir returns the identity's directory.
func (id *Identity) Dir() string { return id.dir }

// Info returns what pkid.json says.
func (id *Identity) Info() Info { return id.info }

// Root returns the CA's root certificate.
func (id *Identity) Root() *x509.Certificate { return id.TrustedRoots()[0] }

// Roots returns a pool with the CA's root, and with those that it had before, if any.
func (id *Identity) Roots() *x509.CertPool { return pool(id.TrustedRoots()...) }

// TrustedRoots returns the roots of Roots, that of now first.
func (id *Identity) TrustedRoots() []*x509.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.roots
}

// trust replaces the roots, in root.crt first. The caller holds the directory's lock.
func (id *Identity) trust(roots []*x509.Certificate) error {
	if slices.EqualFunc(roots, id.TrustedRoots(), (*x509.Certificate).Equal) {
		return nil
	}
	if err := writeFile(id.path(rootName), marshalChain(roots), 0o644); err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.roots = roots
	return nil
}

// Certificate returns the current certificate with its key and its Leaf set. It reads the files again if
// another process renewed them; it keeps the one it has while they cannot be read.
func (id *Identity) Certificate() *tls.Certificate {
	stamp, err := stampOf(id.path(certName))
	id.mu.Lock()
	defer id.mu.Unlock()
	if err == nil && stamp != id.stamp {
		if pair, err := id.readPair(); err == nil {
			id.pair, id.stamp = pair, stamp
		}
	}
	return id.pair
}

// TLSConfig returns a client configuration that trusts the CA's root and nothing else, and shows the current
// certificate at each handshake, whatever CAs the server names: RFC 8705 section 6.1 has servers that name
// none of the client's.
func (id *Identity) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: tokenbind.CipherSuites(),
		RootCAs:      id.Roots(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.Certificate(), nil
		},
	}
}

// HTTPClient returns a client over TLSConfig. A request's connection may be older than a renewal and then
// shows the certificate before it; use a TokenSource where the certificate must match a token.
func (id *Identity) HTTPClient() *http.Client { return newHTTPClient(id.TLSConfig()) }

func (id *Identity) path(name string) string { return filepath.Join(id.dir, name) }

func (id *Identity) readInfo() error {
	text, err := readFile(id.path(infoName))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &id.info); err != nil {
		return fmt.Errorf("%s: %w", id.path(infoName), err)
	}
	if text, err = readFile(id.path(rootName)); err != nil {
		return err
	}
	roots, err := parseRoots(text)
	if err != nil {
		return fmt.Errorf("%s: %w", id.path(rootName), err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.roots = roots
	return nil
}

func (id *Identity) read() error {
	stamp, err := stampOf(id.path(certName))
	if err != nil {
		return err
	}
	pair, err := id.readPair()
	if err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.pair, id.stamp = pair, stamp
	return nil
}

func (id *Identity) readPair() (*tls.Certificate, error) {
	chain, err := readFile(id.path(certName))
	if err != nil {
		return nil, err
	}
	key, err := readFile(id.path(keyName))
	if err != nil {
		return nil, err
	}
	return parsePair(chain, key)
}

// install replaces key and certificate. The two files cannot be renamed in one step, so client.next, which
// holds both, is put in place first: from then on the new pair is the identity, and whoever comes next
// finishes what a crash interrupts. The caller holds the directory's lock.
func (id *Identity) install(pair *tls.Certificate) error {
	key, err := marshalKey(pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return err
	}
	if err := writeFile(id.path(nextName), append(key, chainText(pair)...), 0o600); err != nil {
		return err
	}
	if err := id.applyNext(); err != nil {
		return err
	}
	return id.read()
}

// applyNext copies client.next, if there is one, into client.key and client.crt and removes it. Each step
// may be repeated. The caller holds the directory's lock.
func (id *Identity) applyNext() error {
	text, err := readFile(id.path(nextName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pair, err := parsePair(text, text)
	if err != nil {
		return fmt.Errorf("%s: %w", id.path(nextName), err)
	}
	key, err := marshalKey(pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return err
	}
	if err := writeFile(id.path(keyName), key, 0o600); err != nil {
		return err
	}
	if err := writeFile(id.path(certName), chainText(pair), 0o644); err != nil {
		return err
	}
	return removeFile(id.path(nextName))
}

// fileStamp tells a file from the one that replaced it.
type fileStamp struct {
	modified time.Time
	size     int64
}

func stampOf(name string) (fileStamp, error) {
	info, err := os.Stat(name)
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{info.ModTime(), info.Size()}, nil
}
