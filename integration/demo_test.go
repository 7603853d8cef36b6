package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkid/pkid/internal/pkitest"
)

// The demo exits 0 only if each of its steps came out as told, so running it is a test of the whole story:
// once against a daemon that runs, once with a daemon of its own.
func TestDemo(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	pkictl := pkitest.Build(t, "pkictl")
	t.Run("running daemon", func(t *testing.T) {
		runDemo(t, pkictl, "PKICTL_HOME="+s.Home)
	})
	t.Run("temporary daemon", func(t *testing.T) {
		pkid := pkitest.Build(t, "pkid")
		runDemo(t, pkictl, "PATH="+filepath.Dir(pkid)+string(os.PathListSeparator)+os.Getenv("PATH"), "PKICTL_HOME="+t.TempDir())
	})
}

func runDemo(t *testing.T, pkictl string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pkictl, "demo")
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("pkictl demo: %v\n%s\n%s", err, out.String(), errs.String())
	}
	for _, want := range []string{"401", "invalid_token", "invalid_dpop_proof", "invalid_client", `"active": false`, "Every step came out as told"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the story does not tell of %s", want)
		}
	}
}
