package crl

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPublishedListContent(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	now := time.Date(2026, 5, 6, 7, 8, 9, 123456789, time.UTC)
	c := publisherConfig(ca, m)
	c.Now = func() time.Time { return now }
	var told []Signed
	c.OnPublish = func(s Signed) { told = append(told, s) }
	p := newPublisher(t, c)

	empty := publish(t, p)
	l, err := x509.ParseRevocationList(empty.DER.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if l, err := split(empty.DER); err != nil || l.entries != nil {
		t.Errorf("an empty list has revokedCertificates (RFC 5280 section 5.1.2.6 forbids it), err %v", err)
	}
	if l.Number.Int64() != now.UnixMilli() || !l.ThisUpdate.Equal(now.Truncate(time.Second)) || l.NextUpdate.Sub(l.ThisUpdate) != time.Hour {
		t.Errorf("number %s, thisUpdate %s, nextUpdate %s", l.Number, l.ThisUpdate, l.NextUpdate)
	}
	if string(l.AuthorityKeyId) != string(ca.cert.SubjectKeyId) {
		t.Error("authority key identifier is not the issuer's key")
	}
	idp := l.Extensions[slices.IndexFunc(l.Extensions, isIDP)]
	if got, err := ParseIDP(idp.Value); err != nil || !idp.Critical || !reflect.DeepEqual(got, IDP{URLs: []string{testURL}}) {
		t.Errorf("IDP %+v critical %t, err %v", got, idp.Critical, err)
	}

	m.revoke(300, 0)
	m.revoke(2, 6)
	m.revoke(10, 99) // no such reason
	next := publish(t, p)
	l, err = x509.ParseRevocationList(next.DER.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range l.RevokedCertificateEntries {
		got = append(got, fmt.Sprintf("%s %d %d %s", e.SerialNumber, e.ReasonCode, len(e.Extensions), e.RevocationTime.Format(time.DateTime)))
	}
	want := []string{"2 6 1 2001-02-03 04:05:06", "10 0 0 2001-02-03 04:05:06", "300 0 0 2001-02-03 04:05:06"}
	if !slices.Equal(got, want) {
		t.Errorf("entries (serial, reason, extensions, time)\n%q, want\n%q", got, want)
	}
	if held, ok := p.Current(testShard); !ok || !reflect.DeepEqual(held, next) || !reflect.DeepEqual(told, []Signed{empty, next}) {
		t.Error("Current or OnPublish was not given what was published")
	}
	if _, err := p.Publish(t.Context(), Shard{Issuer: "other"}); err == nil {
		t.Error("an unknown shard was published")
	}
}

func TestPublisherConfigIsValidated(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	for name, tt := range map[string]struct {
		change func(*PublisherConfig)
		want   string
	}{
		"no shards":           {func(c *PublisherConfig) { c.Shards = nil }, "required"},
		"no signer":           {func(c *PublisherConfig) { c.Signer = nil }, "required"},
		"same shard twice":    {func(c *PublisherConfig) { c.Shards = append(c.Shards, c.Shards[0]) }, "twice"},
		"no issuer":           {func(c *PublisherConfig) { c.Shards[0].Issuer = nil }, "issuer"},
		"URL is a path":       {func(c *PublisherConfig) { c.Shards[0].URL = "/crl/a1.crl" }, "absolute"},
		"URL is LDAP":         {func(c *PublisherConfig) { c.Shards[0].URL = "ldap://x/y" }, "http"},
		"URL is not ASCII":    {func(c *PublisherConfig) { c.Shards[0].URL = "http://x/ü" }, "ASCII"},
		"too short":           {func(c *PublisherConfig) { c.Lifetime = time.Second }, "lifetime"},
		"too long":            {func(c *PublisherConfig) { c.Lifetime = 11 * 24 * time.Hour }, "lifetime"},
		"renewed before made": {func(c *PublisherConfig) { c.RenewBefore = 2 * time.Hour }, "renewing"},
		"negative follow":     {func(c *PublisherConfig) { c.Follow = -1 }, "negative"},
	} {
		c := publisherConfig(ca, newMemory())
		tt.change(&c)
		if _, err := NewPublisher(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tt.want)
		}
	}
}

func TestNumberGrowsAfterRestoreAndWithClockBack(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := publisherConfig(ca, m)
	c.Now = func() time.Time { return now }
	p := newPublisher(t, c)

	backup := publish(t, p)
	var last Signed
	for range 5 { // more than one in a millisecond
		last = publish(t, p)
	}
	if last.Number != backup.Number+5 {
		t.Errorf("number %d after five more lists in one millisecond, want %d", last.Number, backup.Number+5)
	}

	now = now.Add(time.Second)
	m.newest[testShard] = backup // the restore; the process is a new one
	p = newPublisher(t, c)
	restored := publish(t, p)
	if restored.Number <= last.Number {
		t.Errorf("number %d after a restore, but servers have seen %d", restored.Number, last.Number)
	}

	m.newest[testShard] = backup // the same under a running process
	running, err := p.publish(t.Context(), p.shards[testShard], false)
	if err != nil || running.Number <= restored.Number || m.newest[testShard].Number != running.Number {
		t.Errorf("number %d after a restore, err %v, but this process has served %d", running.Number, err, restored.Number)
	}

	now = now.Add(-24 * time.Hour)
	back := publish(t, p)
	if held, _ := p.Current(testShard); back.Number <= restored.Number || held.Number != back.Number {
		t.Errorf("number %d with the clock back, after %d", back.Number, restored.Number)
	}
	if !back.ThisUpdate.Equal(now) {
		t.Errorf("thisUpdate %s, want the time by the clock, %s", back.ThisUpdate, now)
	}
}

func TestExpiredRevokedStaysForOneMoreList(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := publisherConfig(ca, m)
	c.Now = func() time.Time { return now }
	p := newPublisher(t, c)

	m.revoke(7, 1, now.Add(10*time.Minute))
	want := func(when string, on bool) {
		t.Helper()
		if got := len(serials(t, ca, publish(t, p))) == 1; got != on {
			t.Errorf("%s: on the list is %t, want %t", when, got, on)
		}
	}
	want("before it expired", true)
	now = now.Add(30 * time.Minute)
	want("on the first list after it expired", true)
	now = now.Add(time.Minute)
	want("on the second", false)
	now = now.Add(-25 * time.Minute) // valid again, by a clock that was set back
	want("with the clock back", true)
}

// Every list must hold whatever the one before it held: none of these revocations expires or is released.
func TestTwoPublishersOnOneStoreDropNothing(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	nodes := []*Publisher{newPublisher(t, publisherConfig(ca, m)), newPublisher(t, publisherConfig(ca, m)), newPublisher(t, publisherConfig(ca, m))}
	const each = 20
	var all sync.WaitGroup
	for i, p := range nodes {
		all.Go(func() {
			for n := range int64(each) {
				serial := 1 + int64(i)*each + n
				m.revoke(serial, 1)
				for {
					s, err := p.Publish(t.Context(), testShard)
					if err != nil && !errors.Is(err, ErrConflict) {
						t.Error(err)
						return
					}
					if err == nil {
						if !slices.Contains(serials(t, ca, s), serial) {
							t.Errorf("list %d lacks %d, which was revoked before it was published", s.Number, serial)
						}
						break
					}
				}
			}
		})
	}
	all.Wait()

	history := m.lists()
	if !slices.IsSortedFunc(history, byNumber) || len(slices.CompactFunc(slices.Clone(history), func(a, b Signed) bool { return a.Number == b.Number })) != len(history) {
		t.Error("the numbers do not grow strictly")
	}
	var before []int64
	for _, s := range history {
		now := serials(t, ca, s)
		for _, serial := range before {
			if !slices.Contains(now, serial) {
				t.Fatalf("list %d dropped %d", s.Number, serial)
			}
		}
		before = now
	}
	if len(before) != each*len(nodes) {
		t.Errorf("%d on the last list, want %d", len(before), each*len(nodes))
	}
}

func TestNodeWithOlderViewStartsOver(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	other := newPublisher(t, publisherConfig(ca, m))
	c := publisherConfig(ca, m)
	var rounds int
	c.Signer = signerFunc(func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
		if rounds++; rounds == 1 { // this node has read the revocations; now another one is quicker
			m.revoke(2, 1)
			publish(t, other)
		}
		return ca.SignCRL(ctx, issuer, tbs)
	})
	p := newPublisher(t, c)
	m.revoke(1, 1)

	s := publish(t, p)
	if got := serials(t, ca, s); !slices.Equal(got, []int64{1, 2}) || rounds != 1 {
		t.Errorf("%d on the list after signing %d times, want 1 and 2 with the other's list adopted", got, rounds)
	}
	theirs, _ := other.Current(testShard)
	if ours, _ := p.Current(testShard); ours.Number != theirs.Number {
		t.Errorf("serving %d, want the other node's %d", ours.Number, theirs.Number)
	}
}

// The other order, revocations first, would drop what another node publishes between the two steps.
func TestLatestIsReadBeforeTheRevocations(t *testing.T) {
	for _, first := range []bool{true, false} { // reading all of them, or what changed
		ca, m := newCA(t, "Issuing CA"), newMemory()
		p, other := newPublisher(t, publisherConfig(ca, m)), newPublisher(t, publisherConfig(ca, m))
		if !first {
			publish(t, p)
		}
		between := true
		m.beforeLatest = func() error {
			if between {
				between = false
				m.revoke(2, 1)
				publish(t, other)
			}
			return nil
		}
		m.revoke(1, 1)
		if got := serials(t, ca, publish(t, p)); !slices.Equal(got, []int64{1, 2}) {
			t.Errorf("%d on the list, want 1 and 2", got)
		}
	}
}

// Two rounds of one process may end in the other order than their lists were stored.
func TestServedListNeverGoesBack(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	p := newPublisher(t, publisherConfig(ca, m))
	s := p.shards[testShard]
	publish(t, p)
	first := s.serving.Load()
	second := publish(t, p)
	s.adopt(first)
	if held, _ := p.Current(testShard); held.Number != second.Number {
		t.Errorf("serving %d after %d", held.Number, second.Number)
	}
}

func TestConflictsAreBounded(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	var tries int
	m.beforeReplace = func() error { tries++; return ErrConflict }
	_, err := newPublisher(t, publisherConfig(ca, m)).Publish(t.Context(), testShard)
	wantErr(t, err, ErrConflict, "a1")
	if tries != maxRounds {
		t.Errorf("%d rounds, want %d", tries, maxRounds)
	}
}

// Each fault strikes once, before or after the step took effect. Then the process is a new one: the list must
// have no gap, numbers must grow, and nothing may be served that is not stored.
func TestPublishFaults(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	once := func() func() error {
		var struck bool
		return func() error {
			if struck {
				return nil
			}
			struck = true
			return errFault
		}
	}
	for name, spoil := range map[string]func(*memory, *PublisherConfig){
		"reading the newest list": func(m *memory, _ *PublisherConfig) { m.beforeLatest = once() },
		"reading the revocations": func(m *memory, _ *PublisherConfig) { m.beforeRevoked = once() },
		"reading what changed":    func(m *memory, _ *PublisherConfig) { m.beforeChanges = once() },
		"before the list is kept": func(m *memory, _ *PublisherConfig) { m.beforeReplace = once() },
		"after the list was kept": func(m *memory, _ *PublisherConfig) { m.afterReplace = once() },
		"before signing": func(_ *memory, c *PublisherConfig) {
			c.Signer = faultySigner(ca, func([][]byte) ([]byte, error) { return nil, errFault })
		},
		// What else a signer may do wrong, ca.Authority finds: see TestNothingIsPublishedThatALyingSignerSigned there.
		"changing the list that is signed": func(_ *memory, c *PublisherConfig) {
			c.Signer = faultySigner(ca, func(tbs [][]byte) ([]byte, error) {
				front := tbs[0]
				front[bytes.LastIndexByte(front, 'Z')-1] ^= 1 // the last digit of nextUpdate
				return ca.SignCRL(t.Context(), "", tbs)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			m.revoke(1, 1)
			first := publish(t, newPublisher(t, publisherConfig(ca, m)))
			m.revoke(2, 1)

			c := publisherConfig(ca, m)
			spoil(m, &c)
			p := newPublisher(t, c)
			if _, err := p.Publish(t.Context(), testShard); err == nil {
				t.Fatal("the fault went unnoticed")
			}
			if st := p.Status()[0]; st.Err == nil {
				t.Error("Status does not tell of the fault")
			}
			if held, ok := p.Current(testShard); ok && held.Number != first.Number {
				t.Errorf("serving list %d, whose publication failed", held.Number)
			}
			stored := m.newest[testShard]

			for _, again := range []*Publisher{p, newPublisher(t, publisherConfig(ca, m))} {
				s := publish(t, again)
				if s.Number <= stored.Number || !slices.Equal(serials(t, ca, s), []int64{1, 2}) {
					t.Errorf("afterwards: list %d with %d, after %d was stored", s.Number, serials(t, ca, s), stored.Number)
				}
				if st := again.Status()[0]; st.Err != nil || st.Number != s.Number || st.Entries != 2 {
					t.Errorf("status %+v", st)
				}
			}
		})
	}
}

// faultySigner does once what instead does, and then what ca does.
func faultySigner(ca *testCA, instead func(tbs [][]byte) ([]byte, error)) Signer {
	var struck bool
	return signerFunc(func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
		if struck {
			return ca.SignCRL(ctx, issuer, tbs)
		}
		struck = true
		return instead(tbs)
	})
}

func TestStoredListThatNoLongerFitsIsReplaced(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	now := time.Now()
	c := publisherConfig(ca, m)
	c.Now = func() time.Time { return now }
	moved := publisherConfig(ca, m)
	moved.Now = c.Now
	moved.Shards[0].URL = "http://elsewhere.test/crl/a1.crl"
	old := publish(t, newPublisher(t, moved))

	p := newPublisher(t, c)
	s, err := p.publish(t.Context(), p.shards[testShard], false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAndVerify(s.DER.Bytes(), ca.cert, testURL, now); err != nil || s.Number <= old.Number {
		t.Errorf("list %d after %d: %v", s.Number, old.Number, err)
	}

	now = now.Add(-time.Hour) // the stored list is from the future now
	again, err := p.publish(t.Context(), p.shards[testShard], false)
	if err != nil || again.Number <= s.Number || again.ThisUpdate.After(now) {
		t.Errorf("list %d with thisUpdate %s after %d, err %v", again.Number, again.ThisUpdate, s.Number, err)
	}
}
