// Package verifyproxy is forward authentication in a process of its own, beside a proxy and away from the CA: no key of
// the CA, no store, and nothing to know beforehand but the issuer's URL, the CA's root and the audience. It fetches token
// keys, CRLs and revocations, and refuses everything until it has them.
package verifyproxy

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
)

// Config is the file of `pkid verify-proxy --config`; its flags say the same. Relative paths are relative to the file.
type Config struct {
	// Issuer is pkid's public URL, which is also the issuer of its tokens.
	Issuer string `yaml:"issuer"`
	// Root is a PEM file with the CA's root, and with those that are to come, if there are any.
	Root string `yaml:"root,omitempty"`
	// Identity is a directory as `pkictl enroll` writes it, whose root is taken instead.
	Identity string `yaml:"identity,omitempty"`
	// Servers are the resource servers.
	Servers []config.ResourceServer `yaml:"servers"`
	// Listen is where proxies ask. Default 127.0.0.1:9180.
	Listen string `yaml:"listen,omitempty"`
	// ExtAuthz is where Envoy asks over gRPC, with the same TLS or on loopback. Default: nowhere.
	ExtAuthz string `yaml:"ext_authz,omitempty"`
	// TLS is an identity of profile server to listen with. Default: none, which is for loopback only.
	TLS string `yaml:"tls,omitempty"`
	// InsecureListenHTTP allows any address without TLS: whoever is on the network between reads tokens, and sends what
	// the proxy alone may say.
	InsecureListenHTTP bool `yaml:"insecure_listen_http,omitempty"`
	// Ops is where metrics and health are, without TLS. Default 127.0.0.1:9190.
	Ops string `yaml:"ops,omitempty"`
	// Proxies that may ask, and how they tell of the client. Default: those on loopback.
	Proxies Proxies `yaml:"proxies,omitempty"`
	// Profile holds all resource servers to a security profile: "fapi2" is the FAPI 2.0 Security Profile (docs/fapi.md).
	// Default: none.
	Profile string `yaml:"profile,omitempty"`
	// NonceKeyFile holds 32 octets in base64, for several of these beside each other. Default: a random key.
	NonceKeyFile string `yaml:"nonce_key_file,omitempty"`
	// Log settings.
	Log config.Log `yaml:"log,omitempty"`
}

// Proxies are named by addresses, as the daemon's are, and by certificates of their own.
type Proxies struct {
	config.Proxies `yaml:",inline"`
	// Names are DNS names and URIs: whoever connects with a certificate for clients that this CA has issued and not revoked,
	// and that has one of them among its SANs, is a proxy. It takes tls.
	Names []string `yaml:"names,omitempty"`
}

const (
	// DefaultListen is where proxies ask.
	DefaultListen = "127.0.0.1:9180"
	// DefaultOps is where metrics and health are.
	DefaultOps = "127.0.0.1:9190"

	maxFile = 1 << 20
)

// Load reads a file. Unknown keys are errors.
func Load(path string) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c := new(Config)
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, config.PlainError(err))
	}
	if err := dec.Decode(new(Config)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document", path)
	}
	for _, p := range []*string{&c.Root, &c.Identity, &c.TLS, &c.NonceKeyFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: larger than %d octets", path, maxFile)
	}
	return text, err
}

// complete fills in the defaults, and validate refuses what cannot be meant.
func (c *Config) complete() {
	for p, v := range map[*string]string{&c.Listen: DefaultListen, &c.Ops: DefaultOps, &c.Log.Level: "info", &c.Log.Format: "text"} {
		if *p == "" {
			*p = v
		}
	}
	if len(c.Proxies.Addresses) == 0 && len(c.Proxies.Names) == 0 {
		c.Proxies.Addresses = []string{"127.0.0.0/8", "::1"}
	}
	c.Issuer = strings.TrimSuffix(c.Issuer, "/")
}

func (c *Config) validate() error {
	switch {
	case c.Issuer == "":
		return errors.New("issuer: say which pkid issues the tokens, with its public URL")
	case c.Root == "" && c.Identity == "":
		return errors.New("root: name the file of the CA's root certificate, or a directory with an identity")
	case c.Root != "" && c.Identity != "":
		return errors.New("root and identity: name one of them")
	case len(c.Servers) == 0:
		return errors.New("audience: say which resource server is asked for")
	}
	if err := config.CheckResourceServers("servers", c.Servers); err != nil {
		return err
	}
	if err := c.Proxies.check(c.TLS != ""); err != nil {
		return err
	}
	if err := c.validateProfile(); err != nil {
		return err
	}
	if err := c.Log.Validate(); err != nil {
		return err
	}
	if err := c.reachable("listen", c.Listen); err != nil {
		return err
	}
	if c.ExtAuthz == "" {
		return nil
	}
	return c.reachable("ext_authz", c.ExtAuthz)
}

func (p *Proxies) check(overTLS bool) error {
	switch {
	case len(p.Clients) > 0:
		return errors.New("proxies.clients: which client a certificate is of is not known here; name proxies by addresses, or by names in their certificates")
	case slices.Contains(p.Names, ""):
		return errors.New("proxies.names: one of them is empty")
	case len(p.Names) > 0 && !overTLS:
		return errors.New("proxies.names: a proxy proves its certificate over TLS alone: set tls")
	}
	return p.CheckValues("proxies") // some are named: complete saw to it
}

func (c *Config) validateProfile() error {
	switch {
	case c.Profile == "":
		return nil
	case c.Profile != config.ProfileFAPI2:
		return fmt.Errorf("profile: want %s or nothing, not %q", config.ProfileFAPI2, c.Profile)
	case c.InsecureListenHTTP:
		return fmt.Errorf("insecure_listen_http: profile %s takes no token in the clear (FAPI 2.0 section 5.2.1)", c.Profile)
	}
	for i, s := range c.Servers {
		if s.InsecureAllowBearer {
			return fmt.Errorf("servers[%d].insecure_allow_bearer: profile %s takes no token that is bound to nothing", i, c.Profile)
		}
	}
	return nil
}

// reachable refuses an address that tokens would go to in the clear.
func (c *Config) reachable(key, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: want host:port: %w", key, err)
	}
	if ip, err := netip.ParseAddr(host); c.TLS == "" && !c.InsecureListenHTTP && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("%s: %s is reached from other hosts, and tokens would go there in the clear: give it a certificate with tls, "+
			"or say insecure_listen_http where the network is yours alone", key, addr)
	}
	return nil
}

// roots are the CA's.
func (c *Config) roots() ([]*x509.Certificate, error) {
	if c.Identity != "" {
		id, err := client.Load(c.Identity)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		return id.TrustedRoots(), nil
	}
	text, err := readFile(c.Root)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("root: %s: %w", c.Root, err)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("root: %s: want a certificate in PEM form", c.Root)
	}
	return roots, nil
}

// nonceKey is nil without a file.
func (c *Config) nonceKey() ([]byte, error) {
	if c.NonceKeyFile == "" {
		return nil, nil
	}
	text, err := readFile(c.NonceKeyFile)
	if err != nil {
		return nil, fmt.Errorf("nonce_key_file: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("nonce_key_file: %s: want 32 octets in base64, as `openssl rand -base64 32` writes them", c.NonceKeyFile)
	}
	return key, nil
}
