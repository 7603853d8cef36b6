package audit_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, key *ecdsa.PrivateKey, head audit.Head) string {
	t.Helper()
	line, err := audit.SignCheckpoint(key, "pki.example.com:8443", head, time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestCheckpointRoundTrip(t *testing.T) {
	key, head := newKey(t), chain(3)[2].Head()
	got, err := audit.ReadCheckpoints(strings.NewReader(sign(t, key, head)+"\n"), newKey(t).Public(), key.Public())
	if err != nil || len(got) != 1 || got[0].Head != head || got[0].Origin != "pki.example.com:8443" || got[0].Time.Year() != 2026 {
		t.Fatalf("ReadCheckpoints = %+v, %v", got, err)
	}
}

// TestCheckpointsThatAreRefused changes each word of a checkpoint, and its key.
func TestCheckpointsThatAreRefused(t *testing.T) {
	key := newKey(t)
	line := sign(t, key, audit.Head{Seq: 7, Hash: audit.Hash{1}})
	for i, word := range strings.Split(line, " ") {
		words, changed := strings.Split(line, " "), []byte(word)
		if at := len(changed) / 2; changed[at] == '0' {
			changed[at] = '1'
		} else {
			changed[at] = '0'
		}
		words[i] = string(changed)
		if _, err := audit.ReadCheckpoints(strings.NewReader(strings.Join(words, " ")), key.Public()); !errors.Is(err, audit.ErrCheckpoint) {
			t.Errorf("word %d changed: %v, want ErrCheckpoint", i, err)
		}
	}
	for name, bad := range map[string]string{
		"empty line": "\n", "a word too many": line + " x", "cut": line[:len(line)-4], "no signature": line[:strings.LastIndex(line, " ")],
		"two spaces": strings.Replace(line, " ", "  ", 1), "long": "pkid-checkpoint-v1 " + strings.Repeat("x", 2000) + " 1 2 3 4 5",
		"endless": strings.Repeat("x", 1<<17),
	} {
		if got, err := audit.ReadCheckpoints(strings.NewReader(bad), key.Public()); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
	if _, err := audit.ReadCheckpoints(strings.NewReader(line), newKey(t).Public()); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("another key: %v, want ErrCheckpoint", err)
	}
}

// TestOpenSSLChecksACheckpoint does what docs/operations.md says.
func TestOpenSSLChecksACheckpoint(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	key, dir := newKey(t), t.TempDir()
	line := sign(t, key, chain(2)[1].Head())
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(line, " ")
	signature, err := base64.StdEncoding.DecodeString(line[at+1:])
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "text": []byte(line[:at]), "sig": signature, "other": []byte(line[:at] + "x"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]bool{"text": true, "other": false} {
		cmd := exec.CommandContext(t.Context(), openssl, "dgst", "-sha256", "-verify", "pub", "-signature", "sig", text)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); (err == nil) != want {
			t.Errorf("openssl on %s: %s, %v", text, out, err)
		}
	}
}

// TestVerifierFindsWhatTheChainCannot: a log that was written anew is as good as any, but for a checkpoint.
func TestVerifierFindsWhatTheChainCannot(t *testing.T) {
	log := chain(8)
	anew := slices.Clone(log[:3])
	for i := 3; i < 8; i++ {
		ev := event(i + 100)
		anew = append(anew, audit.Seal(anew[i-1].Head(), ev))
	}
	mark := func(entries ...audit.Entry) (all []audit.Checkpoint) {
		for _, e := range entries {
			all = append(all, audit.Checkpoint{Head: e.Head()})
		}
		return all
	}
	for name, c := range map[string]struct {
		base    audit.Head
		entries []audit.Entry
		marks   []audit.Checkpoint
		broken  uint64 // zero: it is whole
		matched int
	}{
		"no checkpoint":              {audit.Head{}, anew, nil, 0, 0},
		"whole":                      {audit.Head{}, log, mark(log[7], log[1], log[4]), 0, 3},
		"after a base":               {log[2].Head(), log[3:], mark(log[1], log[2], log[4]), 0, 2},
		"after another base":         {anew[3].Head(), anew[4:], mark(log[3]), 4, 0},
		"written anew":               {audit.Head{}, anew, mark(log[1], log[5]), 6, 1},
		"written anew and after it":  {audit.Head{}, anew, mark(log[2]), 0, 1},
		"cut short":                  {audit.Head{}, log[:5], mark(log[2], log[6]), 6, 1},
		"cut to where it was marked": {audit.Head{}, log[:7], mark(log[6]), 0, 1},
		"emptied":                    {audit.Head{}, nil, mark(log[0]), 1, 0},
		"two that contradict":        {audit.Head{}, log, mark(log[5], anew[5]), 6, 1},
		"base beyond the log":        {log[4].Head(), nil, mark(log[6]), 6, 0},
		"removed and continued":      {audit.Head{}, slices.Delete(slices.Clone(log), 2, 3), mark(log[7]), 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := audit.NewVerifier(c.base, c.marks)
			for _, e := range c.entries {
				if err == nil {
					err = v.Add(e)
				}
			}
			if err == nil {
				err = v.End()
			}
			var broken *audit.BrokenError
			if (c.broken > 0) != errors.As(err, &broken) || broken != nil && broken.Seq != c.broken {
				t.Errorf("verified: %v, want broken at %d", err, c.broken)
			}
			if v.Matched() != c.matched {
				t.Errorf("%d checkpoints matched, want %d", v.Matched(), c.matched)
			}
		})
	}
}

func lines(t *testing.T, entries []audit.Entry) []byte {
	t.Helper()
	var b []byte
	for _, e := range entries {
		var err error
		if b, err = audit.AppendLine(b, e); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func readLines(b []byte) (all []audit.Entry, err error) {
	for e, err := range audit.ReadLines(bytes.NewReader(b)) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func TestLinesRoundTrip(t *testing.T) {
	want := chain(5)
	plain := lines(t, want)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(plain)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{plain, zipped.Bytes()} {
		got, err := readLines(b)
		if err != nil || len(got) != len(want) {
			t.Fatalf("read %d, %v", len(got), err)
		}
		if _, err := verify(got); err != nil {
			t.Error(err)
		}
	}
	if _, err := readLines(zipped.Bytes()[:zipped.Len()-9]); err == nil {
		t.Error("a compressed file that was cut was taken")
	}
}

// TestLinesThatAreRefused: what a reader of JSON would overlook is not overlooked.
func TestLinesThatAreRefused(t *testing.T) {
	b := lines(t, chain(3))
	for name, bad := range map[string]string{
		"member added":   strings.Replace(string(b), `{"seq":2`, `{"x":1,"seq":2`, 1),
		"member twice":   strings.Replace(string(b), `{"seq":2`, `{"seq":9,"seq":2`, 1),
		"another case":   strings.Replace(string(b), `{"seq":2,"time"`, `{"seq":2,"Time"`, 1),
		"space":          strings.Replace(string(b), `{"seq":2,`, `{"seq":2, `, 1),
		"cut in a line":  string(b[:len(b)-20]),
		"line of no use": strings.Replace(string(b), "\n", "\n\n", 1),
		"huge":           strings.Repeat("x", 2<<20),
	} {
		if got, err := readLines([]byte(bad)); err == nil {
			t.Errorf("%s: read %d entries", name, len(got))
		}
	}
	_, err := readLines([]byte(strings.Replace(string(b), `{"seq":2`, `{"x":1,"seq":2`, 1)))
	var broken *audit.BrokenError
	if !errors.As(err, &broken) || broken.Seq != 2 {
		t.Errorf("%v, want a *BrokenError at 2", err)
	}
}
