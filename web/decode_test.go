package web

import (
	"encoding/json"
	"slices"
	"testing"
)

// FuzzMemberNames holds the names of an object's members against those that encoding/json reads.
func FuzzMemberNames(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"a":1}`, ` { "a" : "b" , "c" : [ "d", { "e" : 1 } ], "f":{"g":",","h":"}\"{"},"a":null}`, `{"\u0061\"b\\":"\\","":""}`,
		`{"a":["x","y"],"b":[[],["z"]],"c":{}}`, `{"a":{"b":[{"c":1},"d"]},"e":"f"}`,
	} {
		if !json.Valid([]byte(text)) {
			f.Fatalf("%s is no JSON", text)
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v map[string]json.RawMessage
		if json.Unmarshal(text, &v) != nil || v == nil {
			return
		}
		got := map[string]json.RawMessage{}
		for name := range memberNames(text) {
			// encoding/json takes octets that are not UTF-8 for U+FFFD; for us they are no member that is known.
			var read string
			quoted, err := json.Marshal(name)
			if err != nil || json.Unmarshal(quoted, &read) != nil {
				t.Fatal(err)
			}
			got[read] = nil
		}
		if want := keysOf(v); !slices.Equal(keysOf(got), want) {
			t.Errorf("%s: got %q, want %q", text, keysOf(got), want)
		}
	})
}

func keysOf(m map[string]json.RawMessage) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestDecode_Strict(t *testing.T) {
	f := newFixture(t)
	for body, status := range map[string]int{
		`{"client_id":"a"}`:                             201,
		` {"client_id":"a"} `:                           201,
		`{"client_id":"a","client_id":"b"}`:             400,
		`{"client_id":"a","\u0063lient_id":"b"}`:        400,
		`{"Client_ID":"a"}`:                             400,
		`{"client_id":"a","sans":["ttl"],"profile":""}`: 201,
		`{"client_id":"a"}{}`:                           400,
		`{"client_id":"a"},`:                            400,
		`["client_id"]`:                                 400,
		`null`:                                          400,
		` null`:                                         400,
		`{"client_id":"a","other":1}`:                   400,
		``:                                              400,
	} {
		if a := f.do(request{method: "POST", url: f.mtls.URL + "/v1/invitations", body: body, cert: &f.admin, header: map[string][]string{"Content-Type": {"application/json"}}}); a.StatusCode != status {
			t.Errorf("%s: %d, want %d: %s", body, a.StatusCode, status, a.body)
		}
	}
}
