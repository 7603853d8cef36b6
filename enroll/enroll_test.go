package enroll_test

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// house is a real CA, store and registry behind a Service, with a clock of its own.
type house struct {
	*enroll.Service
	authority *ca.Authority
	clients   *authserver.Registry
	store     *boltstore.Store
	now       time.Time

	invitations *faultyInvitations
	registryErr error // of CheckEnabled, if set
}

// errFault is an error of a store, which is nobody's business.
var errFault = errors.New("reading /var/lib/pkid/pkid.db: input/output error")

func (h *house) Enrol(ctx context.Context, id string, scopes, resources []string) error {
	return h.clients.Enrol(ctx, id, scopes, resources)
}

func (h *house) CheckEnabled(ctx context.Context, id string) error {
	return cmp.Or(h.registryErr, h.clients.CheckEnabled(ctx, id))
}

type faultyInvitations struct {
	enroll.Store
	err error // of PutInvitation, if set
}

func (s *faultyInvitations) PutInvitation(ctx context.Context, inv *enroll.Invitation, ev audit.Event) error {
	return cmp.Or(s.err, s.Store.PutInvitation(ctx, inv, ev))
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{now: time.Now()}
	clock := func() time.Time { return h.now }
	var err error
	if h.store, err = boltstore.Open(filepath.Join(t.TempDir(), "pkid.db"), boltstore.Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.store.Close() })
	spec := stepca.CeremonySpec{Name: "test", RootCRLURL: "http://localhost/crl/root.crl", RootAIAURL: "http://localhost/issuers/root.crt"}
	rootKey, issuerKey := newKey(t), newKey(t)
	root, err := stepca.CreateRoot(spec, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stepca.CreateIssuer(spec, root, rootKey, issuerKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := stepca.NewSigner(cert, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	configured := config.BuiltinProfiles()
	device := configured[config.ProfileClient]
	device.Usages = []string{"serverAuth", "clientAuth"}
	configured["device"] = device
	profiles, err := daemon.Profiles(configured)
	if err != nil {
		t.Fatal(err)
	}
	h.authority, err = ca.New(ca.Config{
		Store: h.store, Profiles: profiles, Now: clock,
		Issuer: &ca.Issuer{Signer: signer, Root: root, CRLURL: "http://localhost/crl/x.crl", AIAURL: "http://localhost/issuers/x.crt"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if h.clients, err = authserver.NewRegistry(authserver.RegistryConfig{Store: h.store, DataKey: make([]byte, 32), Now: clock}); err != nil {
		t.Fatal(err)
	}
	h.invitations = &faultyInvitations{Store: h.store}
	if h.Service, err = enroll.New(enroll.Config{Authority: h.authority, Store: h.invitations, Clients: h, Now: clock}); err != nil {
		t.Fatal(err)
	}
	return h
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCSR asks for everything that a requester must not get to decide.
func newCSR(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "administrator"}, DNSNames: []string{"evil.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (h *house) invite(t *testing.T, r enroll.InviteRequest) (*enroll.Invitation, [32]byte) {
	t.Helper()
	inv, secret, err := h.Invite(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return inv, secret
}

// TestInvitationIDsSortByTime: a store that keeps them in order grows at one end.
func TestInvitationIDsSortByTime(t *testing.T) {
	h := newHouse(t)
	var last string
	for range 20 {
		inv, _ := h.invite(t, enroll.InviteRequest{ClientID: "payments"})
		again, _ := h.invite(t, enroll.InviteRequest{ClientID: "payments"})
		if inv.ID <= last || len(inv.ID) != 32 || inv.ID == again.ID {
			t.Errorf("%s after %s, and %s in the same millisecond", inv.ID, last, again.ID)
		}
		last = max(inv.ID, again.ID)
		h.now = h.now.Add(time.Millisecond)
	}
}

func TestInvariant2_NamesComeFromTheInvitation(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "payments", SANs: []string{"payments.example", "10.0.0.1"}})
	issued, err := h.Enroll(t.Context(), inv.ID, secret, newCSR(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.String() != "CN=payments" || len(cert.DNSNames) != 1 || cert.DNSNames[0] != "payments.example" || len(cert.IPAddresses) != 1 {
		t.Errorf("subject %s, SANs %v %v", cert.Subject, cert.DNSNames, cert.IPAddresses)
	}
	client, err := h.clients.Get(t.Context(), "payments")
	if err != nil || client.Auth != authserver.TLSClientAuth {
		t.Errorf("client of the enrolled certificate: %+v, %v", client, err)
	}
}

func TestInvariant4_OneInvitationOneCertificate(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	csr := newCSR(t, newKey(t))
	first, err := h.Enroll(t.Context(), inv.ID, secret, csr)
	if err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(enroll.DefaultTTL + time.Hour) // a lost answer may be noticed late
	again, err := h.Enroll(t.Context(), inv.ID, secret, csr)
	if err != nil || again.Record.Serial != first.Record.Serial {
		t.Errorf("the same CSR again: %v, %v", again, err)
	}
	_, err = h.Enroll(t.Context(), inv.ID, secret, newCSR(t, newKey(t)))
	if _, spent := errors.AsType[*ca.SpentError](err); !spent || !errors.Is(err, enroll.ErrInvitation) {
		t.Errorf("another CSR: %v, want a spent invitation", err)
	}
}

func TestInvariant4_ConcurrentRedeemers(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	same := newCSR(t, newKey(t))
	var mu sync.Mutex
	serials := map[ca.Serial]int{}
	refused := 0
	var wg sync.WaitGroup
	for i := range 16 {
		csr := same
		if i%2 == 1 {
			csr = newCSR(t, newKey(t))
		}
		wg.Go(func() {
			issued, err := h.Enroll(t.Context(), inv.ID, secret, csr)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				serials[issued.Record.Serial]++
			case errors.Is(err, enroll.ErrInvitation):
				refused++
			default:
				t.Errorf("redeeming: %v", err)
			}
		})
	}
	wg.Wait()
	if len(serials) != 1 || refused < 7 {
		t.Errorf("%d certificates, %d refused; want one certificate", len(serials), refused)
	}
	page, err := h.authority.List(t.Context(), ca.Query{ClientID: "a", Limit: 10})
	if err != nil || len(page.Records) != 1 {
		t.Errorf("the store holds %v, %v", page, err)
	}
}

func TestEnrollRefuses(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a", TTL: time.Hour})
	csr := newCSR(t, newKey(t))
	wrong := secret
	wrong[0] ^= 1
	broken := append([]byte(nil), csr...)
	broken[len(broken)-1] ^= 1
	certificate := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	for _, tt := range []struct {
		name   string
		id     string
		secret [32]byte
		csr    []byte
		want   error
	}{
		{"unknown invitation", strings.Repeat("0", 32), secret, csr, enroll.ErrInvitation},
		{"wrong secret", inv.ID, wrong, csr, enroll.ErrInvitation},
		{"zero secret", inv.ID, [32]byte{}, csr, enroll.ErrInvitation},
		{"no CSR", inv.ID, secret, nil, ca.ErrCSR},
		{"a certificate", inv.ID, secret, certificate, ca.ErrCSR},
		{"too large", inv.ID, secret, make([]byte, ca.MaxCSR+1), ca.ErrCSR},
		{"signature of another key", inv.ID, secret, broken, ca.ErrCSR},
	} {
		if _, err := h.Enroll(t.Context(), tt.id, tt.secret, tt.csr); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	h.now = h.now.Add(2 * time.Hour)
	if _, err := h.Enroll(t.Context(), inv.ID, secret, csr); !errors.Is(err, enroll.ErrInvitation) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
}

// An invitation from before a restore may have been used after the backup. One that was spent before the backup still
// answers its retry.
func TestEnrollRefusesInvitationsFromBeforeARestore(t *testing.T) {
	h := newHouse(t)
	used, usedSecret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	csr := newCSR(t, newKey(t))
	issued, err := h.Enroll(t.Context(), used.ID, usedSecret, csr)
	if err != nil {
		t.Fatal(err)
	}
	open, secret := h.invite(t, enroll.InviteRequest{ClientID: "b"})
	h.now = h.now.Add(time.Hour)
	restored, err := enroll.New(enroll.Config{
		Authority: h.authority, Store: h.store, Clients: h, Restored: h.now, Now: func() time.Time { return h.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restored.Enroll(t.Context(), open.ID, secret, csr); !errors.Is(err, enroll.ErrInvitation) || !strings.Contains(err.Error(), "restored") {
		t.Errorf("an unspent invitation: %v", err)
	}
	again, err := restored.Enroll(t.Context(), used.ID, usedSecret, csr)
	if err != nil || again.Record.Serial != issued.Record.Serial {
		t.Errorf("a retry: %v, %v", again, err)
	}
	h.Service = restored
	h.now = h.now.Add(time.Minute)
	fresh, secret := h.invite(t, enroll.InviteRequest{ClientID: "c"})
	if _, err := restored.Enroll(t.Context(), fresh.ID, secret, csr); err != nil {
		t.Errorf("an invitation made since: %v", err)
	}
}

func TestInviteRefuses(t *testing.T) {
	h := newHouse(t)
	for _, tt := range []struct {
		name string
		r    enroll.InviteRequest
		want error
	}{
		{"no client", enroll.InviteRequest{}, enroll.ErrRequest},
		{"client id with a slash", enroll.InviteRequest{ClientID: "a/b"}, enroll.ErrRequest},
		{"the daemon's own client id", enroll.InviteRequest{ClientID: "pkid", Profile: "server"}, enroll.ErrRequest},
		{"client id with a NUL", enroll.InviteRequest{ClientID: "a\x00b"}, enroll.ErrRequest},
		{"short invitation", enroll.InviteRequest{ClientID: "a", TTL: time.Second}, enroll.ErrRequest},
		{"long invitation", enroll.InviteRequest{ClientID: "a", TTL: enroll.MaxTTL + time.Hour}, enroll.ErrRequest},
		{"many SANs", enroll.InviteRequest{ClientID: "a", SANs: make([]string, 100)}, enroll.ErrRequest},
		{"two scopes in one", enroll.InviteRequest{ClientID: "a", Scopes: []string{"read write"}}, enroll.ErrRequest},
		{"resource with a quote", enroll.InviteRequest{ClientID: "a", Resources: []string{`"https://a.example"`}}, enroll.ErrRequest},
		{"scopes of an operator", enroll.InviteRequest{ClientID: "a", Profile: "operator", Scopes: []string{"x"}}, enroll.ErrRequest},
		{"resource that is no URI", enroll.InviteRequest{ClientID: "a", Resources: []string{"orders"}}, enroll.ErrRequest},
		{"resource with a fragment", enroll.InviteRequest{ClientID: "a", Resources: []string{"https://x/#y"}}, enroll.ErrRequest},
		{"scopes of a server", enroll.InviteRequest{ClientID: "a", Profile: "server", Scopes: []string{"x"}}, enroll.ErrRequest},
		{"unknown profile", enroll.InviteRequest{ClientID: "a", Profile: "root"}, ca.ErrProfile},
		{"wildcard", enroll.InviteRequest{ClientID: "a", SANs: []string{"*.example"}}, ca.ErrNames},
		{"name that the profile has no rule for", enroll.InviteRequest{ClientID: "a", Profile: "operator", SANs: []string{"x.example"}}, ca.ErrNames},
		{"lifetime", enroll.InviteRequest{ClientID: "a", Lifetime: 365 * 24 * time.Hour}, ca.ErrLifetime},
	} {
		if _, _, err := h.Invite(t.Context(), tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestInviteRegistersByUsage: whether a client of the token endpoint is made, the profile's usage decides and
// not its name.
func TestInviteRegistersByUsage(t *testing.T) {
	h := newHouse(t)
	for profile, want := range map[string]bool{"client": true, "device": true, "server": false, "operator": false} {
		r := enroll.InviteRequest{ClientID: "of-" + profile, Profile: profile}
		if want {
			r.Scopes = []string{"read"}
		}
		h.invite(t, r)
		c, err := h.clients.Get(t.Context(), r.ClientID)
		if want && (err != nil || !slices.Equal(c.Scopes, r.Scopes)) {
			t.Errorf("%s: registered as %+v, %v", profile, c, err)
		}
		if !want && !errors.Is(err, authserver.ErrNoClient) {
			t.Errorf("%s: registered as %+v, %v", profile, c, err)
		}
	}
}

// TestInviteThatFailsChangesNoClient: an invitation that could not be recorded, or that nobody could redeem,
// leaves the client's scopes as they are.
func TestInviteThatFailsChangesNoClient(t *testing.T) {
	h := newHouse(t)
	h.invite(t, enroll.InviteRequest{ClientID: "a", Scopes: []string{"read"}})
	more := enroll.InviteRequest{ClientID: "a", Scopes: []string{"read", "write"}}
	h.invitations.err = errFault
	if _, secret, err := h.Invite(t.Context(), more); !errors.Is(err, errFault) || secret != [32]byte{} {
		t.Errorf("got %v", err)
	}
	h.invitations.err = nil
	if _, err := h.clients.Change(t.Context(), "a", func(c *authserver.Client) error { c.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Invite(t.Context(), more); !errors.Is(err, authserver.ErrDisabled) {
		t.Errorf("disabled client: %v", err)
	}
	if c, err := h.clients.Get(t.Context(), "a"); err != nil || !slices.Equal(c.Scopes, []string{"read"}) {
		t.Errorf("the client has scopes %v, %v", c.Scopes, err)
	}
}

// TestRegistryErrorsAreNotDisabledClients: a registry that cannot be read says so, and is no refusal.
func TestRegistryErrorsAreNotDisabledClients(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	csr := newCSR(t, newKey(t))
	issued, err := h.Enroll(t.Context(), inv.ID, secret, csr)
	if err != nil {
		t.Fatal(err)
	}
	other, secret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	h.registryErr = errFault
	_, enrolling := h.Enroll(t.Context(), other.ID, secret, csr)
	_, renewing := h.Renew(t.Context(), peer(t, issued), nil)
	_, _, inviting := h.Invite(t.Context(), enroll.InviteRequest{ClientID: "a"})
	for what, err := range map[string]error{"enrolling": enrolling, "renewing": renewing, "inviting": inviting} {
		if !errors.Is(err, errFault) || errors.Is(err, authserver.ErrDisabled) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// peer is the state of a TLS connection that a certificate's holder has made.
func peer(t *testing.T, issued *ca.Issued) *tls.ConnectionState {
	t.Helper()
	cert, err := x509.ParseCertificate(issued.Record.DER)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert}}
}

func TestRenew(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a", SANs: []string{"a.example"}, Lifetime: 2 * time.Hour})
	first, err := h.Enroll(t.Context(), inv.ID, secret, newCSR(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(time.Hour)
	same, err := h.Renew(t.Context(), peer(t, first), nil)
	if err != nil {
		t.Fatal(err)
	}
	rekeyed, err := h.Renew(t.Context(), peer(t, same), newCSR(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	if same.Record.Parent != first.Record.Serial || rekeyed.Record.Parent != same.Record.Serial {
		t.Error("lineage is not recorded")
	}
	for _, issued := range []*ca.Issued{same, rekeyed} {
		if got := strings.Join(issued.Record.Names, " "); got != "a a.example" {
			t.Errorf("names after a renewal: %s", got)
		}
		if got := issued.Record.NotAfter.Sub(issued.Record.IssuedAt).Round(time.Minute); got != 2*time.Hour {
			t.Errorf("length of life after a renewal: %s", got)
		}
	}
	if _, err := h.Renew(t.Context(), &tls.ConnectionState{HandshakeComplete: true}, nil); !errors.Is(err, enroll.ErrNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := h.authority.Revoke(t.Context(), ca.RevocationRequest{Serial: first.Record.Serial, Reason: ca.Superseded}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Renew(t.Context(), peer(t, first), nil); !errors.Is(err, ca.ErrNotActive) {
		t.Errorf("revoked: %v", err)
	}
	if _, err := h.clients.Change(t.Context(), "a", func(c *authserver.Client) error { c.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Renew(t.Context(), peer(t, same), nil); !errors.Is(err, authserver.ErrDisabled) {
		t.Errorf("disabled client: %v", err)
	}
	h.now = h.now.Add(24 * time.Hour)
	if _, err := h.Renew(t.Context(), peer(t, rekeyed), nil); err == nil {
		t.Error("an expired certificate renewed itself")
	}
}

// A proxy's word gets nobody a certificate: who renews through one shows the certificate's key, and keeps it.
func TestRenewForwarded(t *testing.T) {
	h := newHouse(t)
	inv, secret := h.invite(t, enroll.InviteRequest{ClientID: "a"})
	key := newKey(t)
	first, err := h.Enroll(t.Context(), inv.ID, secret, newCSR(t, key))
	if err != nil {
		t.Fatal(err)
	}
	next, err := h.RenewForwarded(t.Context(), peer(t, first), newCSR(t, key))
	if err != nil || next.Record.Parent != first.Record.Serial {
		t.Errorf("with its own key: %v", err)
	}
	forged := newCSR(t, key)
	forged[len(forged)/2] ^= 1
	for name, tt := range map[string]struct {
		state *tls.ConnectionState
		csr   []byte
		want  error
	}{
		"no request":       {peer(t, first), nil, enroll.ErrOwnKey},
		"another key":      {peer(t, first), newCSR(t, newKey(t)), enroll.ErrOwnKey},
		"no certificate":   {&tls.ConnectionState{HandshakeComplete: true}, newCSR(t, key), enroll.ErrNoCertificate},
		"a forged request": {peer(t, first), forged, ca.ErrCSR},
	} {
		if _, err := h.RenewForwarded(t.Context(), tt.state, tt.csr); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
