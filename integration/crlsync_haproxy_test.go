package integration

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/crlfile"
	"github.com/pkid/pkid/internal/pkitest"
)

// TestHAProxyRefusesFiles: whatever a real HAProxy does not take, it goes on with what it has, and takes the next file.
func TestHAProxyRefusesFiles(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	dir := shortDir(t)
	f := &crlFixture{
		T: t, s: s, dir: dir, addr: pkitest.FreeAddress(t), file: filepath.Join(dir, "crl.pem"), pkictl: pkitest.Build(t, "pkictl"),
		sessions: tls.NewLRUClientSessionCache(1),
	}
	f.identity = s.Enrol(t, client.InvitationRequest{ClientID: "server", Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	good := s.Enrol(t, client.InvitationRequest{ClientID: "good"})
	socket := haproxyCRL.start(f)[1]
	whole := f.read(f.file)
	for _, tt := range []struct {
		name, file string
		content    []byte
		want       string
	}{
		{"as it is", f.file, whole, ""},
		{"a name that is not in its configuration", "/other.pem", whole, "not referenced"},
		{"no CRL", f.file, []byte("garbage"), "HAProxy refused"},
		{"a CRL that is cut", f.file, whole[:len(whole)-100], "HAProxy refused"},
		{"more than tune.bufsize", f.file, bytes.Repeat(whole, 1+65536/len(whole)), crlfile.ErrHAProxyTooLong.Error()},
		{"as it is, afterwards", f.file, whole, ""},
	} {
		sent := filepath.Join(t.TempDir(), "crl.pem")
		if err := os.WriteFile(sent, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := crlfile.NewHAProxy(socket, tt.file, sent)
		if err != nil {
			t.Fatal(err)
		}
		err = h.Replace(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err := f.get(good); err != nil {
			t.Errorf("%s: a client afterwards: %v", tt.name, err)
		}
	}
}
