package pgstore_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/pgstore"
	"github.com/pkid/pkid/thumbprint"
)

const identity = "https://ca.example.com test"

// open opens the store in a database, and creates it if need be. It is closed when the test ends.
func open(t testing.TB, url string) *pgstore.Store {
	t.Helper()
	s, err := pgstore.Open(t.Context(), url, pgstore.Options{Create: true, Identity: identity, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// connect returns a connection of the test's own, as an operator would make with psql.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// execute runs a statement on a connection of the test's own.
func execute(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, url).Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// newRecord returns a certificate of a client. Its DER is noise, as long as that of a client's certificate.
func newRecord(i int) *ca.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	name := fmt.Sprintf("client-%09d", i)
	r := &ca.Record{
		Issuer: "0123456789abcdef", ClientID: name, Profile: "client", IssuedAt: now,
		NotBefore: now.Truncate(time.Second), NotAfter: now.Truncate(time.Second).Add(24 * time.Hour),
		Names: []string{name, name + ".example.com"}, DER: make([]byte, 620),
	}
	rand.Read(r.DER)
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(r.Serial[:], ms[2:])
	rand.Read(r.Serial[6:])
	r.Thumbprint = thumbprint.OfDER(r.DER)
	return r
}

func issueEvent(r *ca.Record) audit.Event {
	return audit.Event{
		Time: r.IssuedAt, Action: audit.Issue, Subject: r.Serial.String(),
		Actor: audit.Actor{Name: r.ClientID, Address: "192.0.2.1", RequestID: "0123456789abcdef"},
		Detail: map[string]string{
			"client": r.ClientID, "profile": r.Profile, "not_after": r.NotAfter.Format(time.RFC3339), "x5t#S256": r.Thumbprint.String(),
		},
	}
}

func insert(t testing.TB, s *pgstore.Store, r *ca.Record) {
	t.Helper()
	if err := s.Insert(t.Context(), r, nil, issueEvent(r)); err != nil {
		t.Fatal(err)
	}
}

func revoke(ctx context.Context, s *pgstore.Store, serial ca.Serial) error {
	_, err := s.Decide(ctx, serial, func(r *ca.Record) (*ca.Revocation, audit.Event, error) {
		now := time.Now().UTC().Truncate(time.Millisecond)
		ev := audit.Event{Time: now, Action: audit.Revoke, Subject: r.Serial.String(), Actor: audit.Actor{Name: "operator"}}
		return &ca.Revocation{Reason: ca.Superseded, At: now}, ev, nil
	})
	return err
}
