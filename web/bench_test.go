package web

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/boltstore"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// memory is a store that costs next to nothing on the paths that are measured.
type memory struct {
	*boltstore.Store
	mu           sync.Mutex // guards what follows
	certificates map[ca.Serial]*ca.Record
	invitations  map[string]*enroll.Invitation
	clients      map[string]*authserver.Client
}

func (m *memory) Insert(_ context.Context, rec *ca.Record, _ *ca.Spend, _ audit.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.certificates[rec.Serial] = rec
	return nil
}

func (m *memory) Certificate(_ context.Context, serial ca.Serial) (*ca.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rec := m.certificates[serial]; rec != nil {
		return rec, nil
	}
	return nil, ca.ErrNotFound
}

func (m *memory) Decide(ctx context.Context, serial ca.Serial, decide func(*ca.Record) (*ca.Revocation, audit.Event, error)) (*ca.Record, error) {
	rec, err := m.Certificate(ctx, serial)
	if err != nil {
		return nil, err
	}
	_, _, err = decide(rec) // and so it can be revoked again
	return rec, err
}

func (m *memory) List(context.Context, ca.Query) (*ca.Page, error) { return &ca.Page{}, nil }

func (m *memory) PutInvitation(_ context.Context, inv *enroll.Invitation, _ audit.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.invitations[inv.ID] = inv
	return nil
}

func (m *memory) Invitation(_ context.Context, id string) (*enroll.Invitation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if inv := m.invitations[id]; inv != nil {
		return inv, nil
	}
	return nil, enroll.ErrInvitation
}

func (m *memory) Client(_ context.Context, id string) (*authserver.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.clients[id]; c != nil {
		return c, nil
	}
	return nil, authserver.ErrNoClient
}

func (m *memory) PutClient(_ context.Context, c authserver.Client, _ audit.Event) (*authserver.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Version++
	m.clients[c.ID] = &c
	return &c, nil
}

// discard is a http.ResponseWriter that keeps the status alone.
type discard struct {
	header http.Header
	status int
	body   []byte
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { d.body = append(d.body[:0], b...); return len(b), nil }

// body is a request's, without a copy.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

// BenchmarkServer is a request from where net/http hands it over to where it takes the answer back, over a store
// that costs nothing.
func BenchmarkServer(b *testing.B) {
	store := &memory{
		Store:        must[*boltstore.Store](b)(boltstore.Open(filepath.Join(b.TempDir(), "pkid.db"), boltstore.Options{Create: true})),
		certificates: map[ca.Serial]*ca.Record{}, invitations: map[string]*enroll.Invitation{}, clients: map[string]*authserver.Client{},
	}
	b.Cleanup(func() { store.Close() })
	f := newFixtureOver(b, store, wide)
	f.log = nil
	f.Server.log = slog.New(slog.NewTextHandler(nowhere{}, nil))
	public, mtls := f.Public(), f.MTLS()

	key := must[crypto.Signer](b)(stepca.GenerateKey(ca.P256))
	csr := must[[]byte](b)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	var inv client.Invitation
	peer := func(c tls.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{c.Leaf}}
	}
	w := &discard{header: http.Header{}}
	call := func(h http.Handler, state *tls.ConnectionState, path string, content []byte, want int, header http.Header) {
		r := &http.Request{
			Method: "POST", URL: &url.URL{Path: path}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Host: "127.0.0.1:8443",
			RequestURI: path, RemoteAddr: "127.0.0.1:50000", TLS: state, ContentLength: int64(len(content)), Body: &body{*bytes.NewReader(content)},
		}
		clear(w.header)
		h.ServeHTTP(w, r.WithContext(b.Context()))
		if w.status != want {
			b.Fatalf("%s: status %d: %s", path, w.status, w.body)
		}
	}
	run := func(name string, h http.Handler, state *tls.ConnectionState, path string, content []byte, want int, header ...string) {
		b.Run(name, func(b *testing.B) {
			fields := http.Header{}
			for i := 0; i < len(header); i += 2 {
				fields.Set(header[i], header[i+1])
			}
			b.ReportAllocs()
			for b.Loop() {
				call(h, state, path, content, want, fields)
			}
		})
	}
	admin, holder := peer(f.admin), peer(f.certificate("billing", "client"))
	invitation := []byte(`{"client_id":"billing","sans":["billing.example.com"]}`)
	call(mtls, admin, "/v1/invitations", invitation, http.StatusCreated, http.Header{"Content-Type": {"application/json"}})
	if err := json.Unmarshal(w.body, &inv); err != nil {
		b.Fatal(err)
	}
	serial := must[ca.Serial](b)(ca.SerialOf(holder.PeerCertificates[0].SerialNumber))

	run("invite", mtls, admin, "/v1/invitations", invitation, http.StatusCreated, "Content-Type", "application/json")
	run("issue", public, &tls.ConnectionState{HandshakeComplete: true}, "/v1/certificates", csr, http.StatusCreated,
		"Content-Type", "application/pkcs10", "Authorization", "Bearer "+inv.Token)
	run("renew", mtls, holder, "/v1/certificates/renew", nil, http.StatusCreated)
	run("revoke", mtls, admin, "/v1/certificates/"+serial.String()+"/revoke", []byte(`{"reason":"superseded"}`), http.StatusOK, "Content-Type", "application/json")
	run("token", mtls, holder, "/oauth/token", []byte(form("grant_type", "client_credentials", "client_id", "billing")), http.StatusOK,
		"Content-Type", "application/x-www-form-urlencoded")
	f.table = append(f.table, Route{Method: "POST", Path: "/bare", Name: "bare", Listeners: Public, Access: OAuthClient, Handler: func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	}})
	run("bare", f.Public(), nil, "/bare", nil, http.StatusOK)
}

// nowhere takes a log as a file would, without the system call.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
