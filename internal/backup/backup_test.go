package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pkid/pkid/internal/audit"
)

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var created = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// write makes a backup of two files.
func write(t *testing.T, to age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, created, to)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"keys/issuer.key": "sealed", "pkid.db": strings.Repeat("page", 100_000)} {
		if err := w.Add(name, 0o600, int64(len(content)), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(Manifest{CA: "pkid", Root: "ab", Store: "bolt", Audit: audit.Head{Seq: 7}}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestExtract(t *testing.T) {
	id := identity(t)
	dir := t.TempDir()
	m, err := Extract(bytes.NewReader(write(t, id.Recipient())), dir, identity(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if m.CA != "pkid" || m.Audit.Seq != 7 || !m.Created.Equal(created) || len(m.Files) != 2 {
		t.Errorf("manifest %+v", m)
	}
	got, err := os.ReadFile(filepath.Join(dir, "keys", "issuer.key"))
	if err != nil || string(got) != "sealed" {
		t.Errorf("file %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "pkid.db")); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 400_000 {
		t.Errorf("file %v, %v", info, err)
	}
}

// Every octet that is missing or changed is noticed, wherever it was.
func TestExtractRefusesWhatWasCutOrChanged(t *testing.T) {
	id := identity(t)
	whole := write(t, id.Recipient())
	for at := 0; at < len(whole); at += 1 + len(whole)/97 {
		changed := slices.Clone(whole)
		changed[at] ^= 1
		for what, in := range map[string][]byte{"cut": whole[:at], "changed": changed} {
			if m, err := Extract(bytes.NewReader(in), t.TempDir(), id); err == nil || m != nil {
				t.Errorf("%s at %d of %d: accepted", what, at, len(whole))
			}
		}
	}
	if _, err := Extract(bytes.NewReader(whole), t.TempDir(), identity(t)); !errors.Is(err, ErrIdentity) {
		t.Errorf("another identity: %v", err)
	}
	if _, err := Extract(strings.NewReader("no age file"), t.TempDir(), id); !errors.Is(err, ErrFormat) {
		t.Errorf("another file: %v", err)
	}
}

// What somebody else encrypted to the same recipient is no backup unless its manifest says what is in it.
func TestExtractRefusesForeignArchives(t *testing.T) {
	id := identity(t)
	file := func(name, content string) func(*tar.Writer) {
		return func(w *tar.Writer) {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o600}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(w *tar.Writer) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "keys", Linkname: "/etc"}); err != nil {
			t.Fatal(err)
		}
	}
	for name, parts := range map[string][]func(*tar.Writer){
		"nothing":             nil,
		"no manifest":         {file("pkid.db", "x")},
		"outside":             {file("../x", "x"), file(manifestName, `{"format":1}`)},
		"absolute":            {file("/tmp/x", "x"), file(manifestName, `{"format":1}`)},
		"a link":              {link, file(manifestName, `{"format":1}`)},
		"twice":               {file("a", "x"), file("a", "y"), file(manifestName, `{"format":1}`)},
		"not in the manifest": {file("a", "x"), file(manifestName, `{"format":1}`)},
		"more in it":          {file(manifestName, `{"format":1,"files":[{"name":"a"}]}`)},
		"something after":     {file(manifestName, `{"format":1}`), file("a", "x")},
		"newer":               {file(manifestName, `{"format":2}`)},
		"no JSON":             {file(manifestName, `{`)},
		"a long manifest":     {file(manifestName, `{"format":1}`+strings.Repeat(" ", maxManifest))},
	} {
		var out bytes.Buffer
		sealed, err := age.Encrypt(&out, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(sealed)
		for _, part := range parts {
			part(w)
		}
		if err := errors.Join(w.Close(), sealed.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Extract(&out, t.TempDir(), id); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	if _, err := NewWriter(io.Discard, created); err == nil {
		t.Error("a backup without recipient was begun")
	}
	w, err := NewWriter(io.Discard, created, identity(t).Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add("a", 0o600, 5, strings.NewReader("four")); err == nil {
		t.Error("a file that is shorter than it should be was added")
	}
}

// TestExtractReadsToTheEnd: what follows the archive counts for whether the file is whole.
func TestExtractReadsToTheEnd(t *testing.T) {
	id := identity(t)
	opened, err := age.Decrypt(bytes.NewReader(write(t, id.Recipient())), id)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sealed, err := age.Encrypt(&out, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(sealed, io.MultiReader(opened, bytes.NewReader(make([]byte, 1<<18)))); err != nil {
		t.Fatal(err)
	}
	if err := sealed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Extract(bytes.NewReader(out.Bytes()), t.TempDir(), id); err != nil {
		t.Errorf("the whole file: %v", err)
	}
	if _, err := Extract(bytes.NewReader(out.Bytes()[:out.Len()-1000]), t.TempDir(), id); !errors.Is(err, ErrFormat) {
		t.Errorf("cut after the archive: %v", err)
	}
}
