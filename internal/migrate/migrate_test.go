package migrate

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/crl"
	"github.com/pkid/pkid/enroll"
	"github.com/pkid/pkid/internal/audit"
	"github.com/pkid/pkid/internal/keyring"
	"github.com/pkid/pkid/tokenbind/authserver"
)

func rows[T any](all ...T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, row := range all {
			if !yield(row, nil) {
				return
			}
		}
	}
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// sample has a row of every kind.
func sample() Data {
	first := audit.Seal(audit.Head{}, audit.Event{Time: noon, Action: audit.Initialise, Subject: "ca", Detail: map[string]string{"a": "1", "b": "2"}})
	second := audit.Seal(first.Head(), audit.Event{Time: noon, Action: audit.Issue, Subject: "01"})
	shard := crl.Shard{Issuer: "ab", Number: 1}
	return Data{
		Meta: Meta{Identity: "ab", AuditHead: second.Head(), Position: 7},
		Certificates: rows(
			&ca.Record{Serial: ca.Serial{15: 1}, Issuer: "ab", NotAfter: noon, Names: []string{"x", "y"}, DER: []byte{1}},
			&ca.Record{Serial: ca.Serial{15: 2}, Issuer: "ab", NotAfter: noon, DER: []byte{2}, Revocation: &ca.Revocation{Reason: 1, At: noon}},
		),
		Changes:     rows(Change{shard, crl.Change{Position: 7, Entry: crl.Entry{Serial: []byte{2}, Reason: 1, At: noon, NotAfter: noon}}}),
		CRLs:        rows(crl.Signed{Shard: shard, Number: 9, ThisUpdate: noon, DER: crl.DER{{1, 2}, {3}}}),
		Shards:      rows(Shard{"ab", ca.ShardCount{Number: 1, Certificates: 2, NotAfter: noon}}),
		Invitations: rows(&enroll.Invitation{ID: "i", Names: ca.Names{IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, Spent: &enroll.Spent{Serial: ca.Serial{15: 1}}}),
		Clients:     rows(&authserver.Client{ID: "x", Scopes: []string{"a"}, Version: 3}),
		Tokens:      rows(Once{[32]byte{1}, noon}),
		Uses:        rows(Once{[32]byte{2}, noon}, Once{[32]byte{3}, noon}),
		Audit:       rows(first, second),
		Keys:        rows(keyring.Key{ID: "k", Use: keyring.Tokens, Chain: [][]byte{{1}}}),
	}
}

// arrives is a target that takes everything in as change leaves it.
func arrives(change func(*Data)) Target {
	return func(_ context.Context, data Data, check func(Data) error) error {
		if _, err := count(data); err != nil {
			return err
		}
		change(&data)
		return check(data)
	}
}

func TestMove(t *testing.T) {
	moved, err := Move(t.Context(), sample(), arrives(func(d *Data) {
		// Another order, another time zone, a CRL in one part, and no list where there was an empty one, mean the same.
		var uses []Once
		for o := range d.Uses {
			o.Until = o.Until.In(time.FixedZone("", 3600))
			uses = append(uses, o)
		}
		slices.Reverse(uses)
		d.Uses = rows(uses...)
		d.CRLs = rows(crl.Signed{Shard: crl.Shard{Issuer: "ab", Number: 1}, Number: 9, ThisUpdate: noon, DER: crl.DER{{1, 2, 3}}})
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, k := range moved {
		got[k.Name] = k.Rows
	}
	if got["certificates"] != 2 || got["audit entries"] != 2 || got["proofs used"] != 2 || len(got) != kinds {
		t.Errorf("moved %v", got)
	}
}

// Whatever is lost or changed on the way is found and named.
func TestMoveFindsWhatDiffers(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Data)
		want   string
	}{
		"meta":                {func(d *Data) { d.Meta.Position++ }, "meta"},
		"certificate is lost": {func(d *Data) { d.Certificates = rows[*ca.Record]() }, "certificates: 2 sent"},
		"revocation is lost": {func(d *Data) {
			d.Certificates = changed(d.Certificates, func(r **ca.Record) { c := **r; c.Revocation = nil; *r = &c })
		}, "certificates"},
		"change":       {func(d *Data) { d.Changes = changed(d.Changes, func(c *Change) { c.Released = true }) }, "changes"},
		"CRL's number": {func(d *Data) { d.CRLs = changed(d.CRLs, func(c *crl.Signed) { c.Number-- }) }, "crls"},
		"CRL's text":   {func(d *Data) { d.CRLs = changed(d.CRLs, func(c *crl.Signed) { c.DER = nil }) }, "crls"},
		"count":        {func(d *Data) { d.Shards = changed(d.Shards, func(s *Shard) { s.Certificates = 1 }) }, "shards"},
		"invitation is unspent": {func(d *Data) {
			d.Invitations = changed(d.Invitations, func(i **enroll.Invitation) { c := **i; c.Spent = nil; *i = &c })
		}, "invitations"},
		"invitation's address": {func(d *Data) {
			d.Invitations = changed(d.Invitations, func(i **enroll.Invitation) { c := **i; c.Names.IPs = nil; *i = &c })
		}, "invitations"},
		"client's scopes": {func(d *Data) {
			d.Clients = changed(d.Clients, func(c **authserver.Client) { (*c).Scopes = []string{"b"} })
		}, "clients"},
		"token ends earlier":      {func(d *Data) { d.Tokens = changed(d.Tokens, func(o *Once) { o.Until = noon.Add(-time.Second) }) }, "revoked tokens"},
		"proof comes twice":       {func(d *Data) { d.Uses = changed(d.Uses, func(o *Once) { o.Key = [32]byte{2} }) }, "proofs used"},
		"key":                     {func(d *Data) { d.Keys = changed(d.Keys, func(k *keyring.Key) { k.Chain[0][0]++ }) }, "keys"},
		"audit entry was edited":  {func(d *Data) { d.Audit = changed(d.Audit, func(e *audit.Entry) { e.Actor = "nobody" }) }, "entry 1: its content was changed"},
		"last audit entry is off": {func(d *Data) { d.Audit = limited(d.Audit, 1) }, "should end with entry 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Move(t.Context(), sample(), arrives(tt.change))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// An error of the source, or of the target, ends the move.
func TestMoveFails(t *testing.T) {
	broken := errors.New("damaged record")
	for name, change := range map[string]func(*Data){
		"source": func(d *Data) {
			d.Clients = func(yield func(*authserver.Client, error) bool) { yield(nil, broken) }
		},
		"audit": func(d *Data) { d.Audit = func(yield func(audit.Entry, error) bool) { yield(audit.Entry{}, broken) } },
	} {
		data := sample()
		change(&data)
		if _, err := Move(t.Context(), data, arrives(func(*Data) {})); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	target := func(context.Context, Data, func(Data) error) error { return broken }
	if moved, err := Move(t.Context(), sample(), target); !errors.Is(err, broken) || moved != nil {
		t.Errorf("target: %v, %v", moved, err)
	}
}

// Two sets of rows that fill a digest's words differ as numbers do, carries included.
func TestDigestIsASum(t *testing.T) {
	var ab, ba, aab Digest
	for _, n := range []byte{1, 2, 3, 4, 5, 6, 7, 8} {
		ab.add(bytes.Repeat([]byte{n}, 3))
		ba.add(bytes.Repeat([]byte{9 - n}, 3))
		aab.add(bytes.Repeat([]byte{max(n, 2)}, 3))
	}
	if ab != ba || ab == aab || ab.String() == aab.String() || len(ab.String()) != 64 {
		t.Errorf("%s, %s, %s", ab, ba, aab)
	}
}

// changed has every row changed.
func changed[T any](all iter.Seq2[T, error], change func(*T)) iter.Seq2[T, error] {
	var out []T
	for row := range all {
		change(&row)
		out = append(out, row)
	}
	return rows(out...)
}

func limited[T any](all iter.Seq2[T, error], n int) iter.Seq2[T, error] {
	var out []T
	for row := range all {
		if len(out) < n {
			out = append(out, row)
		}
	}
	return rows(out...)
}
