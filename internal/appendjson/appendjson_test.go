package appendjson

import (
	"encoding/json"
	"testing"
)

// FuzzStrings: strings are written as encoding/json writes them, alone and in an array.
func FuzzStrings(f *testing.F) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, s := range []string{
		"", "plain ~", `"quoted\"`, "\x00\x1f\n\t\r", "\x7f</script>&\u2028\u2029\u2030", "ä\u0300😀\ufffd", "\xff\xc0 cut\xe2\x82", `a\u0041`, string(every),
	} {
		f.Add(s, "b")
	}
	f.Fuzz(func(t *testing.T, s, other string) {
		for _, v := range []any{s, []string{}, []string{s}, []string{s, other, ""}} {
			want, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got := []byte("before")
			switch v := v.(type) {
			case string:
				got = String(got, v)
			case []string:
				got = Strings(got, v)
			}
			if string(got) != "before"+string(want) {
				t.Errorf("%q is written as %s; want %s", v, got[len("before"):], want)
			}
		}
	})
}

func BenchmarkString(b *testing.B) {
	for name, s := range map[string]string{"plain": "https://resource.example/invoices", "foreign": "Bücher & Straßen <b>"} {
		b.Run(name, func(b *testing.B) {
			var room [128]byte
			b.ReportAllocs()
			for b.Loop() {
				String(room[:0], s)
			}
		})
	}
}
