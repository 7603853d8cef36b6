package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/tokenbind"
)

// fault is how a call of a store fails.
type fault string

const (
	failsBefore fault = "fails before" // nothing was done
	failsAfter  fault = "fails after"  // it was done, and the answer was lost
	hangs       fault = "hangs"        // until whoever asked gives up
)

var everyFault = []fault{failsBefore, failsAfter, hangs}

var errPlanted = errors.New("disk on fire")

// seam is where a fault is planted: at the calls of one name.
type seam struct {
	mu    sync.Mutex // guards what follows
	call  string
	how   fault
	times int // that the fault struck
}

func (s *seam) plant(call string, how fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call, s.how, s.times = call, how, 0
}

func (s *seam) do(ctx context.Context, call string, act func() error) error {
	s.mu.Lock()
	how := fault("")
	if call == s.call {
		how = s.how
		s.times++
	}
	s.mu.Unlock()
	switch how {
	case failsBefore:
		return errPlanted
	case failsAfter:
		return errors.Join(act(), errPlanted)
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	default:
		return act()
	}
}

// The stores behind a seam.
type (
	seamClients struct {
		ClientStore
		*seam
	}
	seamRevoked struct {
		RevokedTokens
		*seam
	}
	seamReplay struct {
		tokenbind.Replay
		*seam
	}
)

func (s seamClients) Client(ctx context.Context, id string) (c *Client, err error) {
	return c, s.do(ctx, "Client", func() error { c, err = s.ClientStore.Client(ctx, id); return err })
}

func (s seamClients) PutClient(ctx context.Context, c Client, ev audit.Event) (kept *Client, err error) {
	return kept, s.do(ctx, "PutClient", func() error { kept, err = s.ClientStore.PutClient(ctx, c, ev); return err })
}

func (s seamRevoked) RevokeToken(ctx context.Context, jti string, until time.Time, ev audit.Event) error {
	return s.do(ctx, "RevokeToken", func() error { return s.RevokedTokens.RevokeToken(ctx, jti, until, ev) })
}

func (s seamRevoked) TokenRevoked(ctx context.Context, jti string) (revoked bool, err error) {
	return revoked, s.do(ctx, "TokenRevoked", func() error { revoked, err = s.RevokedTokens.TokenRevoked(ctx, jti); return err })
}

func (s seamReplay) Use(ctx context.Context, key [32]byte, until time.Time) error {
	return s.do(ctx, "Use", func() error { return s.Replay.Use(ctx, key, until) })
}

// stage is a server over stores with a seam, a client of it, and one that may introspect any token.
type stage struct {
	*prover
	*seam
	secret, reader string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{seam: new(seam)}
	h := newHouse(t, func(c *Config) {
		registry, err := NewRegistry(RegistryConfig{Store: seamClients{c.Registry.store, s.seam}, DataKey: make([]byte, 32), Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		c.Registry, c.Revoked, c.Replay = registry, seamRevoked{c.Revoked, s.seam}, seamReplay{c.Replay, s.seam}
	})
	s.secret = h.add(Client{ID: "a", Auth: ClientSecretBasic, DPoP: true})
	s.reader = h.add(Client{ID: "rs", Auth: ClientSecretBasic, Introspect: true})
	s.prover = h.prover()
	return s
}

// ask sends a request to an endpoint, as a caller does that gives up soon if the answer does not come.
func (s *stage) ask(endpoint http.HandlerFunc, id, secret, proof string, form url.Values) (status int, body map[string]any) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	if s.seam.how == hangs {
		ctx, cancel = context.WithTimeout(s.Context(), 10*time.Millisecond)
	}
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, s.url+TokenPath, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	w := httptest.NewRecorder()
	endpoint(w, r)
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			s.Fatal(err)
		}
	}
	return w.Code, body
}

func (s *stage) askToken(proof string) (int, map[string]any) {
	s.Helper()
	return s.ask(s.Server.Token, "a", s.secret, proof, url.Values{"grant_type": {"client_credentials"}})
}

func (s *stage) newToken() string {
	s.Helper()
	status, body := s.askToken(s.proof(""))
	token, _ := body["access_token"].(string)
	if status != http.StatusOK || token == "" {
		s.Fatalf("no token: %d %v", status, body)
	}
	return token
}

func (s *stage) revokeToken(token string) int {
	s.Helper()
	status, _ := s.ask(s.Server.Revoke, "a", s.secret, "", url.Values{"token": {token}})
	return status
}

// active asks whether a token is, when all is well.
func (s *stage) active(token string) bool {
	s.Helper()
	status, body := s.ask(s.Server.Introspect, "rs", s.reader, "", url.Values{"token": {token}})
	if status != http.StatusOK {
		s.Fatalf("introspection: %d %v", status, body)
	}
	return body["active"] == true
}

// struck mends the fault, and wants it to have been met and told as such.
func (s *stage) struck(status int, body map[string]any) {
	s.Helper()
	if s.times == 0 {
		s.Fatalf("%s was not called", s.call)
	}
	if status != http.StatusServiceUnavailable || body["access_token"] != nil || body["active"] != nil {
		s.Errorf("%d %v; want 503 and no more", status, body)
	}
	s.plant("", "")
}

func onStage(t *testing.T, call string, play func(*stage, fault)) {
	for _, how := range everyFault {
		t.Run(fmt.Sprintf("%s %s", call, how), func(t *testing.T) { play(newStage(t), how) })
	}
}

// A proof that was not looked at gives a token when it is sent again; one that was used, of which nobody was told, never.
func TestTokenAtEachFault(t *testing.T) {
	for call, spent := range map[string]fault{"Client": "", "Use": failsAfter} {
		onStage(t, call, func(s *stage, how fault) {
			proof := s.proof("")
			s.plant(call, how)
			s.struck(s.askToken(proof))
			status, body := s.askToken(proof)
			if how == spent {
				if status != http.StatusBadRequest || body["error"] != "invalid_dpop_proof" {
					s.Errorf("the proof was used, and sent again got %d %v", status, body)
				}
			} else if status != http.StatusOK {
				s.Errorf("the proof was not used, and sent again got %d %v", status, body)
			}
			if status, _ := s.askToken(proof); status == http.StatusOK {
				s.Error("the proof gave a second token")
			}
		})
	}
}

// A revocation is acknowledged if it took effect, and can be tried again if it was not; the audit log has it once.
func TestTokenRevocationAtEachFault(t *testing.T) {
	for call, done := range map[string]fault{"Client": "", "TokenRevoked": "", "RevokeToken": failsAfter} {
		onStage(t, call, func(s *stage, how fault) {
			token := s.newToken()
			s.plant(call, how)
			s.struck(s.revokeToken(token), nil)
			if active := s.active(token); active == (how == done) {
				s.Errorf("the token is active: %v", active)
			}
			if status := s.revokeToken(token); status != http.StatusOK || s.active(token) {
				s.Errorf("tried again: %d", status)
			}
			if n := len(s.revoked.events); n != 1 {
				s.Errorf("the audit log has it %d times", n)
			}
		})
	}
}

// Introspection never calls a token active that it could not look up.
func TestIntrospectionAtEachFault(t *testing.T) {
	for _, call := range []string{"Client", "TokenRevoked"} {
		onStage(t, call, func(s *stage, how fault) {
			token := s.newToken()
			s.plant(call, how)
			s.struck(s.ask(s.Server.Introspect, "rs", s.reader, "", url.Values{"token": {token}}))
			if !s.active(token) {
				s.Error("the token is dead when all is well again")
			}
		})
	}
}

// A client is disabled when that is recorded, whatever the caller was told; trying again does no harm.
func TestDisablingAtEachFault(t *testing.T) {
	for call, done := range map[string]fault{"Client": "", "PutClient": failsAfter} {
		onStage(t, call, func(s *stage, how fault) {
			token, registry := s.newToken(), s.Server.c.Registry
			disable := func(ctx context.Context) error {
				_, err := registry.Change(ctx, "a", func(c *Client) error { c.Disabled = true; return nil })
				return err
			}
			ctx, cancel := context.WithTimeout(s.Context(), 10*time.Millisecond)
			defer cancel()
			if how != hangs {
				ctx = s.Context()
			}
			s.plant(call, how)
			if err := disable(ctx); !errors.Is(err, errPlanted) && !errors.Is(err, context.DeadlineExceeded) || s.times == 0 {
				s.Errorf("got %v", err)
			}
			s.plant("", "")
			if active := s.active(token); active == (how == done) {
				s.Errorf("a token of the client is active: %v", active)
			}
			events := len(s.clients.events)
			if err := disable(s.Context()); err != nil || s.active(token) {
				s.Errorf("tried again: %v", err)
			}
			if again := len(s.clients.events) - events; (again == 0) != (how == done) {
				s.Errorf("trying again wrote %d events", again)
			}
		})
	}
}
