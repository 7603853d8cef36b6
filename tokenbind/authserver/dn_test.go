package authserver

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
)

// rawName encodes RDNs, each a list of attributes.
func rawName(t *testing.T, rdns ...[]pkix.AttributeTypeAndValue) []byte {
	t.Helper()
	var seq pkix.RDNSequence
	for _, rdn := range rdns {
		seq = append(seq, rdn)
	}
	der, err := asn1.Marshal(seq)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func attr(value any, oid ...int) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: value}
}

func TestA07_SubjectDNMatchesByRuleNotBySpelling(t *testing.T) {
	country := []pkix.AttributeTypeAndValue{attr("DE", 2, 5, 4, 6)}
	org := []pkix.AttributeTypeAndValue{attr("Müller, Söhne + Co", 2, 5, 4, 10), attr("Billing", 2, 5, 4, 11)}
	name := []pkix.AttributeTypeAndValue{attr("billing  service", 2, 5, 4, 3)}
	presented := &x509.Certificate{RawSubject: rawName(t, country, org, name)}
	for text, want := range map[string]bool{
		`CN=billing service,O=Müller\, Söhne \+ Co+OU=Billing,C=DE`:                                     true,
		`cn=BILLING   Service , ou=billing + o=MÜLLER\, SÖHNE \+ CO , c=de`:                             true, // case, space, order within an RDN
		`2.5.4.3=billing service,2.5.4.11=Billing+2.5.4.10=M\C3\BCller\2C S\C3\B6hne \2B Co,2.5.4.6=DE`: true,
		`CN=#0C0F62696C6C696E672073657276696365,O=Müller\, Söhne \+ Co+OU=Billing,C=DE`:                 true,
		`C=DE,O=Müller\, Söhne \+ Co+OU=Billing,CN=billing service`:                                     false, // the order of RDNs counts
		`CN=billing service,O=Müller\, Söhne \+ Co,OU=Billing,C=DE`:                                     false, // one RDN is not two
		`CN=billing service,O=Müller\, Söhne \+ Co,C=DE`:                                                false,
		`CN=billing service`: false,
		`OU=billing service,O=Müller\, Söhne \+ Co+OU=Billing,C=DE`:               false,
		`CN=billingservice,O=Müller\, Söhne \+ Co+OU=Billing,C=DE`:                false,
		"CN=billing service,O=Mu\u0308ller\\, So\u0308hne \\+ Co+OU=Billing,C=DE": false, // not normalised
	} {
		client := &Client{ID: "a", Auth: TLSClientAuth, SubjectKind: SubjectDN, Subject: text}
		if err := client.validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := subjectMatches(client, presented); got != want {
			t.Errorf("%s: matches %t, want %t", text, got, want)
		}
	}
}

func TestA07_RepeatedAttributeDoesNotStandForAnother(t *testing.T) {
	two := &x509.Certificate{RawSubject: rawName(t, []pkix.AttributeTypeAndValue{attr("a", 2, 5, 4, 11), attr("b", 2, 5, 4, 11)})}
	for text, want := range map[string]bool{"OU=b+OU=a": true, "OU=a+OU=a": false, "OU=b+OU=b": false} {
		if got := subjectMatches(&Client{SubjectKind: SubjectDN, Subject: text}, two); got != want {
			t.Errorf("%s: matches %t, want %t", text, got, want)
		}
	}
}

func TestA07_MalformedDNRefused(t *testing.T) {
	for _, text := range []string{
		"", "CN", "CN=", "CN=a,", ",CN=a", "CN=a,,O=b", `CN=a\`, `CN=a\4`, `CN=a\zz`, "CN=a;O=b", `CN="a"`, "=a",
		"XX=a", "1=a", ".1.2=a", "CN=#zz", "CN=#0201", "CN=#020101", "CN=\\00a", "CN=a\\C3", "CN=a+", "CN=a\x07",
	} {
		if dn, err := parseDN(text); err == nil {
			t.Errorf("%q was read as %v", text, dn)
		}
	}
}

func TestA33_NULsAndOtherControlsNeverMatch(t *testing.T) {
	for _, subject := range []any{"a\x00.evil", "a\x00", "a\n"} {
		cert := &x509.Certificate{RawSubject: rawName(t, []pkix.AttributeTypeAndValue{attr(subject, 2, 5, 4, 3)})}
		client := &Client{ID: "a", Auth: TLSClientAuth, SubjectKind: SubjectDN, Subject: "CN=a"}
		if subjectMatches(client, cert) {
			t.Errorf("%q matches CN=a", subject)
		}
		if _, err := decodeDN(cert.RawSubject); err == nil {
			t.Errorf("%q was decoded", subject)
		}
	}
	cert := &x509.Certificate{DNSNames: []string{"a.example\x00.evil", "*.example"}}
	for _, name := range []string{"a.example", "b.example"} {
		if subjectMatches(&Client{SubjectKind: SANDNS, Subject: name}, cert) {
			t.Errorf("%s matches %q", name, cert.DNSNames)
		}
	}
}

func TestDecodeDN_RefusesWhatIsNoText(t *testing.T) {
	for name, der := range map[string][]byte{
		"number":   rawName(t, []pkix.AttributeTypeAndValue{attr(7, 2, 5, 4, 3)}),
		"garbage":  {0x30, 0x05, 0x01},
		"trailing": append(rawName(t, []pkix.AttributeTypeAndValue{attr("a", 2, 5, 4, 3)}), 0),
	} {
		if dn, err := decodeDN(der); err == nil {
			t.Errorf("%s was read as %v", name, dn)
		}
	}
	empty, err := decodeDN(rawName(t))
	if err != nil || empty.matches(empty) {
		t.Errorf("the empty name: %v, matches itself %t", err, empty.matches(empty))
	}
}

func TestEscapeDN_IsReadBack(t *testing.T) {
	for _, id := range []string{"a", "#a", `a,b+c"d\e<f>g;h`, "a=b", "a#b", "https://client.example/x?y=z", "svc:eu/1"} {
		dn, err := parseDN("CN=" + escapeDN(id))
		if err != nil || len(dn) != 1 || len(dn[0]) != 1 || dn[0][0].value != id {
			t.Errorf("%q: %v, %v", id, dn, err)
		}
	}
}

func FuzzParseDN(f *testing.F) {
	for _, seed := range []string{"CN=a", `CN=a\,b+O=c,C=DE`, "CN=#0C0161", `CN=\C3\BC`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		dn, err := parseDN(text)
		if err != nil {
			if dn != nil {
				t.Fatalf("%v beside an error", dn)
			}
			return
		}
		if !dn.matches(dn) {
			t.Fatalf("%q does not match itself", text)
		}
	})
}
