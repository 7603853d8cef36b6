package config

import (
	"bytes"
	"testing"
)

// FuzzParse: whatever the file says, a configuration that is taken prints as one that is taken and prints alike.
func FuzzParse(f *testing.F) {
	const good = "name: a\nhosts: [localhost]\npassphrase: env:P\ntokens:\n  keys:\n  - key: k\n    algorithm: ES256\n"
	f.Add([]byte(good))
	f.Add([]byte(good + "limits:\n  connections: 100\n  wait: 2s\n  failures_per_address: 0\n"))
	f.Add([]byte(good + "profiles:\n  x: &x\n    lifetime: 24h\n    key_types: [P-256]\n    usages: [clientAuth]\n  y: *x\n"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<14 {
			return
		}
		c, err := Parse(text, dir)
		if err != nil {
			return
		}
		var once, twice bytes.Buffer
		if err := c.Print(&once); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(once.Bytes(), dir)
		if err != nil {
			t.Fatalf("what it prints is refused: %v\n%s", err, once.Bytes())
		}
		if err := again.Print(&twice); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("%v:\n%s\n%s", err, once.Bytes(), twice.Bytes())
		}
	})
}
