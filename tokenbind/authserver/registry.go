package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// ErrDisabled: an operator disabled the client.
var ErrDisabled = errors.New("client is disabled")

// authMethods are all that a client may be registered with.
var authMethods = []AuthMethod{TLSClientAuth, SelfSignedTLSClientAuth, PrivateKeyJWT, ClientSecretBasic, ClientSecretPost, ClientSecretJWT}

// RegistryConfig is what a Registry needs.
type RegistryConfig struct {
	Store ClientStore
	// DataKey is 32 octets. The secrets of client_secret_jwt are encrypted under a key derived from it.
	DataKey []byte
	// Profile that every client is held to: one that could not be served under it is not added.
	Profile Profile
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Registry is the register of OAuth clients. All methods may be called at once.
type Registry struct {
	store   ClientStore
	seal    *sealer
	profile Profile
	now     func() time.Time
}

// NewRegistry validates c.
func NewRegistry(c RegistryConfig) (*Registry, error) {
	if c.Store == nil || len(c.DataKey) != 32 {
		return nil, errors.New("authserver: a registry needs a Store and a DataKey of 32 octets")
	}
	seal, err := newSealer(c.DataKey)
	if err != nil {
		return nil, fmt.Errorf("authserver: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Registry{store: c.Store, seal: seal, profile: c.Profile, now: c.Now}, nil
}

// Add registers a client. For the client_secret methods it makes a secret of 256 bits, which is returned now
// and never again. Errors: ErrClientMetadata; ErrConflict if the id is taken.
func (r *Registry) Add(ctx context.Context, c Client) (added *Client, secret string, err error) {
	c.SecretHash, c.SealedSecret = nil, nil
	switch c.Auth {
	case ClientSecretBasic, ClientSecretPost:
		secret = newSecret()
		c.SecretHash = hashSecret(secret)
	case ClientSecretJWT:
		secret = newSecret()
		c.SealedSecret = r.seal.seal(c.ID, secret)
	}
	c.CreatedAt, c.Version = r.instant(), 0
	if err = c.validate(); err == nil {
		err = r.profile.admit(&c)
	}
	if err != nil {
		return nil, "", fmt.Errorf("adding client %.*q: %w", maxClientID, c.ID, err)
	}
	added, err = r.store.PutClient(ctx, c, r.event(ctx, audit.ClientAdd, c.ID, map[string]string{"auth": string(c.Auth)}))
	if errors.Is(err, ErrConflict) {
		return nil, "", fmt.Errorf("adding client %q: %w: a client of that id exists", c.ID, ErrConflict)
	}
	if err != nil {
		return nil, "", fmt.Errorf("adding client %q: %w", c.ID, err)
	}
	return added, secret, nil
}

// Get returns a client's record, or ErrNoClient.
func (r *Registry) Get(ctx context.Context, id string) (*Client, error) {
	if validID(id) != nil {
		return nil, ErrNoClient // no such id can have been added
	}
	return r.store.Client(ctx, id)
}

// List returns records in the order of their ids, those after the given id, at most limit (1 to 1000).
func (r *Registry) List(ctx context.Context, after string, limit int) ([]*Client, error) {
	return r.store.Clients(ctx, after, min(max(limit, 1), 1000))
}

// maxAttempts bounds how often Change starts over after a conflict. Each conflict is another's success.
const maxAttempts = 16

// Change applies a change to a client's record and keeps the result, starting over if another change came in
// between; change may thus be called more than once. An unchanged record is not written. Disabling and
// enabling both set TokensNotBefore, so that no token from before works after. Errors: ErrNoClient,
// ErrClientMetadata, ErrConflict after many attempts, and what change returns.
func (r *Registry) Change(ctx context.Context, id string, change func(*Client) error) (*Client, error) {
	for range maxAttempts {
		changed, err := r.changeOnce(ctx, id, change)
		if !errors.Is(err, ErrConflict) {
			return changed, err
		}
	}
	return nil, fmt.Errorf("changing client %q: %w, %d times in a row; try again", id, ErrConflict, maxAttempts)
}

func (r *Registry) changeOnce(ctx context.Context, id string, change func(*Client) error) (*Client, error) {
	old, err := r.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("changing client %q: %w", id, err)
	}
	c := old.clone()
	if err := change(c); err != nil {
		return nil, fmt.Errorf("changing client %q: %w", id, err)
	}
	c.ID, c.CreatedAt, c.Version = old.ID, old.CreatedAt, old.Version
	action := audit.ClientChange
	if c.Disabled != old.Disabled {
		c.TokensNotBefore = r.instant()
		if action = audit.ClientEnable; c.Disabled {
			action = audit.ClientDisable
			c.TokensNotBefore = endTokens(r.instant(), old.TokensNotBefore)
		} else if old.TokensNotBefore.After(c.TokensNotBefore) {
			c.TokensNotBefore = old.TokensNotBefore
		}
	}
	if reflect.DeepEqual(old, c) { // as with most invitations; tells far sooner than JSON does
		return old, nil
	}
	members := difference(old, c)
	if len(members) == 0 {
		return old, nil
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("changing client %q: %w", id, err)
	}
	// One that the profile found here can be disabled, or mended in steps.
	if err := r.profile.Check(c); err != nil && r.profile.Check(old) == nil {
		return nil, fmt.Errorf("changing client %q: %w", id, err)
	}
	detail := map[string]string{"changed": strings.Join(members, " ")}
	changed, err := r.store.PutClient(ctx, *c, r.event(ctx, action, id, detail))
	if err != nil {
		return nil, fmt.Errorf("changing client %q: %w", id, err)
	}
	return changed, nil
}

// Enrol makes sure that a client exists whose certificates bear its id as common name, with these scopes and
// resources if they are given. One that exists keeps its way of authenticating.
func (r *Registry) Enrol(ctx context.Context, clientID string, scopes, resources []string) error {
	grant := func(c *Client) error {
		if scopes != nil {
			c.Scopes = slices.Clone(scopes)
		}
		if resources != nil {
			c.Resources = slices.Clone(resources)
		}
		return nil
	}
	_, err := r.Change(ctx, clientID, grant)
	if !errors.Is(err, ErrNoClient) {
		return err
	}
	_, _, err = r.Add(ctx, Client{
		ID: clientID, Auth: TLSClientAuth, SubjectKind: SubjectDN,
		Subject: "CN=" + escapeDN(clientID), Scopes: scopes, Resources: resources,
	})
	if errors.Is(err, ErrConflict) { // another node was faster
		_, err = r.Change(ctx, clientID, grant)
	}
	return err
}

// CheckEnabled returns ErrDisabled if the client was disabled. An unknown client is enabled: operators and
// pkid's own servers have certificates and no record here.
func (r *Registry) CheckEnabled(ctx context.Context, clientID string) error {
	c, err := r.Get(ctx, clientID)
	switch {
	case errors.Is(err, ErrNoClient):
		return nil
	case err != nil:
		return fmt.Errorf("reading client %q: %w", clientID, err)
	case c.Disabled:
		return fmt.Errorf("%w: %q; an operator can enable it again", ErrDisabled, clientID)
	}
	return nil
}

// instant is the present in the resolution that records keep.
func (r *Registry) instant() time.Time { return r.now().UTC().Truncate(time.Millisecond) }

func (r *Registry) event(ctx context.Context, action, id string, detail map[string]string) audit.Event {
	return audit.Event{Time: r.instant(), Actor: audit.From(ctx), Action: action, Subject: id, Detail: detail}
}

func (c *Client) clone() *Client {
	d := *c
	d.JWKS, d.SecretHash, d.SealedSecret = bytes.Clone(c.JWKS), bytes.Clone(c.SecretHash), bytes.Clone(c.SealedSecret)
	d.Scopes, d.Resources = slices.Clone(c.Scopes), slices.Clone(c.Resources)
	return &d
}

// difference names the members, as stored, in which two records differ.
func difference(a, b *Client) []string {
	x, y := members(a), members(b)
	both := maps.Clone(x)
	maps.Copy(both, y)
	maps.DeleteFunc(both, func(name string, _ json.RawMessage) bool { return bytes.Equal(x[name], y[name]) })
	return slices.Sorted(maps.Keys(both))
}

func members(c *Client) map[string]json.RawMessage {
	raw, err := json.Marshal(c)
	if err != nil {
		panic("authserver: a client record is always encodable: " + err.Error())
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		panic("authserver: a client record is a JSON object: " + err.Error())
	}
	return m
}
