package main

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
)

// listing is a CA with certificates, the newest first, that keeps what it was asked.
type listing struct {
	certs []client.Certificate
	asked []client.CertificateFilter
}

func (l *listing) list(f client.CertificateFilter) iter.Seq2[client.Certificate, error] {
	l.asked = append(l.asked, f)
	return func(yield func(client.Certificate, error) bool) {
		for _, c := range l.certs {
			if (f.Client == "" || f.Client == c.ClientID) && (f.Status == "" || f.Status == c.Status) &&
				(f.ExpiresBefore.IsZero() || c.NotAfter.Before(f.ExpiresBefore)) && !yield(c, nil) {
				return
			}
		}
	}
}

func serials(t *testing.T, rows iter.Seq2[client.Certificate, error]) (all []string) {
	t.Helper()
	for c, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c.Serial)
	}
	return all
}

func TestExpiringLeavesOutWhatWasRenewed(t *testing.T) {
	now := time.Now()
	cert := func(serial, id, status, renews string, age, left time.Duration) client.Certificate {
		return client.Certificate{Serial: serial, ClientID: id, Status: status, Renews: renews, NotBefore: now.Add(-age), NotAfter: now.Add(left)}
	}
	const day = 24 * time.Hour
	l := &listing{certs: []client.Certificate{
		cert("a2", "a", "active", "a1", 30*day, 60*day),  // beyond what is asked for, but it renews a1
		cert("b2", "b", "revoked", "b1", 30*day, 60*day), // is no successor any more
		cert("d2", "d", "active", "d1", time.Hour, 23*time.Hour),
		cert("a1", "a", "active", "", 88*day, 2*day),
		cert("b1", "b", "active", "", 88*day, 36*time.Hour),
		cert("c1", "c", "held", "", 88*day, time.Hour),
		cert("d1", "d", "active", "", 17*time.Hour, 7*time.Hour),
	}}
	f := client.CertificateFilter{ExpiresBefore: now.Add(3 * day)}
	var a app
	if got, want := serials(t, a.expiring(l.list, f)), []string{"d2", "b1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v, the soonest first", got, want)
	}
	if len(l.asked) != 3 { // the list itself, a and b: d is known to be renewed, and d2 is young
		t.Errorf("asked %+v", l.asked)
	}
	f.Status = "held"
	if got := serials(t, a.expiring(l.list, f)); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("held: %v", got)
	}
}

func TestExpiringIsBounded(t *testing.T) {
	l := &listing{}
	for i := range maxSorted + 1 {
		l.certs = append(l.certs, client.Certificate{Serial: fmt.Sprint(i), Status: "active"})
	}
	var notes bytes.Buffer
	a := app{stderr: &notes}
	if got := serials(t, a.expiring(l.list, client.CertificateFilter{})); len(got) != maxSorted+1 || got[0] != "0" {
		t.Errorf("%d certificates", len(got))
	}
	if !strings.Contains(notes.String(), "not sorted") {
		t.Errorf("the user is told %q", notes.String())
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"90m": 90 * time.Minute, "1d": 24 * time.Hour, "0d": 0, "65535d": 65535 * 24 * time.Hour} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "-1d", "+1d", "1.5d", "1d12h", "65536d", "-1h", "soon"} {
		if _, err := parseDuration(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}
