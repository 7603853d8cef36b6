package boltstore

import (
	"crypto/rand"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/thumbprint"
)

// FuzzEntry: an audit entry that was kept is read as it was sealed, whatever its texts look like.
func FuzzEntry(f *testing.F) {
	r := newRecord("alice")
	for _, s := range []string{
		"", "alice", r.Serial.String(), r.Thumbprint.String(), "2026-11-22T20:35:29Z", "2026-02-30T00:00:00Z", "99999-1-22T20:35:29Z",
		"192.0.2.1", "192.0.2.01", "1.2.3.4.", "....", "::ffff:192.0.2.1", "00", "0", "0G", "aF", rand.Text(), "ABCDEFGHIJKLMNOPQRSTUVWX01",
		string(make([]byte, longText-1)), string(make([]byte, longText)), "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGHIJK",
	} {
		f.Add(s, "client", int64(0), true)
		f.Add("alice", s, int64(-1), false)
	}
	f.Fuzz(func(t *testing.T, a, b string, ms int64, insert bool) {
		if ms < -1<<45 || ms > 1<<47 {
			return // a year that JSON cannot tell
		}
		var serial *ca.Serial
		if insert {
			serial = &r.Serial
		}
		for _, ev := range []audit.Event{
			{Subject: a, Action: b, Actor: audit.Actor{Name: b, Address: a, RequestID: a}, Detail: map[string]string{b: a, a: b}},
			{Subject: b, Action: audit.Issue, Actor: audit.Actor{Name: a}, Detail: map[string]string{"x5t#S256": a}},
			{},
		} {
			ev.Time = time.UnixMilli(ms)
			want := audit.Seal(audit.Head{Seq: 7, Hash: audit.Hash{1}}, ev)
			v := encodeEntry(&want, serial)
			got, err := decodeEntry(8, audit.Hash{1}, v)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("read back %+v, %v; want %+v", got, err, want)
			}
			if s, ok := broughtBy(v); ok != insert || insert && s != r.Serial {
				t.Errorf("it brought %s, %t", s, ok)
			}
			if len(a)+len(b) < 100 {
				for n := range v {
					if _, err := decodeEntry(8, audit.Hash{1}, v[:n]); err == nil {
						t.Fatalf("an entry cut to %d of %d octets was read", n, len(v))
					}
				}
			}
		}
		_, _ = decodeEntry(1, audit.Hash{}, []byte(a)) // must not panic
	})
}

// TestEntryOfAYearThatJSONCannotTell: no entry can have been sealed with such a time, and none could be handed on.
func TestEntryOfAYearThatJSONCannotTell(t *testing.T) {
	for year, want := range map[int]error{-1: errDamaged, 0: nil, 9999: nil, 10000: errDamaged} {
		e := audit.Entry{Seq: 1, Time: time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)}
		if _, err := decodeEntry(1, audit.Hash{}, encodeEntry(&e, nil)); !errors.Is(err, want) {
			t.Errorf("year %d: %v, want %v", year, err, want)
		}
	}
}

// TestEntryIsSmall: a certificate's entry has nothing twice.
func TestEntryIsSmall(t *testing.T) {
	r := newRecord("client-00000001")
	e := audit.Seal(audit.Head{}, issueEvent(r))
	// Its hash, the serial, the thumbprint, the request's id, the actor, and some octets beside.
	if n, most := len(encodeEntry(&e, &r.Serial)), 32+16+32+17+16+30; n > most {
		t.Errorf("it takes %d octets, want at most %d", n, most)
	}
}

// issueEvent is what the CA writes into the audit log for a certificate.
func issueEvent(r *ca.Record) audit.Event {
	return audit.Event{
		Time: r.IssuedAt, Actor: audit.Actor{Name: r.ClientID, Address: "127.0.0.1", RequestID: rand.Text()}, Action: audit.Issue, Subject: r.Serial.String(),
		Detail: map[string]string{
			"client": r.ClientID, "profile": r.Profile, "not_after": r.NotAfter.Format(time.RFC3339), "x5t#S256": thumbprint.OfDER(r.DER).String(),
		},
	}
}
