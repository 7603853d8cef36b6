package pgtest

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrMissing: there is no PostgreSQL to run.
var ErrMissing = errors.New("postgresql is not installed: `make deps` installs it on Debian as root")

// programs are those of a PostgreSQL server, and who is to run them.
type programs struct {
	initdb, postgres string
	account          account
}

// find looks for a server in PATH, where pg_config says, and where Debian puts it, the newest version first.
func find() (programs, error) {
	for _, dir := range candidates() {
		p := programs{initdb: filepath.Join(dir, "initdb"), postgres: filepath.Join(dir, "postgres")}
		if isProgram(p.initdb) && isProgram(p.postgres) {
			var err error
			p.account, err = serverAccount()
			return p, err
		}
	}
	return programs{}, ErrMissing
}

func candidates() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(context.Background(), "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is a good one
	slices.SortFunc(debian, func(a, b string) int { return version(b) - version(a) })
	return append(dirs, debian...)
}

// version returns the major version in a path of Debian's.
func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 0 is older than any
	return n
}

func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}
