package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/bench/model"
	"github.com/pkid/pkid/thumbprint"
)

// The floor is this program started again, and that is the test's binary here.
func TestMain(m *testing.M) {
	if addr, ok := os.LookupEnv(floorEnv); ok {
		if err := serveFloor(addr); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

// The whole bench at tiny sizes: every line is measured that needs no peer, and the model can stand on the figures.
func TestSmoke(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the bench reads what processes use from /proc")
	}
	dir := t.TempDir()
	if err := run(t.Context(), []string{"-smoke", "-temp", t.TempDir(), "-out", dir}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range slices.Concat(demands, growthDemands()) {
		if line := "| " + d.work + " | " + d.against + " | " + d.bound.text() + " |"; strings.Contains(string(text), line) == d.peer {
			t.Errorf("measured: %t; needs a peer: %t: %s", !d.peer, d.peer, line)
		}
	}
	written, err := os.ReadFile(filepath.Join(dir, "scale.md"))
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	o := options{model: filepath.Join(dir, "benchmarks.json")}
	if err := o.carryOn(&again); err != nil || again.String() != string(written) {
		t.Errorf("scale.md is not what its figures give: %v", err)
	}
	again.Reset()
	o.certificates, o.revoked, o.tokens, o.verifiers = 1_000_000_000, 10_000_000, 100_000, 10_000
	if err := o.carryOn(&again); err != nil || !strings.Contains(again.String(), "the limit") {
		t.Errorf("%v: %s", err, again.String())
	}
}

func TestVerdict(t *testing.T) {
	least, most := bound{">=", 0.8, model.Times}, bound{"<=", 900, model.Octets}
	large := demand{bound: most, size: 10_000_000, of: "certificates"}
	for _, c := range []struct {
		name    string
		demand  demand
		result  *result
		verdict string // how it begins
		shown   string
	}{
		{"met", demand{bound: least}, &result{value: 0.9}, "pass", "0.9x"},
		{"just met", demand{bound: least}, &result{value: 0.8}, "pass", "0.8x"},
		{"just missed", demand{bound: least}, &result{value: 0.79996}, "**miss**", "0.79996x"},
		{"hardly met", demand{bound: most}, &result{value: 899.99}, "pass", "899.99 octets"},
		{"missed", demand{bound: most}, &result{value: 1572, note: "why"}, "**miss**", "1.57 kB (why)"},
		{"strictly", demand{bound: bound{"<", 40, model.Number}}, &result{value: 40}, "**miss**", "40"},
		{"strictly met", demand{bound: bound{">", 1, model.Times}}, &result{value: 1.001}, "pass", "1.001x"},
		{"time", demand{bound: bound{"<=", 0.25, model.Seconds}}, &result{value: 0.031}, "pass", "31 ms"},
		{"at its size", large, &result{value: 800, size: 10_000_000}, "pass", "800 octets"},
		{"at a smaller size", large, &result{value: 800, size: 3_000_000}, "**miss**: holds at 3,000,000 certificates only, of 10,000,000", "800 octets at 3,000,000 certificates"},
		{"missed at a smaller size", large, &result{value: 1000, size: 3_000_000}, "**miss**", "1 kB at 3,000,000 certificates"},
		{"not measured", large, nil, "**miss**: not measured", ""},
	} {
		if got := c.demand.verdict(c.result); got != c.verdict {
			t.Errorf("%s: %q, want %q", c.name, got, c.verdict)
		}
		if got := c.demand.measured(c.result); got != c.shown {
			t.Errorf("%s: shown as %q, want %q", c.name, got, c.shown)
		}
	}
}

func TestDemands(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range slices.Concat(demands, growthDemands()) {
		if seen[d.id] {
			t.Errorf("%s twice", d.id)
		}
		seen[d.id] = true
		_ = d.bound.holds(1) // panics for a word that it does not know
	}
	var r report
	r.record("start", 1, "")
	r.recordAt("large/octets", 901, 10_000_000, "")
	if !r.missed("start") || !r.missed("issue/floor", "large/octets") || r.missed("issue/floor") {
		t.Error("missed does not tell what was missed")
	}
}

// A whole run shows each demand, and the ones it did not measure as missed; another one shows what it measured.
func TestLines(t *testing.T) {
	var r report
	r.record("memory/idle", 39e6, "")
	lines := func() (string, int) {
		var b strings.Builder
		r.writeLines(&b)
		return b.String(), strings.Count(b.String(), "\n| ") - 1
	}
	if text, n := lines(); n != 1 || !strings.Contains(text, "1 of 1 pass") || !strings.Contains(text, "| 39 MB | pass |") {
		t.Errorf("%d lines:\n%s", n, text)
	}
	r.whole = true
	if text, n := lines(); n != len(r.all()) || !strings.Contains(text, "1 of "+model.Count(n)+" pass") || strings.Count(text, "not measured") != n-1 {
		t.Errorf("%d lines, want %d:\n%s", n, len(r.all()), text)
	}
}

func TestOptions(t *testing.T) {
	for args, whole := range map[string]bool{
		"": true, "-temp /x": true, "-certificates 10000000": true, "-certificates 5000": false, "-quick": false, "-smoke": false, "-only crl": false,
	} {
		o, err := parse(strings.Fields(args))
		if err != nil || o.whole() != whole {
			t.Errorf("%q: whole is %t, %v", args, o.whole(), err)
		}
	}
	if _, err := choose("crl,nothing"); err == nil {
		t.Error("a part that does not exist was chosen")
	}
}

func TestBudget(t *testing.T) {
	for _, c := range []struct{ elapsed, want time.Duration }{
		{0, mostFill}, {wholeRun - afterFill - 4*time.Minute, 4 * time.Minute}, {wholeRun - afterFill, leastFill}, {time.Hour, leastFill},
	} {
		if got := fillTime(c.elapsed); got != c.want {
			t.Errorf("after %s: %s, want %s", c.elapsed, got, c.want)
		}
	}
	if err := checkDisk(t.TempDir(), sizes{certificates: 1 << 50}); err == nil || !strings.Contains(err.Error(), "-temp") {
		t.Errorf("a store that fits nowhere: %v", err)
	}
	if err := checkDisk(t.TempDir(), sizes{}); err != nil {
		t.Log(err) // there may be less than that here
	}
}

func TestProgressTellsTheTime(t *testing.T) {
	var b bytes.Buffer
	p := progress{start: time.Now().Add(-125 * time.Second), to: &b}
	if n, err := p.Write([]byte("issue\n")); err != nil || n != 6 || b.String() != " 2:05 issue\n" {
		t.Errorf("%q %d %v", b.String(), n, err)
	}
}

func TestResults(t *testing.T) {
	of := func(name string, rates ...float64) *series {
		s := &series{name: name}
		for _, r := range rates {
			s.samples = append(s.samples, sample{rate: r})
		}
		return s
	}
	all := results{of("pkid", 1, 300, 100), of("slow", 40, 50, 60), of("fast", 900, 80, 70)}
	if got := all.over("pkid", "slow"); got != 2 {
		t.Errorf("got %g: medians are 100 and 50", got)
	}
	if got := all.fastest("slow", "fast").name; got != "fast" {
		t.Errorf("the fastest is %s", got)
	}
}

func TestAreas(t *testing.T) {
	got, err := sum(`
 21.18%	[k] finish_task_switch.isra.0
 10.00%	[k] tcp_sendmsg_locked
 5.00%	[k] ext4_da_write_begin
 4.00%	[.] crypto/internal/fips140/nistec.p256Sqr.abi0
 1.00%	[.] p256MulInternal
 3.00%	[.] crypto/internal/fips140/sha256.blockSHANI.abi0
 2.00%	[.] crypto/internal/fips140/aes/gcm.gcmAesEnc.abi0
 2.50%	[.] go.etcd.io/bbolt.(*node).write
 6.00%	[.] github.com/pkid/pkid/internal/boltstore.(*Store).write
 7.00%	[.] encoding/json.(*encodeState).marshal
 1.50%	[.] runtime.mallocgc
 1.25%	[.] runtime.scanobject
 0.75%	[.] runtime.findRunnable
 8.00%	[.] net/http.(*conn).serve
 9.00%	[.] crypto/x509.CreateCertificate
`)
	if err != nil {
		t.Fatal(err)
	}
	for area, want := range map[string]float64{
		"kernel: scheduling, memory and the rest": 0.2118, "kernel: network": 0.1, "kernel: files and disk": 0.05, "signatures": 0.05, "hashes": 0.03,
		"TLS": 0.02, "bbolt": 0.025, "pkid's own": 0.06, "JSON and text": 0.07, "Go: memory and its collection": 0.0275, "Go: scheduler and the rest": 0.0075,
		"net/http, net": 0.08, "certificates and ASN.1": 0.09,
	} {
		if d := got[area] - want; d > 1e-9 || d < -1e-9 {
			t.Errorf("%s: got %g, want %g", area, got[area], want)
		}
	}
	if _, err := sum("\n"); err == nil {
		t.Error("an empty profile was read")
	}
}

func TestStoreSizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not.db")
	err := os.WriteFile(path, make([]byte, 1<<16), 0o600)
	if n, bad := boltOctets(path); err != nil || bad == nil {
		t.Errorf("%d octets of what is no store, %v", n, err)
	}
	if n, err := treeOctets(filepath.Dir(path)); err != nil || n < 1<<15 || n > 1<<16 {
		t.Errorf("%d octets, %v", n, err)
	}
	if err := ignoreGone(errors.New("another")); err == nil {
		t.Error("an error was ignored")
	}
}

// What is forged for the large store has to differ from certificate to certificate in all that real ones differ in,
// and to be as large, or the store would look better than it is.
func TestForgedCertificates(t *testing.T) {
	issuer, err := newTestCA(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := issuer.client(clientName(0))
	if err != nil {
		t.Fatal(err)
	}
	key := client.Leaf.PublicKey.(*ecdsa.PublicKey)
	point, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	pattern := template(clientName(0))
	id := keyID(point[1:])
	pattern.SubjectKeyId, pattern.DNSNames = id[:], []string{clientName(0)}
	pattern.SerialNumber.SetBit(pattern.SerialNumber, 126, 1) // 16 octets
	cert, err := sign(pattern, issuer.issuing, key, issuer.issuingKey)
	if err != nil {
		t.Fatal(err)
	}
	f, err := forge(cert, "issuer")
	if err != nil {
		t.Fatal(err)
	}
	random := mathrand.NewChaCha8([32]byte{1})
	seen := map[string]bool{}
	for i := range 50 {
		r := f.record(i, random)
		whole := bytes.Clone(r.DER)
		key := bytes.Clone(whole[4+f.key:][:64])
		copy(whole[4+f.key:], point[1:]) // what was drawn is no point, which a parser minds and a store does not
		c, err := x509.ParseCertificate(whole)
		if err != nil {
			t.Fatal(err)
		}
		id := keyID(key)
		switch name := clientName(applicants + i); {
		case c.Subject.CommonName != name || !slices.Equal(c.DNSNames, []string{name}) || r.ClientID != name:
			t.Errorf("the names are %s, %s and %s", c.Subject, c.DNSNames, r.ClientID)
		case new(big.Int).SetBytes(r.Serial[:]).Cmp(c.SerialNumber) != 0:
			t.Errorf("serial number %x, recorded as %s", c.SerialNumber, r.Serial)
		case !c.NotBefore.Equal(r.NotBefore) || !c.NotAfter.Equal(r.NotAfter):
			t.Errorf("valid from %s to %s, recorded as %s to %s", c.NotBefore, c.NotAfter, r.NotBefore, r.NotAfter)
		case !bytes.Equal(c.SubjectKeyId, id[:]):
			t.Error("the key identifier is another key's")
		case r.Thumbprint != thumbprint.OfDER(r.DER):
			t.Error("the thumbprint is another certificate's")
		case len(r.DER) < len(cert.Raw)-4 || len(r.DER) > len(cert.Raw)+4:
			t.Errorf("%d octets, a real one has %d", len(r.DER), len(cert.Raw))
		}
		for _, part := range []string{string(key[:32]), string(key[32:]), string(c.Signature[8:30]), string(c.Signature[len(c.Signature)-30:]), r.Serial.String()} {
			if seen[part] {
				t.Errorf("%x stands in two certificates", part)
			}
			seen[part] = true
		}
	}
	if _, err := forge(issuer.issuing, "issuer"); err == nil {
		t.Error("a certificate of another form was taken for a pattern")
	}
}
