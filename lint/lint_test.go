package lint

import (
	"maps"
	"slices"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
)

// exception is a lint that is left out, for the subtests with a part of their name, or for all.
type exception struct{ only, why string }

// leftOut are the lints that concern the public web PKI alone, with the reason for each. Everything else must
// pass without an error or a warning.
var leftOut = map[string]exception{
	"e_algorithm_identifier_improper_encoding":                {only: "Ed25519", why: "the Mozilla policy knows no Ed25519; RFC 8410 does"},
	"e_ca_country_name_missing":                               {why: "names a legal entity in the web PKI; here the CA is the operator's own"},
	"e_ca_organization_name_missing":                          {why: "names a legal entity in the web PKI; here the CA is the operator's own"},
	"e_cab_crl_has_valid_reason_code":                         {why: "RFC 5280 section 5.3.1 has more reasons, and certificateHold, than the web PKI allows"},
	"e_crl_extensions_validity":                               {only: "delta", why: "the web PKI advises against delta CRLs; whether there are any is the operator's choice"},
	"e_crl_next_update_invalid":                               {only: "/root_CRL", why: "the root's CRL lasts as long as the issuing CA: the root's key is not at hand to sign again"},
	"e_dnsname_not_valid_tld":                                 {why: "a private CA names hosts that the public DNS does not know, such as localhost"},
	"e_ext_san_contains_reserved_ip":                          {why: "a private CA names hosts of private networks"},
	"e_invalid_ca_certificate_policies":                       {why: "the policies of the CA/Browser Forum do not apply, and pkid claims none"},
	"e_signature_algorithm_not_supported":                     {only: "Ed25519", why: "the web PKI knows no Ed25519; RFC 8410 does"},
	"e_sub_ca_certificate_policies_missing":                   {why: "the policies of the CA/Browser Forum do not apply, and pkid claims none"},
	"e_sub_cert_cert_policy_empty":                            {why: "the policies of the CA/Browser Forum do not apply, and pkid claims none"},
	"e_sub_cert_certificate_policies_missing":                 {why: "the policies of the CA/Browser Forum do not apply, and pkid claims none"},
	"w_ext_subject_key_identifier_not_recommended_subscriber": {why: "RFC 5280 section 4.2.1.2 recommends it for leaves"},
	"w_subject_common_name_included":                          {why: "the common name is the client's id; RFC 8705 section 2.1.2 compares subject names"},
}

// sources are those whose rules bind CAs that browsers or mail programs ship: a lint that is left out must be
// from one of them. RFC lints, and those of the community, are never left out.
var sources = []lint.LintSource{
	lint.CABFBaselineRequirements, lint.CABFCSBaselineRequirements, lint.CABFSMIMEBaselineRequirements, lint.CABFEVGuidelines,
	lint.MozillaRootStorePolicy, lint.AppleRootStorePolicy, lint.ChromeRootStorePolicy, lint.EtsiEsi,
}

// fired are the lints that found something. The subtests run one after the other.
var fired = map[string]bool{}

func check(t *testing.T, results *zlint.ResultSet) {
	t.Helper()
	ran := 0
	for name, r := range results.Results {
		if r.Status >= lint.Pass {
			ran++
		}
		if r.Status < lint.Warn {
			continue
		}
		fired[name] = true
		if out, ok := leftOut[name]; !ok || !strings.Contains(t.Name(), out.only) {
			t.Errorf("%s: %s: %s", r.Status, name, r.Details)
		}
	}
	if ran == 0 {
		t.Error("no lint applied")
	}
}

func checkCertificate(t *testing.T, der []byte) {
	t.Helper()
	cert, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	check(t, zlint.LintCertificate(cert))
}

func checkCRL(t *testing.T, der []byte) {
	t.Helper()
	list, err := zx509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	check(t, zlint.LintRevocationList(list))
}

func TestEverythingThatIsSigned(t *testing.T) {
	for _, kind := range keyTypes {
		t.Run("issuer "+string(kind), func(t *testing.T) {
			p := newPKI(t, kind)
			t.Run("root", func(t *testing.T) { checkCertificate(t, p.root.Raw) })
			t.Run("issuing CA", func(t *testing.T) { checkCertificate(t, p.issuer.Raw) })
			t.Run("root CRL", func(t *testing.T) { checkCRL(t, p.rootCRL(t)) })
			t.Run("root CRL with the issuing CA", func(t *testing.T) { checkCRL(t, p.rootCRL(t, p.issuer.SerialNumber)) })
			t.Run("empty CRL", func(t *testing.T) { checkCRL(t, p.publish(t, 0)) })
			for profile, names := range profiles {
				for _, leaf := range keyTypes {
					t.Run(profile+" "+string(leaf), func(t *testing.T) { checkCertificate(t, p.issue(t, profile, names, leaf)) })
				}
			}
			t.Run("OCSP responder", func(t *testing.T) { checkCertificate(t, p.responder(t)) })
			p.revokeForEachReason(t)
			t.Run("CRL with each reason", func(t *testing.T) { checkCRL(t, p.publish(t, len(reasons))) })

			p.startPublisher(t, crl.DeltaURL(crlURL))
			t.Run("CRL that names a delta", func(t *testing.T) { checkCRL(t, p.publish(t, len(reasons))) })
			t.Run("empty delta", func(t *testing.T) { checkCRL(t, p.publishDelta(t, 0)) })
			p.revokeForEachReason(t)
			p.issueAndRevoke(t, ca.CertificateHold, ca.RemoveFromCRL)
			t.Run("delta with each reason", func(t *testing.T) { checkCRL(t, p.publishDelta(t, len(reasons)+1)) })
		})
	}
	for _, name := range slices.Sorted(maps.Keys(leftOut)) {
		switch source := sourceOf(name); {
		case source == "":
			t.Errorf("%s is left out, and zlint has no such lint", name)
		case !slices.Contains(sources, source):
			t.Errorf("%s is left out, and is from %s", name, source)
		case !fired[name]:
			t.Errorf("%s is left out, and finds nothing any more", name)
		}
	}
}

// sourceOf returns whose rule a lint checks; empty if there is no such lint.
func sourceOf(name string) lint.LintSource {
	registry := lint.GlobalRegistry()
	if l := registry.CertificateLints().ByName(name); l != nil {
		return l.Source
	}
	if l := registry.RevocationListLints().ByName(name); l != nil {
		return l.Source
	}
	return ""
}

// TestLintsFindSomething shows that a finding would be noticed: a certificate without what RFC 5280 demands.
func TestLintsFindSomething(t *testing.T) {
	cert, err := zx509.ParseCertificate(withoutKeyIdentifiers(t))
	if err != nil {
		t.Fatal(err)
	}
	if r := zlint.LintCertificate(cert).Results["e_ext_authority_key_identifier_no_key_identifier"]; r == nil || r.Status != lint.Error {
		t.Errorf("got %+v", r)
	}
}
