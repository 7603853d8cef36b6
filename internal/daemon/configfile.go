package daemon

import (
	"bytes"
	"text/template"

	"github.com/pkid/pkid/internal/config"
)

// configTemplate is the file that Init writes: what differs between installations, and nothing else. The
// manual of every key is internal/config.
var configTemplate = template.Must(template.New(config.File).Parse(`# pkid configuration. docs/configuration.md explains every key; unknown keys are errors.
# pkid check-config prints it with every default.

name: {{printf "%q" .Name}}

# The names that clients reach this daemon by; the first one stands in URLs.
hosts:
{{- range .Hosts}}
  - {{printf "%q" .}}
{{- end}}

listen:
  public: {{printf "%q" .Listen.Public}} # TLS: REST, OAuth, console
  mtls: {{printf "%q" .Listen.MTLS}}   # the same, and asks for a client certificate
  status: {{printf "%q" .Listen.Status}} # plain HTTP: CRLs, issuer certificates
  ops: {{printf "%q" .Listen.Ops}}    # plain HTTP: metrics, health

store: {{printf "%q" .Store}}
{{- if .StorePassword}}
store_password: {{printf "%q" .StorePassword}}
{{- end}}

# file:PATH, env:NAME or credential:NAME (systemd)
passphrase: {{printf "%q" .Passphrase}}

issuer:
  key: {{printf "%q" .IssuerKey}}
  certificate: "issuer.crt"
  root: "root.crt"
  root_crl: "root.crl"
{{- if .TakesOver}}
  whole_crl: true # another program issued certificates of this CA
{{- end}}

tokens:
  keys:
    - {key: {{printf "%q" .TokenKey}}, algorithm: ES256}
  data_key: "keys/data.key"
  # Clients that cannot answer a nonce challenge: pkictl client set ID --dpop-nonce optional
  require_dpop_nonce: true
{{- if .TakesOver}}

# By these rules certificates are renewed that were taken over and are for clients and servers both.
profiles:
  {{.Imported}}:
    lifetime: 24h
    max_lifetime: 9552h # what they had, up to 398 days
    key_types: [P-256, P-384, P-521, Ed25519, RSA-2048, RSA-3072, RSA-4096]
    usages: [clientAuth, serverAuth]
    allow: {common_names: ["*"], dns: ["*"], ips: ["0.0.0.0/0", "::/0"], uris: ["*"], emails: ["*"]}
{{- end}}
`))

// profileImported is the profile of certificates that were taken over and are for clients and servers both.
const profileImported = "imported"

func (s *InitSpec) configFile() []byte {
	listen := s.Listen
	for p, v := range map[*string]string{
		&listen.Public: "127.0.0.1:8443", &listen.MTLS: "127.0.0.1:9443",
		&listen.Status: "127.0.0.1:8080", &listen.Ops: "127.0.0.1:9090",
	} {
		if *p == "" {
			*p = v
		}
	}
	var buf bytes.Buffer
	data := struct {
		Name, Passphrase     string
		Store, StorePassword string
		IssuerKey, TokenKey  string
		Hosts                []string
		Listen               config.Listen
		TakesOver            bool
		Imported             string
	}{s.Name, s.Passphrase, s.Store, s.StorePassword, s.IssuerKey, s.TokenKey, s.Hosts, listen, s.takesOver, profileImported}
	if err := configTemplate.Execute(&buf, data); err != nil {
		panic("daemon: the configuration template is complete: " + err.Error())
	}
	return buf.Bytes()
}
