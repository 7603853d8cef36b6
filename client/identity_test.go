package client

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pkid/pkid/thumbprint"
)

func TestLoadNothing(t *testing.T) {
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("got %v, want ErrNoIdentity", err)
	}
}

// What cannot be looked at is not taken for absent. (Root may read everything, so the path itself is bad.)
func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", nil)
	_, err := Load(filepath.Join(dir, "file"))
	if want := "cannot read " + filepath.Join(dir, "file", certName) + ": "; err == nil || !strings.HasPrefix(err.Error(), want) || errors.Is(err, ErrNoIdentity) {
		t.Errorf("got %v, want %s...", err, want)
	}
}

func TestCreate(t *testing.T) {
	ca, dir := newFakeCA(t), t.TempDir()
	key := must(NewKey(""))
	chain := list(ca.sign("operator", key.Public(), ca.lifetime))
	if _, err := Create(dir, must(NewKey("")), chain, ca.cert, Info{}); err == nil {
		t.Error("a key was stored with a certificate for another")
	}
	if _, err := Create(dir, key, chain, ca.cert, Info{ClientID: "operator"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, key, chain, ca.cert, Info{}); !errors.Is(err, ErrIdentityExists) {
		t.Errorf("got %v, want ErrIdentityExists", err)
	}
}

// A crash at any point of Create leaves nothing that is in the way of another attempt, or the whole identity.
func TestCreateAfterCrash(t *testing.T) {
	ca, whole := newFakeCA(t), t.TempDir()
	key := must(NewKey(""))
	chain := list(ca.sign("operator", key.Public(), ca.lifetime))
	must(Create(whole, key, chain, ca.cert, Info{ClientID: "operator"}))
	root, info := read(t, whole, rootName), read(t, whole, infoName)
	keyText, certText := read(t, whole, keyName), read(t, whole, certName)
	for name, c := range map[string]struct {
		files map[string]string
		whole bool
	}{
		"before all":         {nil, false},
		"after root.crt":     {map[string]string{rootName: root}, false},
		"after pkid.json":    {map[string]string{rootName: root, infoName: info}, false},
		"after client.next":  {map[string]string{rootName: root, infoName: info, nextName: keyText + certText}, true},
		"after client.key":   {map[string]string{rootName: root, infoName: info, nextName: keyText + certText, keyName: keyText}, true},
		"after client.crt":   {map[string]string{rootName: root, infoName: info, nextName: keyText + certText, keyName: keyText, certName: certText}, true},
		"with half a rename": {map[string]string{rootName: root, ".pkid.json.12": info[:9]}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				write(t, dir, file, []byte(text))
			}
			_, err := Create(dir, key, chain, ca.cert, Info{ClientID: "operator"})
			if c.whole != errors.Is(err, ErrIdentityExists) || !c.whole && err != nil {
				t.Fatalf("again: %v", err)
			}
			id, err := Load(dir)
			if err != nil || id.Info().ClientID != "operator" || !samePublicKey(id.Certificate().Leaf.PublicKey, key.Public()) {
				t.Errorf("it is no identity: %v", err)
			}
			if exists(id.path(nextName)) || read(t, dir, keyName) != keyText {
				t.Error("the files were not put right")
			}
		})
	}
}

// What fails before the identity is whole leaves no key behind that would be in the way of another attempt.
func TestCreateAfterFailure(t *testing.T) {
	ca := newFakeCA(t)
	key := must(NewKey(""))
	chain := list(ca.sign("operator", key.Public(), ca.lifetime))
	for _, name := range []string{rootName, infoName} {
		dir := t.TempDir()
		obstacle := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(dir, key, chain, ca.cert, Info{}); err == nil || errors.Is(err, ErrIdentityExists) {
			t.Fatalf("with a directory in the place of %s: %v", name, err)
		}
		if err := os.RemoveAll(obstacle); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(dir, key, chain, ca.cert, Info{}); err != nil {
			t.Errorf("after %s could not be written: %v", name, err)
		}
	}
}

// Whatever a crash leaves of the two files, the identity is a pair: the new one as soon as client.next exists.
func TestCrashDuringInstall(t *testing.T) {
	ca := newFakeCA(t)
	id := ca.identity()
	oldKey, oldCert := read(t, id.dir, keyName), read(t, id.dir, certName)
	if err := id.Renew(t.Context(), RenewOptions{Rekey: true}); err != nil {
		t.Fatal(err)
	}
	newKey, newCert := read(t, id.dir, keyName), read(t, id.dir, certName)
	if newKey == oldKey || newCert == oldCert {
		t.Fatal("rekeying changed nothing")
	}
	next := newKey + newCert
	for name, c := range map[string]struct{ next, key, cert, want string }{
		"before client.next":    {"", oldKey, oldCert, oldCert},
		"after client.next":     {next, oldKey, oldCert, newCert},
		"after client.key":      {next, newKey, oldCert, newCert},
		"after client.crt":      {next, newKey, newCert, newCert},
		"after all":             {"", newKey, newCert, newCert},
		"with client.crt alone": {next, oldKey, newCert, newCert}, // renames that reached the disk out of order
		"with a temporary file": {"", oldKey, oldCert, oldCert},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				rootName: read(t, id.dir, rootName), infoName: read(t, id.dir, infoName), keyName: c.key, certName: c.cert, nextName: c.next,
				".client.next.123": next[:len(next)/2],
			} {
				if text != "" {
					write(t, dir, file, []byte(text))
				}
			}
			loaded, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(chainText(loaded.Certificate())); got != c.want {
				t.Error("Load took the wrong certificate")
			}
			if read(t, dir, certName) != c.want || exists(filepath.Join(dir, nextName)) {
				t.Error("the files were not put right")
			}
		})
	}
}

func TestRenewTogether(t *testing.T) {
	ca := newFakeCA(t)
	dir := ca.identity().dir
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			id, err := Load(dir)
			if err != nil {
				t.Error(err)
				return
			}
			if err := id.Renew(t.Context(), RenewOptions{Rekey: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := Load(dir); err != nil {
		t.Error(err)
	}
}

func TestRenewKeepsTheKeyUnlessRekeyed(t *testing.T) {
	ca := newFakeCA(t)
	id := ca.identity()
	key, cert := read(t, id.dir, keyName), read(t, id.dir, certName)
	if err := id.Renew(t.Context(), RenewOptions{}); err != nil {
		t.Fatal(err)
	}
	if read(t, id.dir, keyName) != key || read(t, id.dir, certName) == cert {
		t.Error("want a new certificate for the same key")
	}
}

func TestRenewAfterExpiry(t *testing.T) {
	ca := newFakeCA(t)
	id := ca.identity()
	dir := t.TempDir()
	expired := ca.sign(fakeClient, id.Certificate().Leaf.PublicKey, -1)
	write(t, dir, rootName, []byte(read(t, id.dir, rootName)))
	write(t, dir, infoName, []byte(read(t, id.dir, infoName)))
	write(t, dir, keyName, []byte(read(t, id.dir, keyName)))
	write(t, dir, certName, marshalChain(list(expired)))
	old, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*ExpiredError](old.Renew(t.Context(), RenewOptions{})); !ok || e.ClientID != fakeClient {
		t.Errorf("want an ExpiredError, got %v", e)
	}
	if e, ok := errors.AsType[*ExpiredError](old.RenewLoop(t.Context(), LoopOptions{})); !ok || e.ClientID != fakeClient {
		t.Errorf("want an ExpiredError, got %v", e)
	}
}

// An application sees what `pkictl renew` did to its directory, at the next handshake.
func TestTLSConfigShowsRenewedCertificate(t *testing.T) {
	ca := newFakeCA(t)
	ca.mux.HandleFunc("GET /who", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, thumbprint.OfCertificate(r.TLS.PeerCertificates[0]))
	})
	id := ca.identity()
	who := func() string {
		hc := id.HTTPClient()
		defer hc.CloseIdleConnections()
		resp, err := hc.Get(ca.srv.URL + "/who")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return string(must(io.ReadAll(resp.Body)))
	}
	before := who()
	other := must(Load(id.dir))
	if err := other.Renew(t.Context(), RenewOptions{Rekey: true}); err != nil {
		t.Fatal(err)
	}
	after := who()
	if after == before || after != thumbprint.OfCertificate(other.Certificate().Leaf).String() {
		t.Errorf("the server saw %s, then %s", before, after)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func list(certs ...*x509.Certificate) []*x509.Certificate { return certs }
