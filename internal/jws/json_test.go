package jws

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type object = map[string]any

func TestDecodeObject(t *testing.T) {
	for text, want := range map[string]object{
		`{}`:                                {},
		" \t\r\n{ \"a\" : 1 , \"b\":[ ] } ": {"a": 1.0, "b": []any{}},
		`{"a":[1,-2.5e+3,"x",true,false,null,{"b":{}}]}`:           {"a": []any{1.0, -2500.0, "x", true, false, nil, object{"b": object{}}}},
		`{"a":"\"\\\/\b\f\n\r\té\u00e9\u20AC\ud83d\ude00\u0000x"}`: {"a": "\"\\/\b\f\n\r\téé€😀\x00x"},
		`{"a":0,"A":0.5,"\u0061b":-0}`:                             {"a": 0.0, "A": 0.5, "ab": 0.0},
		`{"":""}`:                                                  {"": ""},
	} {
		got, err := DecodeObject([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestDecodeObjectRefuses(t *testing.T) {
	nested := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}" }
	if _, err := DecodeObject([]byte(nested(maxDepth - 1))); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		``, ` `, `null`, `[]`, `"a"`, `1`, `{`, `}`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{'a':1}`, `{"a" 1}`, `{"a":1 "b":2}`,
		`{}{}`, `{} x`, `{"a":[}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[,]}`, `{1:2}`, `{null:2}`, "{\"a\":\u00a01}", "\ufeff{}",
		`{"a":tru}`, `{"a":True}`, `{"a":nul}`, `{"a":nan}`, `{"a":undefined}`,
		`{"a":01}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":1e+}`, `{"a":-}`, `{"a":0x1}`, `{"a":1_0}`, `{"a":1e999}`, `{"a":Infinity}`,
		`{"a":"`, `{"a":"\`, `{"a":"\"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12G4"}`, `{"a":"\u+123"}`, "{\"a\":\"\n\"}", "{\"a\":\"\\n\x01\"}",
		`{"a":"\ud83d"}`, `{"a":"\ud83dx"}`, `{"a":"\ud83d\n"}`, `{"a":"\ude00"}`, `{"a":"\ud83d\u0041"}`, `{"a":"\ud83d\ud83d"}`,
		"{\"a\":\"\xff\"}", "{\"a\xc3\":1}", "{\"a\":\"\xed\xa0\x80\"}",
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"x":[{"a":{"b":1,"b":2}}]}`,
		nested(maxDepth), nested(5000), strings.Repeat(`{"a":`, 5000),
	} {
		if got, err := DecodeObject([]byte(text)); err == nil {
			t.Errorf("%.80s: %v", text, got)
		}
	}
}

// An inner object is given no room for the text after it, so that what a stranger sends is read in time and memory
// that grow with its length and not with its square. The room itself is tested, since a clock would test the
// machine.
func TestManyObjectsAreReadInLinearTime(t *testing.T) {
	text := func(n int) string { return `{"x":[` + strings.Repeat(`{"":{}},`, n) + `0]}` }
	for _, n := range []int{100, 3000} {
		r := &jsonReader{text: text(n), depth: 2}
		if got := r.members(); got != 0 {
			t.Errorf("an inner object in %d octets makes room for %d members", len(r.text), got)
		}
	}
	o, err := DecodeObject([]byte(text(100)))
	if err != nil || len(o) != 1 {
		t.Errorf("%d members, %v", len(o), err)
	}
}

// FuzzDecodeObject holds the reader against the standard library's: whatever it takes means the same to both,
// and whatever the standard library writes is taken.
func FuzzDecodeObject(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}`))
	f.Add([]byte(`{"a":[1,-2.5e+3,"\ud83d\ude00\n",true,null,{"b":{}}],"":"é"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var theirs any
		libraryErr := json.Unmarshal(text, &theirs)
		ours, err := DecodeObject(text)
		if err == nil && (libraryErr != nil || !reflect.DeepEqual(any(ours), theirs)) {
			t.Errorf("%q: %v, the library has %v, %v", text, ours, theirs, libraryErr)
		}
		if _, isObject := theirs.(map[string]any); !isObject || libraryErr != nil {
			return
		}
		canonical, marshalErr := json.Marshal(theirs) // no member twice, no half pairs
		if marshalErr != nil {
			t.Fatal(marshalErr)
		}
		again, err := DecodeObject(canonical)
		if err != nil && !strings.Contains(err.Error(), "deep") {
			t.Errorf("%q: %v", canonical, err)
		}
		if err == nil && !reflect.DeepEqual(any(again), theirs) {
			t.Errorf("%q: %v, the library has %v", canonical, again, theirs)
		}
	})
}
