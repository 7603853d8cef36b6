package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
)

var listTests = map[string]func(*testing.T, *store){
	"ListFilters":             testListFilters,
	"ListNamesAreNoPatterns":  testListNames,
	"ListPages":               testListPages,
	"ListWhileInserting":      testListWhileInserting,
	"ListRefusesOtherCursors": testListCursor,
}

// list follows the cursors to the end.
func list(t *testing.T, s *store, q ca.Query) []*ca.Record {
	t.Helper()
	var all []*ca.Record
	for {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatalf("List(%+v): %v", q, err)
		}
		if len(page.Records) > q.Limit {
			t.Fatalf("List gave %d records, limit %d", len(page.Records), q.Limit)
		}
		all = append(all, page.Records...)
		if page.Next == "" {
			return all
		}
		q.Cursor = page.Next
	}
}

// newestFirst sorts serials as List gives them.
func newestFirst(recs []*ca.Record) []ca.Serial {
	var out []ca.Serial
	for _, r := range recs {
		out = append(out, r.Serial)
	}
	slices.SortFunc(out, func(a, b ca.Serial) int { return bytes.Compare(b[:], a[:]) })
	return out
}

func testListFilters(t *testing.T, s *store) {
	var all []*ca.Record
	for i := range 24 {
		r := record(subject(i%4), time.Duration(i)*time.Second, func(r *ca.Record) {
			r.NotAfter = start.Add(time.Duration(24-i) * time.Hour) // the order of expiry is not that of serials
			if i%3 == 0 {
				r.Profile = "server"
			}
			if i%5 == 2 {
				r.Serial = ca.Serial(noise(len(r.Serial))) // of another program, in no order of time
			}
			if i%8 == 5 {
				r.Parent = all[i-4].Serial
			}
			r.Names = append(r.Names, fmt.Sprintf("Host-%d.Example.NET", i))
		})
		all = append(all, r)
	}
	insert(t, s, all...)
	for i, r := range all {
		switch i % 6 {
		case 1:
			r.Revocation = &ca.Revocation{Reason: ca.Superseded, At: start}
		case 2:
			r.Revocation = &ca.Revocation{Reason: ca.CertificateHold, At: start}
		default:
			continue
		}
		revoke(t, s, r.Serial, r.Revocation)
	}
	now := start.Add(9*time.Hour + time.Second)
	for name, c := range filters(all, now) {
		t.Run(name, func(t *testing.T) {
			var want []*ca.Record
			for _, r := range all {
				if c.want(r) {
					want = append(want, r)
				}
			}
			for _, limit := range []int{1, 5, 1000} {
				q := c.q
				q.Now, q.Limit = now, limit
				got := list(t, s, q)
				if !slices.Equal(serials(got), newestFirst(want)) {
					t.Errorf("limit %d: got %d records %v, want %d", limit, len(got), serials(got), len(want))
				}
				for _, r := range got {
					if r.Status(now) != statusIn(all, r.Serial, now) {
						t.Errorf("%s is listed as %s", r.Serial, r.Status(now))
					}
				}
			}
		})
	}
}

// testListNames: what stands for something else in a database's patterns stands for itself here.
func testListNames(t *testing.T, s *store) {
	all := map[string]*ca.Record{}
	for _, name := range []string{"100%", "1000", "a_b", "acb", `d\e`, "de", `f\`, "f"} {
		all[name] = record("alice", time.Duration(len(all))*time.Second, func(r *ca.Record) { r.Names = []string{name} })
		insert(t, s, all[name])
	}
	for name, want := range map[string][]*ca.Record{
		"%": {all["100%"]}, "0%": {all["100%"]}, "a_b": {all["a_b"]}, "_": {all["a_b"]},
		`\`: {all[`d\e`], all[`f\`]}, `f\`: {all[`f\`]}, `\%`: nil, "__": nil, "%%": nil,
	} {
		if got := list(t, s, ca.Query{Name: name, Limit: 100}); !slices.Equal(serials(got), newestFirst(want)) {
			t.Errorf("%q is in the names of %d certificates, want %d", name, len(got), len(want))
		}
	}
}

// filter is a query, and which records it selects.
type filter struct {
	q    ca.Query
	want func(*ca.Record) bool
}

func filters(all []*ca.Record, now time.Time) map[string]filter {
	return map[string]filter{
		"everything": {ca.Query{}, func(*ca.Record) bool { return true }},
		"client":     {ca.Query{ClientID: subject(2)}, func(r *ca.Record) bool { return r.ClientID == subject(2) }},
		"no client":  {ca.Query{ClientID: "client-00"}, func(*ca.Record) bool { return false }},
		"profile":    {ca.Query{Profile: "server"}, func(r *ca.Record) bool { return r.Profile == "server" }},
		"name":       {ca.Query{Name: "hOST-1"}, func(r *ca.Record) bool { return bytes.Contains([]byte(r.Names[2]), []byte("Host-1")) }},
		"no name":    {ca.Query{Name: "host-99"}, func(*ca.Record) bool { return false }},
		"thumbprint": {ca.Query{Thumbprint: all[5].Thumbprint}, func(r *ca.Record) bool { return r == all[5] }},
		"thumbprint of another client": {
			ca.Query{Thumbprint: all[5].Thumbprint, ClientID: subject(0)},
			func(*ca.Record) bool { return false },
		},
		"active":  {ca.Query{Status: ca.Active}, func(r *ca.Record) bool { return r.Status(now) == ca.Active }},
		"held":    {ca.Query{Status: ca.Held}, func(r *ca.Record) bool { return r.Status(now) == ca.Held }},
		"revoked": {ca.Query{Status: ca.Revoked}, func(r *ca.Record) bool { return r.Status(now) == ca.Revoked }},
		"expired": {ca.Query{Status: ca.Expired}, func(r *ca.Record) bool { return r.Status(now) == ca.Expired }},
		"expiring from": {
			ca.Query{ExpiresAfter: start.Add(10 * time.Hour)},
			func(r *ca.Record) bool { return !r.NotAfter.Before(start.Add(10 * time.Hour)) },
		},
		"expiring before": {
			ca.Query{ExpiresBefore: start.Add(10 * time.Hour)},
			func(r *ca.Record) bool { return r.NotAfter.Before(start.Add(10 * time.Hour)) },
		},
		"fractions of a second": {
			ca.Query{ExpiresAfter: start.Add(4*time.Hour + time.Millisecond), ExpiresBefore: start.Add(10*time.Hour + time.Millisecond)},
			func(r *ca.Record) bool {
				return r.NotAfter.After(start.Add(4*time.Hour)) && !r.NotAfter.After(start.Add(10*time.Hour))
			},
		},
		"renewals":            {ca.Query{Renewal: true}, func(r *ca.Record) bool { return !r.Parent.IsZero() }},
		"a client's renewals": {ca.Query{ClientID: subject(1), Renewal: true}, func(r *ca.Record) bool { return r.ClientID == subject(1) && !r.Parent.IsZero() }},
		"after a serial":      {ca.Query{After: all[10].Serial}, func(r *ca.Record) bool { return bytes.Compare(r.Serial[:], all[10].Serial[:]) > 0 }},
		"a client's after another": {ca.Query{ClientID: subject(1), After: all[10].Serial}, func(r *ca.Record) bool {
			return r.ClientID == subject(1) && bytes.Compare(r.Serial[:], all[10].Serial[:]) > 0
		}},
		"revoked after the newest": {ca.Query{Status: ca.Revoked, After: newestFirst(all)[0]}, func(*ca.Record) bool { return false }},
		"all together": {
			ca.Query{ClientID: subject(1), Profile: "client", Status: ca.Revoked, Name: "example.com", ExpiresAfter: start.Add(6 * time.Hour), ExpiresBefore: start.Add(99 * time.Hour)},
			func(r *ca.Record) bool {
				return r.ClientID == subject(1) && r.Profile == "client" && r.Status(now) == ca.Revoked && !r.NotAfter.Before(start.Add(6*time.Hour))
			},
		},
	}
}

func serials(recs []*ca.Record) []ca.Serial {
	var out []ca.Serial
	for _, r := range recs {
		out = append(out, r.Serial)
	}
	return out
}

func statusIn(all []*ca.Record, serial ca.Serial, now time.Time) ca.Status {
	i := slices.IndexFunc(all, func(r *ca.Record) bool { return r.Serial == serial })
	return all[i].Status(now)
}

func testListPages(t *testing.T, s *store) {
	if page, err := s.List(t.Context(), ca.Query{Limit: 10, Now: start}); err != nil || len(page.Records) != 0 || page.Next != "" {
		t.Fatalf("List of an empty store = %+v, %v", page, err)
	}
	var all []*ca.Record
	for i := range 10 {
		all = append(all, record("alice", time.Duration(i)*time.Second))
	}
	insert(t, s, all...)
	page, err := s.List(t.Context(), ca.Query{Limit: 4, Now: start})
	if err != nil || len(page.Records) != 4 || page.Next == "" {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	page, err = s.List(t.Context(), ca.Query{Limit: 10, Now: start})
	if err != nil || len(page.Records) != 10 || page.Next != "" {
		t.Fatalf("a page that holds all: %d records, next %q, %v", len(page.Records), page.Next, err)
	}
}

func testListWhileInserting(t *testing.T, s *store) {
	var old []*ca.Record
	for i := range 30 {
		old = append(old, record(subject(i%2), time.Duration(i)*time.Second))
	}
	insert(t, s, old...)
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			r := record(subject(i%2), time.Hour+time.Duration(i)*time.Millisecond)
			if err := s.Insert(t.Context(), r, nil, event("test", "x")); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 5 {
		for _, q := range []ca.Query{{}, {ClientID: subject(1)}, {ExpiresAfter: start}} {
			q.Limit, q.Now = 3, start
			checkWalk(t, list(t, s, q), old, q.ClientID)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// checkWalk checks that a walk has each record at most once, newest first, and none of the old ones missing.
func checkWalk(t *testing.T, got, old []*ca.Record, clientID string) {
	t.Helper()
	walked := serials(got)
	for i := 1; i < len(walked); i++ {
		if bytes.Compare(walked[i-1][:], walked[i][:]) <= 0 {
			t.Fatalf("%s comes after %s", walked[i], walked[i-1])
		}
	}
	for _, r := range old {
		if (clientID == "" || r.ClientID == clientID) && !slices.Contains(walked, r.Serial) {
			t.Fatalf("%s of %s is missing", r.Serial, r.ClientID)
		}
	}
}

func testListCursor(t *testing.T, s *store) {
	insert(t, s, record("alice", 0))
	for _, cursor := range []string{"x", "!!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAB"} {
		if page, err := s.List(t.Context(), ca.Query{Cursor: cursor, Limit: 1, Now: start}); !errors.Is(err, ca.ErrCursor) {
			t.Errorf("List with cursor %q = %+v, %v; want ErrCursor", cursor, page, err)
		}
	}
}
