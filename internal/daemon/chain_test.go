package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/config"
)

// The forms in which other CAs hand out certificates, and what becomes of them on the way.
func TestParseCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	free := "127.0.0.1:0"
	if err := Init(t.Context(), InitSpec{Dir: dir, Listen: config.Listen{Public: free, MTLS: free, Status: free, Ops: free}}); err != nil {
		t.Fatal(err)
	}
	one, err := os.ReadFile(filepath.Join(dir, "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCertificates(one)
	if err != nil || len(certs) != 1 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	two := bytes.Repeat(one, 2)
	dos := bytes.ReplaceAll(two, []byte("\n"), []byte("\r\n"))
	for _, c := range []struct {
		why  string
		text []byte
		n    int
		want string
	}{
		{"two", two, 2, ""},
		{"lines of another system", dos, 2, ""},
		{"a byte order mark", append([]byte("\xef\xbb\xbf"), dos...), 2, ""},
		{"text around them, as openssl ca writes it", append([]byte("Certificate:\n    Data:\n"), two...), 2, ""},
		{"no last newline", bytes.TrimSpace(two), 2, ""},
		{"nothing", nil, 0, "want certificates in PEM"},
		{"DER", certs[0].Raw, 0, "-inform DER"},
		{"the first damaged", append(bytes.Replace(one, []byte("MII"), []byte("M*I"), 1), one...), 0, "1 of 2 PEM blocks are damaged"},
		{"the last cut off", two[:len(two)-40], 0, "1 of 2 PEM blocks are damaged"},
		{"a key among them", append([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), one...), 0, `"PRIVATE KEY"`},
		{"too many", bytes.Repeat(one, maxChain+2), 0, "more than"},
	} {
		got, err := parseCertificates(c.text)
		if c.want == "" && (err != nil || len(got) != c.n) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d certificates, %v", c.why, len(got), err)
		}
	}
}
