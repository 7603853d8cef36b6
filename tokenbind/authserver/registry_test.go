package authserver

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

func TestAdd_SecretIsShownOnceAndKeptAsHashOrSealed(t *testing.T) {
	h := newHouse(t)
	for _, method := range []AuthMethod{ClientSecretBasic, ClientSecretPost, ClientSecretJWT} {
		secret := h.add(Client{ID: string(method), Auth: method})
		if len(secret) != 43 {
			t.Fatalf("%s: secret of %d characters; want 256 bits in base64url", method, len(secret))
		}
		c, err := h.registry.Get(t.Context(), string(method))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(c.SealedSecret, []byte(secret)) || bytes.Contains(c.SecretHash, []byte(secret)) {
			t.Errorf("%s: the secret is stored in clear", method)
		}
		if (method == ClientSecretJWT) != (len(c.SealedSecret) > 0) || (method == ClientSecretJWT) == (len(c.SecretHash) > 0) {
			t.Errorf("%s: hash of %d octets, sealed secret of %d", method, len(c.SecretHash), len(c.SealedSecret))
		}
	}
}

func TestSealedSecretDoesNotOpenForAnotherClientOrKey(t *testing.T) {
	one, err := newSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	sealed := one.seal("a", "secret")
	if got, err := one.open("a", sealed); err != nil || string(got) != "secret" {
		t.Fatalf("open: %q, %v", got, err)
	}
	if _, err := one.open("b", sealed); err == nil {
		t.Error("a sealed secret opened for another client")
	}
	if _, err := other.open("a", sealed); err == nil || strings.Contains(err.Error(), "secret\"") {
		t.Errorf("another data key: %v", err)
	}
}

func TestAdd_TakenIDIsAConflict(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	if _, _, err := h.registry.Add(t.Context(), Client{ID: "a", Auth: ClientSecretPost}); !errors.Is(err, ErrConflict) {
		t.Fatalf("got %v; want ErrConflict", err)
	}
}

func TestAdd_InvalidMetadata(t *testing.T) {
	h := newHouse(t)
	jwks := []byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"1yfLHCpXqFjxCeHHHMVDTcLscpb07KUxudBmOMn8C7Q","y":"8_coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8"}]}`)
	if _, _, err := h.registry.Add(t.Context(), Client{ID: "good", Auth: PrivateKeyJWT, JWKS: jwks}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Client{
		"no id":                        {Auth: ClientSecretBasic},
		"id with a control character":  {ID: "a\n", Auth: ClientSecretBasic},
		"id too long":                  {ID: strings.Repeat("a", 129), Auth: ClientSecretBasic},
		"id with a space at its end":   {ID: "a ", Auth: ClientSecretBasic},
		"no method":                    {ID: "a"},
		"unknown method":               {ID: "a", Auth: "none"},
		"no subject":                   {ID: "a", Auth: TLSClientAuth},
		"malformed DN":                 {ID: "a", Auth: TLSClientAuth, SubjectKind: SubjectDN, Subject: "billing"},
		"wildcard":                     {ID: "a", Auth: TLSClientAuth, SubjectKind: SANDNS, Subject: "*.example.com"},
		"relative URI":                 {ID: "a", Auth: TLSClientAuth, SubjectKind: SANURI, Subject: "/a"},
		"no IP":                        {ID: "a", Auth: TLSClientAuth, SubjectKind: SANIP, Subject: "1.2.3"},
		"IP with zone":                 {ID: "a", Auth: TLSClientAuth, SubjectKind: SANIP, Subject: "fe80::1%eth0"},
		"no e-mail address":            {ID: "a", Auth: TLSClientAuth, SubjectKind: SANEmail, Subject: "A <a@example.com>"},
		"subject with a secret method": {ID: "a", Auth: ClientSecretBasic, SubjectKind: SANDNS, Subject: "a"},
		"no keys":                      {ID: "a", Auth: PrivateKeyJWT},
		"both kinds of keys":           {ID: "a", Auth: PrivateKeyJWT, JWKS: jwks, JWKSURI: "https://a.example/jwks"},
		"keys with a secret method":    {ID: "a", Auth: ClientSecretPost, JWKS: jwks},
		"jwks_uri without TLS":         {ID: "a", Auth: PrivateKeyJWT, JWKSURI: "http://a.example/jwks"},
		"jwks that is none":            {ID: "a", Auth: PrivateKeyJWT, JWKS: []byte(`{}`)},
		"private key":                  {ID: "a", Auth: PrivateKeyJWT, JWKS: bytes.Replace(jwks, []byte(`"kty"`), []byte(`"d":"AQ","kty"`), 1)},
		"self-signed without x5c":      {ID: "a", Auth: SelfSignedTLSClientAuth, JWKS: jwks},
		"scope with a quote":           {ID: "a", Auth: ClientSecretBasic, Scopes: []string{`a"b`}},
		"two scopes in one":            {ID: "a", Auth: ClientSecretBasic, Scopes: []string{"a b"}},
		"resource with a fragment":     {ID: "a", Auth: ClientSecretBasic, Resources: []string{"https://a.example/#b"}},
		"relative resource":            {ID: "a", Auth: ClientSecretBasic, Resources: []string{"/api"}},
		"DPoP and bearer":              {ID: "a", Auth: ClientSecretBasic, DPoP: true, InsecureBearer: true},
	} {
		_, _, err := h.registry.Add(t.Context(), c)
		if !errors.Is(err, ErrClientMetadata) || len(err.Error()) < 40 {
			t.Errorf("%s: got %v; want ErrClientMetadata and what is wrong", name, err)
		}
	}
}

func TestA06_ExactlyOneSubject(t *testing.T) {
	if kind, name, err := Subject(map[SubjectKind]string{SANDNS: "a.example", SubjectDN: ""}); err != nil || kind != SANDNS || name != "a.example" {
		t.Errorf("one name: %q, %q, %v", kind, name, err)
	}
	for _, names := range []map[SubjectKind]string{nil, {SANDNS: ""}, {SANDNS: "a.example", SANURI: "urn:a"}} {
		if _, _, err := Subject(names); !errors.Is(err, ErrClientMetadata) {
			t.Errorf("%v: %v; want ErrClientMetadata", names, err)
		}
	}
}

func TestH103_ShortRSAKeyRefused(t *testing.T) {
	h := newHouse(t)
	// A modulus of 1024 bits. It needs no factors: its length is what counts.
	n := strings.Repeat("u", 170) + "w"
	_, _, err := h.registry.Add(t.Context(), Client{ID: "a", Auth: PrivateKeyJWT, JWKS: []byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"` + n + `"}]}`)})
	if !errors.Is(err, ErrClientMetadata) || !strings.Contains(err.Error(), "2048") {
		t.Fatalf("got %v; want ErrClientMetadata that names the least size", err)
	}
}

func TestH106_KeysOverTLSOnly(t *testing.T) {
	for uri, ok := range map[string]bool{"https://a.example/jwks": true, "http://a.example/jwks": false, "https://u:p@a.example/": false, "file:///etc/passwd": false, "https://": false} {
		if err := validKeyURI(uri); (err == nil) != ok {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestChange_WritesOnceAndNamesWhatChanged(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	c, err := h.registry.Change(t.Context(), "a", func(c *Client) error {
		c.Scopes, c.DPoP, c.ID, c.Version = []string{"x"}, true, "b", 99
		return nil
	})
	if err != nil || c.ID != "a" || c.Version != 2 || !c.DPoP {
		t.Fatalf("got %+v, %v", c, err)
	}
	last := h.clients.events[len(h.clients.events)-1]
	if last.Action != audit.ClientChange || last.Subject != "a" || last.Detail["changed"] != "dpop scopes" {
		t.Errorf("audit event %+v", last)
	}
	if _, err := h.registry.Change(t.Context(), "a", func(*Client) error { return nil }); err != nil || len(h.clients.events) != 2 {
		t.Errorf("a change of nothing: %v, %d events; want 2", err, len(h.clients.events))
	}
}

func TestChange_MutatesNoStoredSlice(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic, Scopes: []string{"x"}})
	sorry := errors.New("sorry")
	_, err := h.registry.Change(t.Context(), "a", func(c *Client) error { c.Scopes[0] = "y"; return sorry })
	if !errors.Is(err, sorry) {
		t.Fatalf("got %v", err)
	}
	if c, _ := h.registry.Get(t.Context(), "a"); c.Scopes[0] != "x" {
		t.Errorf("a change that failed left %v", c.Scopes)
	}
}

func TestChange_StartsOverAfterAConflictAndGivesUpInTheEnd(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	h.clients.conflicts = 3
	if c, err := h.registry.Change(t.Context(), "a", func(c *Client) error { c.Introspect = true; return nil }); err != nil || !c.Introspect {
		t.Fatalf("after three conflicts: %+v, %v", c, err)
	}
	h.clients.conflicts = 1000
	if _, err := h.registry.Change(t.Context(), "a", func(c *Client) error { c.Introspect = false; return nil }); !errors.Is(err, ErrConflict) {
		t.Fatalf("got %v; want ErrConflict", err)
	}
}

func TestChange_RefusesWhatCouldNotBeAdded(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	_, err := h.registry.Change(t.Context(), "a", func(c *Client) error { c.Auth = ClientSecretJWT; return nil })
	if !errors.Is(err, ErrClientMetadata) {
		t.Fatalf("got %v; want ErrClientMetadata", err)
	}
	if _, err := h.registry.Change(t.Context(), "b", func(*Client) error { return nil }); !errors.Is(err, ErrNoClient) {
		t.Fatalf("got %v; want ErrNoClient", err)
	}
}

func TestChange_DisablingAndEnablingAreAuditedAndKillEarlierTokens(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	for disabled, action := range map[bool]string{true: audit.ClientDisable, false: audit.ClientEnable} {
		if c, _ := h.registry.Get(t.Context(), "a"); c.Disabled == disabled {
			h.set("a", func(c *Client) { c.Disabled = !disabled })
		}
		h.clock.advance(time.Second)
		c := h.set("a", func(c *Client) { c.Disabled = disabled })
		if got := h.clients.events[len(h.clients.events)-1].Action; got != action {
			t.Errorf("disabled %t: audited as %s", disabled, got)
		}
		if !c.TokensNotBefore.Equal(h.clock.now().Truncate(time.Millisecond)) {
			t.Errorf("disabled %t: tokens are good from %s", disabled, c.TokensNotBefore)
		}
		if err := h.registry.CheckEnabled(t.Context(), "a"); errors.Is(err, ErrDisabled) != disabled {
			t.Errorf("disabled %t: CheckEnabled says %v", disabled, err)
		}
	}
	if err := h.registry.CheckEnabled(t.Context(), "nobody"); err != nil {
		t.Errorf("unknown client: %v", err)
	}
}

func (h *house) set(id string, change func(*Client)) *Client {
	h.Helper()
	c, err := h.registry.Change(h.Context(), id, func(c *Client) error { change(c); return nil })
	if err != nil {
		h.Fatal(err)
	}
	return c
}

func TestEnrol_CreatesOnceAndWritesOnlyChanges(t *testing.T) {
	h := newHouse(t)
	enrol := func(scopes, resources []string) *Client {
		t.Helper()
		if err := h.registry.Enrol(t.Context(), "a,b ", scopes, resources); err == nil {
			t.Fatal("an id that ends in a space was enrolled")
		}
		if err := h.registry.Enrol(t.Context(), "a,b", scopes, resources); err != nil {
			t.Fatal(err)
		}
		c, err := h.registry.Get(t.Context(), "a,b")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := enrol([]string{"x"}, nil)
	if first.Auth != TLSClientAuth || first.SubjectKind != SubjectDN || first.Subject != `CN=a\,b` || !slices.Equal(first.Scopes, []string{"x"}) {
		t.Fatalf("created %+v", first)
	}
	if c := enrol(nil, nil); c.Version != 1 {
		t.Errorf("an invitation without scopes wrote version %d", c.Version)
	}
	if c := enrol([]string{"x"}, nil); c.Version != 1 {
		t.Errorf("the same scopes wrote version %d", c.Version)
	}
	if c := enrol([]string{"y"}, []string{"https://api.example"}); c.Version != 2 || c.Scopes[0] != "y" || c.Resources[0] != "https://api.example" {
		t.Errorf("got %+v", c)
	}
}

func TestEnrol_KeepsTheMethodOfAClientThatExists(t *testing.T) {
	h := newHouse(t)
	h.add(Client{ID: "a", Auth: ClientSecretBasic})
	if err := h.registry.Enrol(t.Context(), "a", []string{"z"}, nil); err != nil {
		t.Fatal(err)
	}
	if c, _ := h.registry.Get(t.Context(), "a"); c.Auth != ClientSecretBasic || !slices.Equal(c.Scopes, []string{"z"}) {
		t.Errorf("got %+v", c)
	}
}

func TestList_GoesOnAfterAnID(t *testing.T) {
	h := newHouse(t)
	for _, id := range []string{"c", "a", "b"} {
		h.add(Client{ID: id, Auth: ClientSecretBasic})
	}
	page, err := h.registry.List(t.Context(), "a", 1)
	if err != nil || len(page) != 1 || page[0].ID != "b" {
		t.Fatalf("got %v, %v; want b", page, err)
	}
}
