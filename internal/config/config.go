// Package config turns the daemon's YAML file into a validated Config. The field comments are the manual:
// every key, its unit and its default. Unknown keys are errors, so that a misspelled one is not a surprise.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pkid/pkid/internal/secret"
)

// File is the configuration's name in a data directory.
const File = "pkid.yaml"

// Config is the whole configuration. Relative paths are relative to the file's directory.
type Config struct {
	// Name of the CA, as the console shows it; init puts it into certificate subjects.
	Name string `yaml:"name"`
	// Hosts are the DNS names and IP addresses that clients reach this daemon by; its own server certificate
	// carries them. The first one stands in URLs.
	Hosts []string `yaml:"hosts"`
	// Listen says where the four listeners bind.
	Listen Listen `yaml:"listen"`
	// URLs are how clients reach the listeners. Default: the first host and the listeners' ports. Set them
	// where something in front changes host or port. Issued certificates carry urls.status, so it must not
	// change while certificates live.
	URLs URLs `yaml:"urls,omitempty"`
	// Store is where everything is kept: "bolt:" and a path, or the URL of a PostgreSQL database (15 or newer), which
	// several nodes may share, such as "postgres://pkid@db.example.com/pkid?sslmode=verify-full". A database on
	// another host needs an sslmode. Everything else that libpq URLs take works too, but for a password.
	Store string `yaml:"store"`
	// StorePassword says where the database's password is read from, in the way of passphrase. Without it, PGPASSWORD
	// or a password file has it (passfile in the URL, PGPASSFILE or ~/.pgpass), if the database asks for one.
	StorePassword string `yaml:"store_password,omitempty"`
	// Passphrase says where the passphrase of the keys is read from: "file:" and a path, "env:" and the name
	// of an environment variable, or "credential:" and the name of a systemd credential.
	Passphrase string `yaml:"passphrase"`
	// Issuer is the issuing CA.
	Issuer Issuer `yaml:"issuer"`
	// Tokens are the token endpoint's settings.
	Tokens Tokens `yaml:"tokens"`
	// Profile holds all clients to a security profile: "fapi2" is the FAPI 2.0 Security Profile (docs/fapi.md). Clients that
	// were registered in a way that it does not know are refused, and named in the log at each start. Default: none, but
	// for clients whose own record says so.
	Profile string `yaml:"profile,omitempty"`
	// CRL settings.
	CRL CRL `yaml:"crl,omitempty"`
	// OCSP settings.
	OCSP OCSP `yaml:"ocsp,omitempty"`
	// Verify lists the resource servers for which reverse proxies may ask at /v1/verify whether a request may pass
	// (docs/forward-auth.md). Default: none, and the path answers 404.
	Verify []ResourceServer `yaml:"verify,omitempty"`
	// Proxies that end TLS before pkid. Default: none, and whatever a proxy would send of a client's certificate is refused.
	Proxies Proxies `yaml:"proxies,omitempty"`
	// Limits bound what comes in, and so what a flood of it can do.
	Limits Limits `yaml:"limits,omitempty"`
	// Retention of what is over.
	Retention Retention `yaml:"retention,omitempty"`
	// Audit log, outside of the store.
	Audit Audit `yaml:"audit,omitempty"`
	// Profiles, beside or instead of the built-in ones: client, operator and server.
	Profiles map[string]Profile `yaml:"profiles,omitempty"`
	// Log settings.
	Log Log `yaml:"log,omitempty"`
	// InsecureAcceptClock serves although the clock is behind the newest audit entry. Without it that is
	// refused, since a clock that jumped back signs wrong dates. Set it where the clock was ahead once, is
	// right now, and the certificates of that time were revoked; take it out when the clock has caught up.
	InsecureAcceptClock bool `yaml:"insecure_accept_clock,omitempty"`

	dir string // of the file
}

// Listen holds listener addresses, "host:port".
type Listen struct {
	// Public serves REST, OAuth and the console over TLS. Default 127.0.0.1:8443.
	Public string `yaml:"public"`
	// MTLS serves the same and asks for a client certificate. Default 127.0.0.1:9443.
	MTLS string `yaml:"mtls"`
	// Status serves CRLs and issuer certificates over plain HTTP, on purpose: they are signed, and who checks
	// a certificate cannot depend on TLS to do so. Default 127.0.0.1:8080.
	Status string `yaml:"status"`
	// Ops serves metrics and health, without TLS; keep it on a private address. Default 127.0.0.1:9090.
	Ops string `yaml:"ops"`
}

// URLs are origins, without a path: "https://pki.example.com:8443".
type URLs struct {
	Public string `yaml:"public,omitempty"` // origin of the public listener, https; also the OAuth issuer identifier
	MTLS   string `yaml:"mtls,omitempty"`   // origin of the mtls listener, https
	Status string `yaml:"status,omitempty"` // origin of the status listener, http
}

// Issuer is the issuing CA: its certificate and key, and the root that signed it.
type Issuer struct {
	// Key is the issuing key: the path of an encrypted PKCS #8 file, or the URI of a key in a device or service, such as
	// "pkcs11:token=pkid;id=01;object=issuer?pin-source=file:/etc/pkid/pin" (docs/key-custody.md). Where the PIN is
	// stands in pin-source: "file:" and an absolute path, "env:" and a name, or "credential:" and a name; a URI with the
	// PIN itself is refused. Default keys/issuer.key.
	Key string `yaml:"key"`
	// Certificate is a PEM file: the issuing CA's certificate, then those of the CAs between it and the root, if there
	// are any, in their order. Default issuer.crt.
	Certificate string `yaml:"certificate"`
	// Root is the PEM file of the root's certificate. The root's key is not needed to serve. Default root.crt.
	Root string `yaml:"root"`
	// RootCRL is the CRL (DER) of who signed the issuing CA, published as it is. It may be missing unless the issuing CA's
	// certificate says that it is published here. Default root.crl.
	RootCRL string `yaml:"root_crl"`
	// WholeCRL gives this issuing CA one CRL without an IssuingDistributionPoint, however many certificates it has: one
	// that speaks of each of them, of those too that name no CRL or somebody else's. `pkid import` sets it, since another
	// program issued some; leave it as it is.
	WholeCRL bool `yaml:"whole_crl,omitempty"`
}

// Tokens are the token endpoint's settings.
type Tokens struct {
	// Keys sign access tokens until the first of them is rotated, which leaves these as they are: then keys in the store
	// do, and these are published for an hour more. The first one signs; all are published.
	Keys []TokenKey `yaml:"keys"`
	// DataKey is the file of the key that seals client secrets and derives DPoP nonces. Nodes that share a
	// store share it. Default keys/data.key.
	DataKey string `yaml:"data_key"`
	// Lifetime of an access token: 30s to 1h. Default 5m.
	Lifetime time.Duration `yaml:"lifetime,omitempty"`
	// RequireDPoPNonce asks clients for a server-provided nonce in their DPoP proofs (RFC 9449 section 8), but for those
	// whose record exempts them (`pkictl client set --dpop-nonce optional`). It costs a client one more request at its
	// first token, and at the next after a pause. Default false; init writes true.
	RequireDPoPNonce bool `yaml:"require_dpop_nonce,omitempty"`
	// ClockTolerance is by how much clients' clocks may differ: 1s to 60s. Default 10s.
	ClockTolerance *time.Duration `yaml:"clock_tolerance,omitempty"`
	// RotateEvery is how often a new key signs tokens. It is made by itself, kept in the store, published two hours before
	// it signs, and the one before for an hour after its last token. At least 24h; 0: only when `pkid token-key rotate`
	// asks. Default 2160h; 0 if a key is in a device, where none are made.
	RotateEvery *time.Duration `yaml:"rotate_every,omitempty"`
}

// TokenKey is a token signing key.
type TokenKey struct {
	Key       string `yaml:"key"`       // as issuer.key
	Algorithm string `yaml:"algorithm"` // ES256, EdDSA or PS256
}

// CRL settings.
type CRL struct {
	// Lifetime is nextUpdate - thisUpdate: 10m to 168h. A CRL is signed again at half of it, and as soon as
	// something is revoked. Servers go on with the last one for what is left of it while the CA is away. Default 24h.
	Lifetime time.Duration `yaml:"lifetime,omitempty"`
	// Deltas publishes beside each CRL a delta CRL, at the same URL with -delta before .crl, which the CRL names. It has
	// what changed lately, so that a server that polls for revocations fetches kilobytes where the CRL has megabytes.
	// It costs one signature more for each CRL, and is of no use below some 10,000 revoked certificates. Default false.
	Deltas bool `yaml:"deltas,omitempty"`
	// ShardSize is how many certificates share one CRL, counted as they are issued; then they name the next one, at the
	// same URL with -1, -2 and so on before .crl. No list then grows beyond that, and who checks a certificate fetches
	// the one list that it names. Go's crl.Checker and clients of its kind learn that from the certificates; servers
	// that read CRLs from files, such as nginx, need every shard's, also of those that are opened later. 0, or at least
	// 100; a change holds for certificates issued from then on. Default 0: one CRL for all.
	ShardSize int `yaml:"shard_size,omitempty"`
}

// minShardSize keeps the lists fewer than their entries: each takes a signature in half of its lifetime.
const minShardSize = 100

// Profile bounds what certificates of its name may be.
type Profile struct {
	// Lifetime of a certificate when nobody asks for another: at least 5m.
	Lifetime time.Duration `yaml:"lifetime"`
	// MaxLifetime that may be asked for; at most 9552h. Default: lifetime.
	MaxLifetime time.Duration `yaml:"max_lifetime,omitempty"`
	// KeyTypes that are taken: P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072, RSA-4096.
	KeyTypes []string `yaml:"key_types"`
	// Usages: clientAuth, serverAuth.
	Usages []string `yaml:"usages"`
	// Allow permits names; a kind without a rule is refused altogether.
	Allow Names `yaml:"allow"`
	// Deny takes away again what allow permits. Where in doubt it denies: *.example.com stands for every host
	// below example.com, however deep; a prefix for itself too; a mailbox for its name in either case. URIs in
	// rules are written in their normal form, as those in certificates are.
	Deny Names `yaml:"deny,omitempty"`
}

// Names are rules by kind of name.
type Names struct {
	CommonNames []string `yaml:"common_names,omitempty"` // exact names, or "*" for any
	DNS         []string `yaml:"dns,omitempty"`          // "host.example.com", "*.example.com" for exactly one label more, or "*" for any
	IPs         []string `yaml:"ips,omitempty"`          // addresses and CIDR ranges
	URIs        []string `yaml:"uris,omitempty"`         // a host as in dns, an exact URI, a prefix such as "spiffe://example.org/*", or "*" for any
	Emails      []string `yaml:"emails,omitempty"`       // "one@example.com", "@example.com" for every mailbox of that domain, or "*" for any
}

// Log settings.
type Log struct {
	Level  string `yaml:"level,omitempty"`  // debug, info (default), warn or error
	Format string `yaml:"format,omitempty"` // text (default) or json
}

// maxFile bounds the file in octets.
const maxFile = 1 << 20

// Load reads and validates the file. Errors name the file and the key to mend.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no configuration at %s: create one with `pkid init`, or say where it is with --data", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d octets", path, maxFile)
	}
	c, err := Parse(text, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads a configuration whose relative paths are relative to dir.
func Parse(text []byte, dir string) (*Config, error) {
	c := &Config{dir: dir}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil {
		return nil, PlainError(err)
	}
	if err := dec.Decode(new(Config)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	c.complete()
	return c, c.validate()
}

// PlainError tells of unknown keys and wrong types in words that know nothing of Go.
func PlainError(err error) error {
	typeErr, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return err
	}
	var lines []string
	for _, e := range typeErr.Errors {
		e = fieldNotFound.ReplaceAllString(e, "unknown key $1")
		lines = append(lines, strings.ReplaceAll(e, "time.Duration", "a duration such as 24h"))
	}
	return fmt.Errorf("%s; docs/configuration.md explains every key", strings.Join(lines, "; "))
}

var fieldNotFound = regexp.MustCompile(`field (\S+) not found in type \S+`)

// Path resolves a path of the configuration against its directory.
func (c *Config) Path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// KeyURI resolves a key: a relative path against the directory, a key URI as it is.
func (c *Config) KeyURI(key string) string {
	if isURI(key) {
		return key
	}
	return c.Path(key)
}

// isURI tells "pkcs11:..." from a path, also from a Windows path such as C:\keys.
func isURI(key string) bool {
	scheme, _, ok := strings.Cut(key, ":")
	return ok && len(scheme) > 1 && !strings.ContainsAny(scheme, `/\.`)
}

func (c *Config) complete() {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&c.Listen.Public, "127.0.0.1:8443")
	set(&c.Listen.MTLS, "127.0.0.1:9443")
	set(&c.Listen.Status, "127.0.0.1:8080")
	set(&c.Listen.Ops, "127.0.0.1:9090")
	if len(c.Hosts) > 0 {
		set(&c.URLs.Public, origin("https", c.Hosts[0], c.Listen.Public))
		set(&c.URLs.MTLS, origin("https", c.Hosts[0], c.Listen.MTLS))
		set(&c.URLs.Status, origin("http", c.Hosts[0], c.Listen.Status))
	}
	set(&c.Store, "bolt:pkid.db")
	set(&c.Issuer.Key, "keys/issuer.key")
	set(&c.Issuer.Certificate, "issuer.crt")
	set(&c.Issuer.Root, "root.crt")
	set(&c.Issuer.RootCRL, "root.crl")
	set(&c.Tokens.DataKey, "keys/data.key")
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")
	if c.Tokens.Lifetime == 0 {
		c.Tokens.Lifetime = 5 * time.Minute
	}
	if c.Tokens.ClockTolerance == nil {
		tolerance := 10 * time.Second
		c.Tokens.ClockTolerance = &tolerance
	}
	c.Tokens.completeRotation()
	if c.CRL.Lifetime == 0 {
		c.CRL.Lifetime = 24 * time.Hour
	}
	c.Limits.complete()
	c.Retention.complete()
	c.Audit.complete()
	c.OCSP.complete()
	profiles := BuiltinProfiles()
	maps.Copy(profiles, c.Profiles)
	c.Profiles = profiles
}

// origin joins a host and the port of a listener's address.
func origin(scheme, host, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "" // validate names the address
	}
	if (scheme == "https" && port == "443") || (scheme == "http" && port == "80") {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (c *Config) validate() error {
	if c.Name == "" || len(c.Name) > 40 {
		return errors.New("name: want 1 to 40 characters")
	}
	if len(c.Hosts) == 0 {
		return errors.New("hosts: name at least one host that clients reach this daemon by")
	}
	if err := c.Listen.validate(); err != nil {
		return err
	}
	for key, u := range map[string][2]string{"public": {"https", c.URLs.Public}, "mtls": {"https", c.URLs.MTLS}, "status": {"http", c.URLs.Status}} {
		p, err := url.Parse(u[1])
		if err != nil || p.Scheme != u[0] || p.Host == "" || p.Path != "" || p.RawQuery != "" || p.Fragment != "" || p.User != nil {
			return fmt.Errorf("urls.%s: want an origin such as %s://pki.example.com:8443 without a path, not %q", key, u[0], u[1])
		}
	}
	if err := c.validateStore(); err != nil {
		return err
	}
	if err := c.validateKeys(); err != nil {
		return err
	}
	if _, _, err := secret.Split("passphrase", c.Passphrase); err != nil {
		return err
	}
	if len(c.Tokens.Keys) == 0 {
		return errors.New("tokens.keys: name at least one key")
	}
	for i, k := range c.Tokens.Keys {
		if k.Key == "" || !slices.Contains([]string{"ES256", "EdDSA", "PS256"}, k.Algorithm) {
			return fmt.Errorf("tokens.keys[%d]: want a key and an algorithm of ES256, EdDSA or PS256, not %q", i, k.Algorithm)
		}
	}
	if c.Tokens.Lifetime < 30*time.Second || c.Tokens.Lifetime > time.Hour {
		return fmt.Errorf("tokens.lifetime: want 30s to 1h, not %s", c.Tokens.Lifetime)
	}
	if t := *c.Tokens.ClockTolerance; t < time.Second || t > time.Minute {
		return fmt.Errorf("tokens.clock_tolerance: want 1s to 60s, not %s", t)
	}
	if err := c.Tokens.validateRotation(); err != nil {
		return err
	}
	if c.CRL.Lifetime < 10*time.Minute || c.CRL.Lifetime > 168*time.Hour {
		return fmt.Errorf("crl.lifetime: want 10m to 168h, not %s", c.CRL.Lifetime)
	}
	if n := c.CRL.ShardSize; n != 0 && n < minShardSize {
		return fmt.Errorf("crl.shard_size: want 0 or at least %d, not %d", minShardSize, n)
	}
	if err := c.validateProfile(); err != nil {
		return err
	}
	if err := CheckResourceServers("verify", c.Verify); err != nil {
		return err
	}
	if len(c.Verify) > 0 && !c.Proxies.Named() {
		return errors.New("verify: nobody could ask: name the proxies that may, by addresses or clients, under proxies")
	}
	if err := c.Proxies.Check("proxies"); err != nil {
		return err
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	if err := c.Retention.validate(c.Profiles); err != nil {
		return err
	}
	if err := c.OCSP.validate(c.Profiles); err != nil {
		return err
	}
	if err := c.Audit.validate(); err != nil {
		return err
	}
	return c.Log.Validate()
}

// Validate names what is wrong with complete settings.
func (l Log) Validate() error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, l.Level) {
		return fmt.Errorf("log.level: want debug, info, warn or error, not %q", l.Level)
	}
	if l.Format != "text" && l.Format != "json" {
		return fmt.Errorf("log.format: want text or json, not %q", l.Format)
	}
	return nil
}

func (l Listen) validate() error {
	taken := map[string]string{}
	for key, addr := range map[string]string{"public": l.Public, "mtls": l.MTLS, "status": l.Status, "ops": l.Ops} {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("listen.%s: want host:port: %w", key, err)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
			return fmt.Errorf("listen.%s: %q is no port: want 1 to 65535", key, port)
		}
		if other, twice := taken[addr]; twice {
			return fmt.Errorf("listen: %s and %s are both %s; give each its own", min(key, other), max(key, other), addr)
		}
		taken[addr] = key
	}
	return nil
}
