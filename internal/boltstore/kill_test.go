package boltstore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/pkid/pkid/ca"
)

// childEnv names the store that a child process of TestKilledWriter writes to.
const childEnv = "PKID_BOLTSTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled inserts from many goroutines, and prints each serial once it was acknowledged.
func writeUntilKilled(path string) error {
	s, err := Open(path, Options{Create: true})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				r := newRecord("alice")
				if err := s.Insert(context.Background(), r, nil, event(r.Serial.String())); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println(r.Serial)
			}
		})
	}
	wg.Wait()
	return s.Close()
}

// TestKilledWriter kills a writing process again and again. What it acknowledged must be there, and the file
// must be sound.
func TestKilledWriter(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the file stays locked for a moment after a process was killed")
	}
	path := filepath.Join(t.TempDir(), "pkid.db")
	var acknowledged []ca.Serial
	for round := range 4 {
		acknowledged = append(acknowledged, killAfter(t, path, 60+37*round)...)
		checkSound(t, path, acknowledged)
	}
}

// killAfter runs a child until it acknowledged n inserts, kills it, and returns all that it acknowledged.
func killAfter(t *testing.T, path string, n int) []ca.Serial {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var serials []ca.Serial
	for lines := bufio.NewScanner(out); lines.Scan(); {
		serial, err := ca.ParseSerial(lines.Text())
		if err != nil {
			break // the line that the kill cut
		}
		if serials = append(serials, serial); len(serials) == n {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait() // it was killed
	if len(serials) < n {
		t.Fatalf("the child ended after %d inserts, before it was killed", len(serials))
	}
	return serials
}

func checkSound(t *testing.T, path string, acknowledged []ca.Serial) {
	t.Helper()
	s := openTest(t, path)
	for _, serial := range acknowledged {
		rec, err := s.Certificate(t.Context(), serial)
		if err != nil {
			t.Errorf("an acknowledged certificate is lost: %v", err)
			continue
		}
		if page, err := s.List(t.Context(), ca.Query{Thumbprint: rec.Thumbprint, Limit: 2}); err != nil || len(page.Records) != 1 {
			t.Errorf("an acknowledged certificate is not found by its thumbprint: %v", err)
		}
	}
	kept := 0
	err := s.db.View(func(b *bolt.Tx) error {
		kept = b.Bucket(certificates.name).Stats().KeyN
		for err := range b.Check() {
			t.Errorf("the file is not sound: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checkChain(t, s, kept)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
