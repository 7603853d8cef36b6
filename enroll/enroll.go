// Package enroll decides who may have a certificate: it makes invitations, redeems them for a first
// certificate, and lets the holder of a certificate renew it.
//
// The names, the profile and the client of a certificate come from the invitation, or from the certificate
// that is renewed. A certificate request proves possession of a key and says nothing else.
package enroll

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
)

// Sentinels beside ErrInvitation. What a caller can mend is in the text.
var (
	// ErrRequest: the request for an invitation is malformed.
	ErrRequest = errors.New("bad invitation request")
	// ErrNoCertificate: a renewal came without a client certificate.
	ErrNoCertificate = errors.New("no client certificate")
	// ErrOwnKey: a renewal came through a proxy, and without a proof that its client has the certificate's key.
	ErrOwnKey = errors.New("through a proxy a certificate is renewed for its own key only, which a certificate request proves")
)

// Bounds of an invitation.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 720 * time.Hour
	maxList    = 64   // scopes, resources or SANs
	maxText    = 1024 // octets of one of them
)

// The names that mean something here.
const (
	DefaultProfile  = "client"   // the profile of an invitation that names none
	OperatorProfile = "operator" // makes operators, who are no clients of the token endpoint
	Daemon          = "pkid"     // client id of the daemon's own certificates, and its name in the audit log
)

// Config is what a Service needs. All of it is required but Restored, Allow and Now.
type Config struct {
	Authority *ca.Authority
	Store     Store
	Clients   Clients
	// Restored is when the store was brought back from a backup; zero if it never was. An invitation from before may
	// have been redeemed after the backup, so it is refused (invariant 4).
	Restored time.Time
	// Allow is asked before a certificate is signed whether its client may have one more; its error is returned.
	Allow func(clientID string) error
	Now   func() time.Time
}

// Service enrols and renews. All methods may be called at once.
type Service struct {
	ca       *ca.Authority
	store    Store
	clients  Clients
	restored time.Time
	allow    func(clientID string) error
	now      func() time.Time
}

// New validates c.
func New(c Config) (*Service, error) {
	if c.Authority == nil || c.Store == nil || c.Clients == nil {
		return nil, errors.New("enroll: Authority, Store and Clients are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Allow == nil {
		c.Allow = func(string) error { return nil }
	}
	return &Service{ca: c.Authority, store: c.Store, clients: c.Clients, restored: c.Restored, allow: c.Allow, now: c.Now}, nil
}

// InviteRequest asks for an invitation. Empty members have defaults; SANs are as ca.ParseSANs reads them.
type InviteRequest struct {
	ClientID  string // also the certificate's common name
	Profile   string
	SANs      []string
	Scopes    []string // what the client may ask of the token endpoint
	Resources []string
	TTL       time.Duration // how long the invitation holds
	Lifetime  time.Duration // of the certificate
}

// Invite makes an invitation and returns it with its secret, which is not kept. The request is checked
// against the profile now, so that a mistake shows to the operator and not on the machine that enrols.
//
// A client whose certificates can authenticate it (clientAuth) is registered with the token endpoint, or gets
// these scopes and resources, which hold from then on for the certificates that it has too. That comes last:
// if it fails, what stays behind is an invitation whose secret nobody knows.
func (s *Service) Invite(ctx context.Context, r InviteRequest) (*Invitation, [32]byte, error) {
	var secret [32]byte
	if err := r.complete(); err != nil {
		return nil, secret, err
	}
	names, err := ca.ParseSANs(r.ClientID, r.SANs)
	if err != nil {
		return nil, secret, err
	}
	if err := s.ca.CheckGrant(r.Profile, names, r.Lifetime); err != nil {
		return nil, secret, err
	}
	register := r.Profile != OperatorProfile && s.ca.ClientAuth(r.Profile)
	if !register && len(r.Scopes)+len(r.Resources) > 0 {
		return nil, secret, fmt.Errorf("%w: scopes and resources belong to clients of the token endpoint; profile %q has none", ErrRequest, r.Profile)
	}
	if err := s.clients.CheckEnabled(ctx, r.ClientID); err != nil {
		return nil, secret, err
	}
	rand.Read(secret[:])
	now := s.now().UTC().Truncate(time.Millisecond)
	inv := &Invitation{
		ID: newID(now), SecretHash: sha256.Sum256(secret[:]),
		ClientID: r.ClientID, Profile: r.Profile, Names: names, Lifetime: r.Lifetime,
		CreatedAt: now, ExpiresAt: now.Add(r.TTL),
	}
	ev := audit.Event{Time: now, Actor: audit.From(ctx), Action: audit.Invite, Subject: inv.ID, Detail: map[string]string{
		"client": inv.ClientID, "profile": inv.Profile, "names": strings.Join(names.Text(), " "),
		"expires_at": inv.ExpiresAt.Format(time.RFC3339),
	}}
	if err := s.store.PutInvitation(ctx, inv, ev); err != nil {
		return nil, [32]byte{}, fmt.Errorf("recording invitation: %w", err)
	}
	if register {
		if err := s.clients.Enrol(ctx, r.ClientID, r.Scopes, r.Resources); err != nil {
			return nil, [32]byte{}, fmt.Errorf("registering client: %w", err)
		}
	}
	return inv, secret, nil
}

// newID draws an invitation's id: Unix milliseconds in 6 octets, then 10 random ones, so that ids sort by time and a
// B+tree grows at its right edge. What must not be guessed is the secret.
func newID(now time.Time) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	rand.Read(id[6:])
	return hex.EncodeToString(id[:])
}

func (r *InviteRequest) complete() error {
	if r.Profile == "" {
		r.Profile = DefaultProfile
	}
	if r.TTL == 0 {
		r.TTL = DefaultTTL
	}
	if r.TTL < time.Minute || r.TTL > MaxTTL {
		return fmt.Errorf("%w: an invitation holds for 1m to %s, not %s", ErrRequest, MaxTTL, r.TTL)
	}
	if err := CheckClientID(r.ClientID); err != nil {
		return err
	}
	for _, list := range [][]string{r.SANs, r.Scopes, r.Resources} {
		if len(list) > maxList || slices.ContainsFunc(list, func(s string) bool { return s == "" || len(s) > maxText }) {
			return fmt.Errorf("%w: want at most %d SANs, scopes and resources each, of 1 to %d octets", ErrRequest, maxList, maxText)
		}
	}
	for _, s := range slices.Concat(r.Scopes, r.Resources) {
		if strings.ContainsFunc(s, func(c rune) bool { return c <= 0x20 || c > 0x7e || c == '"' || c == '\\' }) {
			return fmt.Errorf("%w: %q: a scope or resource has printable ASCII characters without space, quote and backslash", ErrRequest, s)
		}
	}
	for _, resource := range r.Resources {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.Contains(resource, "#") {
			return fmt.Errorf("%w: resource %q: want an absolute URI without fragment (RFC 8707 section 2)", ErrRequest, resource)
		}
	}
	return nil
}

// CheckClientID accepts ids that can stand in a common name, a URL path and a log line as they are: 1 to 64
// letters, digits and "-._~:@", beginning with a letter or digit. Daemon is taken.
func CheckClientID(id string) error {
	const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if len(id) < 1 || len(id) > 64 || strings.Trim(id, alphanumeric+"-._~:@") != "" || !strings.Contains(alphanumeric, id[:1]) {
		return fmt.Errorf("%w: a client id has 1 to 64 letters, digits or -._~:@ and begins with a letter or digit", ErrRequest)
	}
	if id == Daemon {
		return fmt.Errorf("%w: the client id %q is the daemon's own", ErrRequest, Daemon)
	}
	return nil
}

// Enroll redeems an invitation for a certificate over the CSR's key. The same CSR again, after a lost
// answer, gets the same certificate, also when the invitation has expired meanwhile (invariant 4).
func (s *Service) Enroll(ctx context.Context, id string, secret [32]byte, csr []byte) (*ca.Issued, error) {
	inv, err := s.store.Invitation(ctx, id)
	if err != nil && !errors.Is(err, ErrInvitation) {
		return nil, fmt.Errorf("reading invitation: %w", err)
	}
	if err := inv.check(secret); err != nil {
		return nil, err
	}
	key, err := ca.ProveCSR(csr)
	if err != nil {
		return nil, err
	}
	if inv.Spent != nil {
		return s.again(ctx, inv, key)
	}
	if now := s.now(); now.After(inv.ExpiresAt) {
		return nil, fmt.Errorf("%w: it expired at %s; ask the operator for another", ErrInvitation, inv.ExpiresAt.Format(time.RFC3339))
	}
	if inv.CreatedAt.Before(s.restored) {
		return nil, fmt.Errorf("%w: the CA was restored from a backup after it was made, and cannot know whether it was used; ask the operator for another", ErrInvitation)
	}
	if err := s.clients.CheckEnabled(ctx, inv.ClientID); err != nil {
		return nil, err
	}
	if err := s.allow(inv.ClientID); err != nil {
		return nil, err
	}
	ctx = withClient(ctx, inv.ClientID)
	issued, err := s.ca.Issue(ctx, ca.Request{
		Profile: inv.Profile, ClientID: inv.ClientID, Names: inv.Names, Key: key, Lifetime: inv.Lifetime,
		Spend: &ca.Spend{ID: inv.ID, Use: key.Use()},
	})
	if spent, ok := errors.AsType[*ca.SpentError](err); ok {
		return nil, fmt.Errorf("%w: %w; ask the operator for another", ErrInvitation, spent)
	}
	return issued, err
}

// check compares the secret in constant time. An invitation that does not exist costs and answers the same
// as a wrong secret.
func (inv *Invitation) check(secret [32]byte) error {
	var want [32]byte
	if inv != nil {
		want = inv.SecretHash
	}
	sum := sha256.Sum256(secret[:])
	if subtle.ConstantTimeCompare(sum[:], want[:]) != 1 || inv == nil {
		return fmt.Errorf("%w: unknown, or its secret is wrong; ask the operator for another", ErrInvitation)
	}
	return nil
}

// again answers a retry of a spent invitation.
func (s *Service) again(ctx context.Context, inv *Invitation, key ca.ProvenKey) (*ca.Issued, error) {
	if inv.Spent.Use != key.Use() {
		spent := &ca.SpentError{Spend: ca.Spend{ID: inv.ID}, Serial: inv.Spent.Serial}
		return nil, fmt.Errorf("%w: %w; ask the operator for another", ErrInvitation, spent)
	}
	return s.ca.Issued(ctx, inv.Spent.Serial)
}

// Renew signs a successor for the certificate that the TLS connection was authenticated with: for the same
// key if csr is empty, else for the CSR's. Whether the certificate is this CA's and still active, ca decides
// from its own record.
func (s *Service) Renew(ctx context.Context, state *tls.ConnectionState, csr []byte) (*ca.Issued, error) {
	leaf, key, ok := ca.ProvePeer(state)
	if !ok {
		return nil, fmt.Errorf("%w: connect to the mTLS listener with the certificate to be renewed", ErrNoCertificate)
	}
	if len(csr) > 0 {
		var err error
		if key, err = ca.ProveCSR(csr); err != nil {
			return nil, err
		}
	}
	return s.renew(ctx, leaf, key)
}

// RenewForwarded is Renew for a connection that a trusted proxy ended. Its word is enough for a token, which is bound to
// the certificate, but not for a certificate: a proxy that lies, or lets a header through, would get one for a key of its
// own. So the CSR must be there, and be signed with the certificate's own key, which proves possession from end to end.
func (s *Service) RenewForwarded(ctx context.Context, state *tls.ConnectionState, csr []byte) (*ca.Issued, error) {
	leaf, _, ok := ca.ProvePeer(state)
	if !ok {
		return nil, fmt.Errorf("%w: present the certificate to be renewed to the proxy", ErrNoCertificate)
	}
	if len(csr) == 0 {
		return nil, fmt.Errorf("%w: send a certificate request that is signed with it", ErrOwnKey)
	}
	key, err := ca.ProveCSR(csr)
	if err != nil {
		return nil, err
	}
	if !key.IsOf(leaf) {
		return nil, fmt.Errorf("%w: for a new one, connect directly", ErrOwnKey)
	}
	return s.renew(ctx, leaf, key)
}

func (s *Service) renew(ctx context.Context, leaf *x509.Certificate, key ca.ProvenKey) (*ca.Issued, error) {
	rec, err := s.ca.Lookup(ctx, leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate to renew: %w", err)
	}
	if err := s.clients.CheckEnabled(ctx, rec.ClientID); err != nil {
		return nil, err
	}
	if err := s.allow(rec.ClientID); err != nil {
		return nil, err
	}
	return s.ca.Renew(withClient(ctx, rec.ClientID), ca.Renewal{Current: leaf, Record: rec, Key: key})
}

// withClient names the client as the actor of what follows: it authenticated by its invitation or its
// certificate.
func withClient(ctx context.Context, id string) context.Context {
	a := audit.From(ctx)
	a.Name = id
	return audit.WithActor(ctx, a)
}
