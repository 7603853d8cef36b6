package lint

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/stepca"
)

const crlURL = "http://pki.example.com:8080/crl/issuing.crl"

var keyTypes = ca.KeyTypes

// profiles are the built-in ones, each with every kind of name that it permits.
var profiles = map[string]ca.Names{
	config.ProfileClient: {
		CommonName: "billing-worker",
		DNS:        []string{"billing.example.com", "localhost"},
		IPs:        []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		URIs:       []string{"spiffe://example.com/ns/prod/billing", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"},
		Emails:     []string{"billing@example.com"},
	},
	config.ProfileOperator: {CommonName: "operator"},
	config.ProfileServer: {
		CommonName: "pki.example.com",
		DNS:        []string{"pki.example.com", "localhost"},
		IPs:        []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
	},
}

// keys holds one key of each type for leaves and one for CAs: RSA keys take seconds to make.
var keys = sync.OnceValue(func() map[ca.KeyType][2]crypto.Signer {
	out := map[ca.KeyType][2]crypto.Signer{}
	for _, kind := range ca.KeyTypes {
		var pair [2]crypto.Signer
		for i := range pair {
			key, err := stepca.GenerateKey(kind)
			if err != nil {
				panic(err)
			}
			pair[i] = key
		}
		out[kind] = pair
	}
	return out
})

// pki is a root, an issuing CA, a store and a publisher, all with keys of one type.
type pki struct {
	root, issuer *x509.Certificate
	rootKey      crypto.Signer
	ca           *ca.Authority
	store        *boltstore.Store
	publisher    *crl.Publisher
	shard        crl.Shard
}

func newPKI(t *testing.T, kind ca.KeyType) *pki {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &pki{rootKey: keys()[kind][0]}
	issuerKey := keys()[kind][1]
	spec := stepca.CeremonySpec{
		Name:       "Example",
		RootCRLURL: "http://pki.example.com:8080/crl/root.crl",
		RootAIAURL: "http://pki.example.com:8080/issuers/root.crt",
	}
	var err error
	p.root, err = stepca.CreateRoot(spec, p.rootKey)
	must(err)
	p.issuer, err = stepca.CreateIssuer(spec, p.root, p.rootKey, issuerKey.Public())
	must(err)
	signer, err := stepca.NewSigner(p.issuer, issuerKey)
	must(err)
	store, err := boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true})
	must(err)
	t.Cleanup(func() { must(store.Close()) })
	builtin, err := daemon.Profiles(config.BuiltinProfiles())
	must(err)
	if len(builtin) != len(profiles) {
		t.Fatalf("%d built-in profiles, and names for %d", len(builtin), len(profiles))
	}
	p.ca, err = ca.New(ca.Config{
		Issuer: &ca.Issuer{Signer: signer, Root: p.root, CRLURL: crlURL, AIAURL: "http://pki.example.com:8080/issuers/issuing.crt", OCSPURL: "http://pki.example.com:8080/ocsp"},
		Store:  store, Profiles: builtin,
	})
	must(err)
	p.shard = crl.Shard{Issuer: p.ca.Issuer().ID()}
	p.store = store
	p.startPublisher(t, "")
	return p
}

// startPublisher publishes from now on with a delta CRL at a URL, or with none.
func (p *pki) startPublisher(t *testing.T, deltaURL string) {
	t.Helper()
	var err error
	p.publisher, err = crl.NewPublisher(crl.PublisherConfig{
		Shards: []crl.PublishedShard{{Shard: p.shard, URL: crlURL, DeltaURL: deltaURL, Issuer: p.issuer}},
		Store:  p.store, Revocations: p.store, Signer: p.ca,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// issue returns the DER of a certificate for all the names that a profile permits.
func (p *pki) issue(t *testing.T, profile string, names ca.Names, kind ca.KeyType) []byte {
	t.Helper()
	key, err := ca.ProveOwn(keys()[kind][0])
	if err != nil {
		t.Fatal(err)
	}
	issued, err := p.ca.Issue(t.Context(), ca.Request{Profile: profile, ClientID: "billing", Names: names, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Record.DER
}

// responder returns the DER of the certificate of an OCSP responder.
func (p *pki) responder(t *testing.T) []byte {
	t.Helper()
	key, err := ca.ProveOwn(keys()[ca.P256][0])
	if err != nil {
		t.Fatal(err)
	}
	issued, err := p.ca.IssueResponder(t.Context(), ca.ResponderRequest{Issuer: p.shard.Issuer, ClientID: "pkid", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Record.DER
}

// publish returns the DER of a new CRL, which has that many entries.
func (p *pki) publish(t *testing.T, entries int) []byte {
	t.Helper()
	signed, err := p.publisher.Publish(t.Context(), p.shard)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(signed.DER.Bytes())
	if err != nil || len(list.RevokedCertificateEntries) != entries {
		t.Fatalf("%d entries, want %d; %v", len(list.RevokedCertificateEntries), entries, err)
	}
	return signed.DER.Bytes()
}

// publishDelta returns the DER of the delta CRL of a new CRL.
func (p *pki) publishDelta(t *testing.T, entries int) []byte {
	t.Helper()
	signed, err := p.publisher.Publish(t.Context(), p.shard)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(signed.Delta.Bytes())
	if err != nil || len(list.RevokedCertificateEntries) != entries {
		t.Fatalf("%d entries, want %d; %v", len(list.RevokedCertificateEntries), entries, err)
	}
	return signed.Delta.Bytes()
}

var reasons = []ca.Reason{
	ca.Unspecified, ca.KeyCompromise, ca.CACompromise, ca.AffiliationChanged, ca.Superseded,
	ca.CessationOfOperation, ca.CertificateHold, ca.PrivilegeWithdrawn, ca.AACompromise,
}

func (p *pki) revokeForEachReason(t *testing.T) {
	t.Helper()
	for _, reason := range reasons {
		p.issueAndRevoke(t, reason)
	}
}

func (p *pki) issueAndRevoke(t *testing.T, reasons ...ca.Reason) {
	t.Helper()
	cert, err := x509.ParseCertificate(p.issue(t, config.ProfileClient, ca.Names{CommonName: "revoked"}, ca.P256))
	if err != nil {
		t.Fatal(err)
	}
	serial, err := ca.SerialOf(cert.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range reasons {
		if _, err := p.ca.Revoke(t.Context(), ca.RevocationRequest{Serial: serial, Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *pki) rootCRL(t *testing.T, revoked ...*big.Int) []byte {
	t.Helper()
	now := time.Now()
	var entries []x509.RevocationListEntry
	for _, serial := range revoked {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now, ReasonCode: int(ca.CACompromise)})
	}
	der, err := stepca.CreateRootCRL(p.root, p.rootKey, big.NewInt(1), now, p.issuer.NotAfter, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func withoutKeyIdentifiers(t *testing.T) []byte {
	t.Helper()
	key := keys()[ca.P256][0]
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "Issuer"}}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
