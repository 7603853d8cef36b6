package tokenbind

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pkid/pkid/thumbprint"
)

// CertificateForm is how a proxy writes its client's certificate into a header.
type CertificateForm string

// The forms, by the proxies that write them. All but FormRFC9440 may be empty, for a client without a certificate.
const (
	FormNone    CertificateForm = ""        // no certificates are handed on
	FormRFC9440 CertificateForm = "rfc9440" // Client-Cert and Client-Cert-Chain: base64 of the DER between colons
	FormNginx   CertificateForm = "nginx"   // $ssl_client_escaped_cert: PEM, URL-escaped; AWS writes it too
	FormHAProxy CertificateForm = "haproxy" // %[ssl_c_der,base64]
	FormApache  CertificateForm = "apache"  // %{SSL_CLIENT_CERT}s: PEM, with spaces for its line ends
	FormEnvoy   CertificateForm = "envoy"   // X-Forwarded-Client-Cert
	FormTraefik CertificateForm = "traefik" // X-Forwarded-Tls-Client-Cert: base64 of the DER, of the chain with commas
)

const (
	defaultHeader = "X-Ssl-Client-Cert"
	chainHeader   = "Client-Cert-Chain" // RFC 9440 section 2.3
	infoHeader    = "X-Forwarded-Tls-Client-Cert-Info"

	maxForwarded = 16 << 10 // octets of a header with certificates
	maxChain     = 8        // certificates in it
)

// form is how a certificate is read.
type form struct {
	header string
	named  bool // the proxy's configuration names the header
	parse  func(value, chain string) (forwarded, error)
}

var forms = map[CertificateForm]form{
	FormNone:    {},
	FormRFC9440: {"Client-Cert", false, parseRFC9440},
	FormNginx:   {defaultHeader, true, alone(parseEscapedPEM)},
	FormHAProxy: {defaultHeader, true, alone(parseBase64)},
	FormApache:  {defaultHeader, true, alone(parseSpacedPEM)},
	FormEnvoy:   {"X-Forwarded-Client-Cert", false, parseXFCC},
	FormTraefik: {"X-Forwarded-Tls-Client-Cert", false, parseTraefik},
}

// CertificateForms are the names of all forms in which a proxy can hand on a certificate.
func CertificateForms() []string {
	var names []string
	for f := range forms {
		if f != FormNone {
			names = append(names, string(f))
		}
	}
	slices.Sort(names)
	return names
}

// forwarded is what stood in the headers: a chain, the client's certificate first, or only the hash of that, or nothing.
type forwarded struct {
	chain []*x509.Certificate
	hash  *thumbprint.Cert
}

// alone reads a form that has one certificate, or is empty.
func alone(decode func(string) ([]byte, error)) func(string, string) (forwarded, error) {
	return func(value, _ string) (forwarded, error) {
		if value == "" {
			return forwarded{}, nil
		}
		der, err := decode(value)
		if err != nil || der == nil {
			return forwarded{}, err
		}
		return parseChain(der)
	}
}

func parseChain(ders ...[]byte) (forwarded, error) {
	if len(ders) > maxChain {
		return forwarded{}, fmt.Errorf("%d certificates, at most %d are taken", len(ders), maxChain)
	}
	var f forwarded
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return forwarded{}, fmt.Errorf("not a certificate: %w", err)
		}
		f.chain = append(f.chain, cert)
	}
	return f, nil
}

// parseBase64 is strict: one spelling, and no line ends, which encoding/base64 would skip.
func parseBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("line ends in base64")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64 of one certificate")
	}
	return der, nil
}

// parseRFC9440 reads structured fields (RFC 8941): a byte sequence, and a list of them with the certificates above the
// first. An empty sequence, "::", is what a proxy's template makes of a client without a certificate.
func parseRFC9440(value, chain string) (forwarded, error) {
	value = strings.Trim(value, " ")
	if value == "" || value == "::" {
		if chain != "" {
			return forwarded{}, errors.New("a " + chainHeader + " without a certificate") // RFC 9440 section 2.3
		}
		return forwarded{}, nil
	}
	members := []string{value}
	if chain != "" {
		members = append(members, strings.Split(chain, ",")...)
	}
	ders := make([][]byte, len(members))
	for i, m := range members {
		m = strings.Trim(m, " \t")
		if len(m) < 3 || m[0] != ':' || m[len(m)-1] != ':' {
			return forwarded{}, errors.New("not a byte sequence: want base64 between two colons (RFC 8941 section 3.3.5)")
		}
		der, err := parseBase64(m[1 : len(m)-1])
		if err != nil {
			return forwarded{}, err
		}
		ders[i] = der
	}
	return parseChain(ders...)
}

func parseEscapedPEM(value string) ([]byte, error) {
	text, err := url.PathUnescape(value) // a plus sign stands for itself: it is of the base64
	if err != nil {
		return nil, errors.New("not URL-escaped")
	}
	return onePEM(text)
}

// parseSpacedPEM knows what Apache writes for a variable that is not set.
func parseSpacedPEM(value string) ([]byte, error) {
	if value == "(null)" {
		return nil, nil
	}
	return onePEM(value)
}

func onePEM(text string) ([]byte, error) {
	ders, err := parsePEM(text)
	if err != nil {
		return nil, err
	}
	if len(ders) != 1 {
		return nil, fmt.Errorf("%d certificates, want one", len(ders))
	}
	return ders[0], nil
}

const (
	pemBegin = "-----BEGIN CERTIFICATE-----"
	pemEnd   = "-----END CERTIFICATE-----"
	pemSpace = " \t\r\n"
)

// parsePEM reads certificates and nothing between or around them, where encoding/pem would skip what it does not know.
// Lines may end in anything that is white, since headers have none.
func parsePEM(text string) (ders [][]byte, err error) {
	for text = strings.Trim(text, pemSpace); text != ""; text = strings.TrimLeft(text, pemSpace) {
		body, begins := strings.CutPrefix(text, pemBegin)
		body, rest, ends := strings.Cut(body, pemEnd)
		if !begins || !ends || len(ders) == maxChain {
			return nil, errors.New("not a certificate in PEM, or too many")
		}
		der, err := parseBase64(strings.Join(strings.Fields(body), ""))
		if err != nil {
			return nil, err
		}
		ders, text = append(ders, der), rest
	}
	return ders, nil
}

// parseTraefik reads one certificate after the other, the client's first. Version 2 escapes each, version 3 does not.
func parseTraefik(value, _ string) (forwarded, error) {
	if value == "" {
		return forwarded{}, nil
	}
	members := strings.Split(value, ",")
	ders := make([][]byte, len(members))
	for i, m := range members {
		text, err := url.PathUnescape(m)
		if err != nil {
			return forwarded{}, errors.New("not URL-escaped")
		}
		if ders[i], err = parseBase64(text); err != nil {
			return forwarded{}, err
		}
	}
	return parseChain(ders...)
}

// parseXFCC reads Envoy's X-Forwarded-Client-Cert. It must have one element, that of the proxy which is trusted. Were
// there more, all but one would come from who knows where; and which one is the proxy's cannot be told, since Envoy
// writes the URIs of a certificate as they are, commas and semicolons too. For the same reason no member counts that
// does not fit the others.
func parseXFCC(value, _ string) (forwarded, error) {
	if value == "" {
		return forwarded{}, nil
	}
	elements, err := parseElements(value)
	if err != nil {
		return forwarded{}, err
	}
	if len(elements) != 1 {
		return forwarded{}, fmt.Errorf("%d elements, want one: let the proxy replace what it receives (in Envoy, "+
			"forward_client_cert_details: SANITIZE_SET)", len(elements))
	}
	members := map[string]string{}
	for _, m := range elements[0] {
		if _, twice := members[m.name]; twice && slices.Contains([]string{"hash", "cert", "chain"}, m.name) {
			return forwarded{}, fmt.Errorf("%s twice", m.name)
		}
		members[m.name] = m.value
	}
	return readXFCC(members["hash"], members["cert"], members["chain"])
}

func readXFCC(hash, cert, chain string) (f forwarded, err error) {
	ders, err := escapedPEMs(chain) // the client's own certificate is the first of its chain
	if err != nil {
		return forwarded{}, fmt.Errorf("Chain: %w", err)
	}
	if cert != "" {
		own, err := parseEscapedPEM(cert)
		if err != nil {
			return forwarded{}, fmt.Errorf("Cert: %w", err)
		}
		if len(ders) > 0 && string(ders[0]) != string(own) {
			return forwarded{}, errors.New("Chain begins with another certificate than Cert")
		}
		if len(ders) == 0 {
			ders = [][]byte{own}
		}
	}
	if hash != "" {
		sum, err := hex.DecodeString(hash)
		if err != nil || len(sum) != thumbprint.Size {
			return forwarded{}, errors.New("Hash is not the SHA-256 of a certificate in hex")
		}
		f.hash = (*thumbprint.Cert)(sum)
	}
	if len(ders) == 0 {
		if f.hash == nil {
			return forwarded{}, errors.New("neither Cert nor Chain nor Hash")
		}
		return f, nil
	}
	if f.hash != nil && !f.hash.Equal(thumbprint.OfDER(ders[0])) {
		return forwarded{}, errors.New("Hash is that of another certificate")
	}
	return parseChain(ders...)
}

func escapedPEMs(value string) ([][]byte, error) {
	text, err := url.PathUnescape(value)
	if err != nil {
		return nil, errors.New("not URL-escaped")
	}
	return parsePEM(text)
}
