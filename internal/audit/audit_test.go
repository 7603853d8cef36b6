package audit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

func event(i int) audit.Event {
	return audit.Event{
		Time:   time.Date(2026, 3, 1, 12, 0, i, 123456789, time.FixedZone("CET", 3600)),
		Actor:  audit.Actor{Name: "operator", Address: "192.0.2.1", RequestID: fmt.Sprint("r-", i)},
		Action: audit.Issue, Subject: fmt.Sprint("serial-", i),
		Detail: map[string]string{"client": "alice", "profile": "client", "a<b": "&\u2028"},
	}
}

func chain(n int) []audit.Entry {
	var head audit.Head
	var out []audit.Entry
	for i := range n {
		e := audit.Seal(head, event(i))
		head = e.Head()
		out = append(out, e)
	}
	return out
}

func verify(entries []audit.Entry) (audit.Head, error) {
	var head audit.Head
	for _, e := range entries {
		var err error
		if head, err = audit.Verify(head, e); err != nil {
			return head, err
		}
	}
	return head, nil
}

func TestVerifyAcceptsWhatWasSealed(t *testing.T) {
	entries := chain(5)
	head, err := verify(entries)
	if err != nil || head != entries[4].Head() || head.Seq != 5 {
		t.Fatalf("verify = %v, %v", head, err)
	}
	if head, err := verify(nil); err != nil || head != (audit.Head{}) {
		t.Fatalf("verify of an empty log = %v, %v", head, err)
	}
}

// TestVerifyNamesTheFirstBrokenEntry tampers with a log of five entries in every way that keeps it readable.
func TestVerifyNamesTheFirstBrokenEntry(t *testing.T) {
	reseal := func(e audit.Entry, head audit.Head) audit.Entry {
		return audit.Seal(head, audit.Event{Time: e.Time, Actor: audit.Actor{Name: e.Actor}, Action: e.Action, Subject: e.Subject})
	}
	for name, c := range map[string]struct {
		tamper func([]audit.Entry) []audit.Entry
		broken uint64
	}{
		"first removed": {func(e []audit.Entry) []audit.Entry { return e[1:] }, 1},
		"one removed":   {func(e []audit.Entry) []audit.Entry { return slices.Delete(e, 2, 3) }, 3},
		"reordered":     {func(e []audit.Entry) []audit.Entry { e[1], e[2] = e[2], e[1]; return e }, 2},
		"repeated":      {func(e []audit.Entry) []audit.Entry { return slices.Insert(e, 3, e[2]) }, 4},
		"inserted":      {func(e []audit.Entry) []audit.Entry { return slices.Insert(e, 2, reseal(e[4], e[1].Head())) }, 4},
		"time edited":   {func(e []audit.Entry) []audit.Entry { e[1].Time = e[1].Time.Add(time.Millisecond); return e }, 2},
		"year beyond JSON": {func(e []audit.Entry) []audit.Entry {
			e[1].Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
			return e
		}, 2},
		"actor edited":     {func(e []audit.Entry) []audit.Entry { e[1].Actor = "mallory"; return e }, 2},
		"address edited":   {func(e []audit.Entry) []audit.Entry { e[1].Address = ""; return e }, 2},
		"request edited":   {func(e []audit.Entry) []audit.Entry { e[1].RequestID = "r-9"; return e }, 2},
		"action edited":    {func(e []audit.Entry) []audit.Entry { e[1].Action = audit.Renew; return e }, 2},
		"subject edited":   {func(e []audit.Entry) []audit.Entry { e[1].Subject = "serial-9"; return e }, 2},
		"detail edited":    {func(e []audit.Entry) []audit.Entry { e[1].Detail["client"] = "bob"; return e }, 2},
		"detail removed":   {func(e []audit.Entry) []audit.Entry { e[1].Detail = nil; return e }, 2},
		"hash edited":      {func(e []audit.Entry) []audit.Entry { e[1].Hash[0] ^= 1; return e }, 2},
		"prev edited":      {func(e []audit.Entry) []audit.Entry { e[1].Prev[0] ^= 1; return e }, 2},
		"number edited":    {func(e []audit.Entry) []audit.Entry { e[1].Seq = 7; return e }, 2},
		"edited, resealed": {func(e []audit.Entry) []audit.Entry { e[1] = reseal(e[1], e[0].Head()); return e }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := verify(c.tamper(chain(5)))
			var broken *audit.BrokenError
			if !errors.As(err, &broken) || broken.Seq != c.broken {
				t.Errorf("verify = %v, want a *BrokenError at entry %d", err, c.broken)
			}
		})
	}
}

// TestSealedEntriesSurviveJSON: an entry that was written and read back is the same, and still verifies.
func TestSealedEntriesSurviveJSON(t *testing.T) {
	bare := audit.Seal(audit.Head{}, audit.Event{Action: "test"})
	empty := audit.Seal(audit.Head{}, audit.Event{Action: "test", Detail: map[string]string{}})
	odd := audit.Seal(audit.Head{}, audit.Event{
		Actor: audit.Actor{Name: "\xff", Address: "\xc3(", RequestID: "\xed\xa0\x80"}, Action: "\xfe", Subject: "a\x00b\xff\ufffd",
		Detail: map[string]string{"k\xff": "v\xff"},
	})
	for _, e := range append(chain(3), bare, empty, odd) {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var back audit.Entry
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, e) {
			t.Errorf("read back %+v, want %+v", back, e)
		}
		if _, err := audit.Verify(audit.Head{Seq: e.Seq - 1, Hash: e.Prev}, back); err != nil {
			t.Error(err)
		}
	}
}

func TestSealKeepsItsOwnDetail(t *testing.T) {
	ev := event(0)
	e := audit.Seal(audit.Head{}, ev)
	ev.Detail["client"] = "changed later"
	if _, err := audit.Verify(audit.Head{}, e); err != nil {
		t.Error(err)
	}
}

func TestHashTextForm(t *testing.T) {
	for _, bad := range []string{"", "00", "zz", fmt.Sprintf("%066x", 1), fmt.Sprintf("%063x", 1)} {
		var h audit.Hash
		if err := h.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("UnmarshalText(%q) took it", bad)
		}
	}
}

func TestActorOfAContext(t *testing.T) {
	if got := audit.From(t.Context()); got != (audit.Actor{Name: "pkid"}) {
		t.Errorf("From = %v, want pkid itself", got)
	}
	want := audit.Actor{Name: "alice", Address: "192.0.2.9", RequestID: "r"}
	if got := audit.From(audit.WithActor(t.Context(), want)); got != want {
		t.Errorf("From = %v, want %v", got, want)
	}
}
