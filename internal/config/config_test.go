package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const minimal = `
name: test
hosts: [localhost, 127.0.0.1]
passphrase: file:passphrase
tokens:
  keys: [{key: keys/token.key, algorithm: ES256}]
`

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(minimal), "/srv/pkid")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, got, want string }{
		{"public URL", c.URLs.Public, "https://localhost:8443"},
		{"mtls URL", c.URLs.MTLS, "https://localhost:9443"},
		{"status URL", c.URLs.Status, "http://localhost:8080"},
		{"ops", c.Listen.Ops, "127.0.0.1:9090"},
		{"store", c.StorePath(), filepath.Join("/srv/pkid", "pkid.db")},
		{"issuer key", c.KeyURI(c.Issuer.Key), filepath.Join("/srv/pkid", "keys", "issuer.key")},
		{"token lifetime", c.Tokens.Lifetime.String(), "5m0s"},
		{"tolerance", c.Tokens.ClockTolerance.String(), "10s"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is %q, want %q", tt.name, tt.got, tt.want)
		}
	}
	if len(c.Profiles) != 3 || c.Profiles[ProfileClient].Lifetime != 24*time.Hour {
		t.Errorf("built-in profiles: %v", c.Profiles)
	}
}

// What is wrong is refused, with the key to mend in the text.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ name, edit, want string }{
		{"unknown key", "nanme: x", "unknown key nanme"},
		{"unknown nested key", "listen: {pubic: x}", "unknown key pubic"},
		{"address", "listen: {public: nowhere}", "listen.public"},
		{"port", "listen: {status: '127.0.0.1:99999'}", "want 1 to 65535"},
		{"no port", "listen: {status: '127.0.0.1:'}", "want 1 to 65535"},
		{"port with a zero before it", "listen: {status: '127.0.0.1:080'}", "want 1 to 65535"},
		{"the same address twice", "listen: {public: '127.0.0.1:1', mtls: '127.0.0.1:1'}", "mtls and public are both"},
		{"URL with a path", "urls: {public: 'https://x/y'}", "urls.public"},
		{"URL of the wrong scheme", "urls: {status: 'https://x'}", "urls.status"},
		{"store", "store: mysql:x", "store: want bolt:PATH"},
		{"store without a path", "store: 'bolt:'", "store: want bolt:PATH"},
		{"database without a name", "store: postgres://pkid@localhost", "name the database"},
		{"database on another host", "store: postgres://pkid@db.example.com/pkid", "sslmode=verify-full"},
		{"database on one of two hosts", "store: postgres://pkid@localhost:1,192.0.2.1:2/pkid", "sslmode=verify-full"},
		{"database named in the query", "store: postgres:///pkid?host=db.example.com", "sslmode=verify-full"},
		{"store's password of a file", "store_password: env:X", "only a PostgreSQL store"},
		{"store's password in clear", "store: postgres://pkid@/pkid\nstore_password: hunter2", "store_password: want file:PATH"},
		{"store's password without user", "store: postgres:///pkid\nstore_password: env:X", "name the user"},
		{"lifetime without unit", "crl: {lifetime: 5}", "a duration such as 24h"},
		{"lifetime", "crl: {lifetime: 5m}", "crl.lifetime"},
		{"no tolerance", "  clock_tolerance: 0s", "tokens.clock_tolerance"}, // below tokens, where minimal ends
		{"large tolerance", "  clock_tolerance: 61s", "tokens.clock_tolerance"},
		{"small tolerance under FAPI 2.0", "  clock_tolerance: 9s\nprofile: fapi2", "tokens.clock_tolerance: profile fapi2 wants at least 10s"},
		{"bearer tokens under FAPI 2.0", "profile: fapi2\nverify: [{audience: 'https://a.example', insecure_allow_bearer: true}]", "verify[0].insecure_allow_bearer: profile fapi2"},
		{"another profile", "profile: fapi1", "profile: want fapi2 or nothing"},
		{"shard size", "crl: {shard_size: 99}", "crl.shard_size"},
		{"negative shard size", "crl: {shard_size: -1}", "crl.shard_size"},
		{"short OCSP answers", "ocsp: {lifetime: 59s}", "ocsp.lifetime"},
		{"long OCSP answers", "ocsp: {lifetime: 25h}", "ocsp.lifetime"},
		{"the OCSP responder's profile", "profiles: {ocsp: {lifetime: 1h}}", "ocsp is the name"},
		{"retention shorter than a lifetime", "retention: {certificates: 24h}", "the longest lifetime of profile"},
		{"retention of invitations", "retention: {invitations: 1m}", "retention.invitations"},
		{"checkpoints to nowhere", "audit: {checkpoints: syslog}", "want file:PATH or stdout"},
		{"export to nowhere", "audit: {export: 'file:'}", "audit.export"},
		{"export among the checkpoints", "audit: {export: 'file:a', checkpoints: 'file:a'}", "the same file"},
		{"checkpoints all the time", "audit: {interval: 1s}", "audit.interval"},
		{"a checkpoint for each entry", "audit: {entries: 1}", "audit.entries"},
		{"log level", "log: {level: loud}", "log.level"},
		{"log format", "log: {format: xml}", "log.format"},
		{"second document", "---\nname: other", "more than one YAML document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(minimal+tt.edit+"\n"), "")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"no name", "name: test", "name: ''", "name:"},
		{"no hosts", "[localhost, 127.0.0.1]", "[]", "hosts:"},
		{"passphrase", "file:passphrase", "hunter2", "passphrase: want file:PATH"},
		{"token algorithm", "ES256", "HS256", "tokens.keys[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(strings.Replace(minimal, tt.old, tt.new, 1)), "")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), File))
	if err == nil || !strings.Contains(err.Error(), "pkid init") {
		t.Errorf("got %v, want an error that says how to create one", err)
	}
}

func TestKeyURI(t *testing.T) {
	c := &Config{dir: "/srv"}
	for key, want := range map[string]string{
		"pkcs11:token=pkid;object=issuer": "pkcs11:token=pkid;object=issuer",
		"awskms:key-id=x":                 "awskms:key-id=x",
		"keys/issuer.key":                 filepath.Join("/srv", "keys", "issuer.key"),
	} {
		if got := c.KeyURI(key); got != want {
			t.Errorf("KeyURI(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestPassphraseSources(t *testing.T) {
	const secret = "correct horse battery staple"
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("good", 0o600, secret+"\n")
	write("open", 0o644, secret)
	write("short", 0o600, "short")
	t.Setenv("PKID_TEST_PASSPHRASE", secret)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for _, tt := range []struct{ from, want string }{
		{"file:good", ""},
		{"env:PKID_TEST_PASSPHRASE", ""},
		{"credential:good", ""},
		{"file:open", "can be read by others"},
		{"file:short", "want at least 16"},
		{"file:none", "no such file"},
		{"env:PKID_TEST_UNSET", "PKID_TEST_UNSET is not set"},
	} {
		c := &Config{dir: dir, Passphrase: tt.from}
		got, err := c.ReadPassphrase()
		switch {
		case tt.want == "" && (err != nil || string(got) != secret):
			t.Errorf("%s: %q, %v", tt.from, got, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want an error with %q", tt.from, err, tt.want)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error shows the passphrase", tt.from)
		}
	}
}
