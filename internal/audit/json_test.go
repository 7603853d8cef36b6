package audit

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzAppendJSON: the hash of an entry is that of the JSON which encoding/json writes for it, whatever stands in it.
func FuzzAppendJSON(f *testing.F) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	f.Add(uint64(1), int64(1_767_225_600_123), 0, "operator", "192.0.2.1", "r-1", Issue, "00ff", "client", "alice", "a<b", "&\u2028\u2029\ufffd")
	f.Add(^uint64(0), int64(-1), 3600, string(every), "", "", "", "\xe2\x80", "\xff", "\xfe", "", "\x7f")
	f.Add(uint64(0), int64(1)<<62, 24*3600, "", "", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, seq uint64, ms int64, zone int, actor, address, request, action, subject, k1, v1, k2, v2 string) {
		e := Entry{
			Seq: seq, Time: time.UnixMilli(ms).In(time.FixedZone("", zone)), Actor: actor, Address: address, RequestID: request,
			Action: action, Subject: subject, Prev: Hash{1, 2, 0xfe}, Hash: Hash{31: 9},
		}
		for _, e.Detail = range []map[string]string{nil, {}, {k1: v1}, {k1: v1, k2: v2}} {
			want, wantErr := json.Marshal(e)
			got, err := e.appendJSON([]byte("before"))
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("appendJSON: %v; encoding/json: %v", err, wantErr)
			}
			if err == nil && string(got) != "before"+string(want) {
				t.Fatalf("appendJSON wrote\n%s, encoding/json\n%s", got[len("before"):], want)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	ev := Event{
		Time: time.Now(), Actor: Actor{Name: "client-00000001", Address: "127.0.0.1", RequestID: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
		Action: Issue, Subject: "019a0b1c2d3e4f5061728394a5b6c7d8",
		Detail: map[string]string{
			"client": "client-00000001", "profile": "client", "not_after": "2026-11-23T00:00:00Z",
			"x5t#S256": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG",
		},
	}
	var head Head
	b.ReportAllocs()
	for b.Loop() {
		e := Seal(head, ev)
		head = e.Head()
	}
}
