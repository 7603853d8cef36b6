package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	role      = "pkid" // whose the tests' databases are
	// patience is how long a server may take to start, recovery included, on a machine that does much else.
	patience = time.Minute
)

// Server is a PostgreSQL on 127.0.0.1 and on a socket in a temporary directory.
type Server struct {
	dir      string // all that the server has; it is gone when the process is
	programs programs
	password string // of both roles
	port     int
	janitor  *exec.Cmd
	leash    io.Closer // the janitor waits for its end

	mu     sync.Mutex    // guards all below
	exited chan struct{} // closed when the postgres that was started last has ended; nil before the first
	server *os.Process   // that one
	free   []string      // databases that are empty and nobody's
	made   int           // how many there are
}

// NewServer starts a server with no databases. ErrMissing: PostgreSQL is not installed.
func NewServer() (_ *Server, err error) {
	p, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pkid-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, programs: p, password: rand.Text()}
	if err := s.hireJanitor(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("PostgreSQL for tests: %w", errors.Join(err, s.Close()))
		}
	}()
	if err := s.initialise(); err != nil {
		return nil, err
	}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// CREATE ROLE takes no parameters; the password has letters and digits only.
	if err := s.run(ctx, "postgres", "CREATE ROLE "+role+" LOGIN PASSWORD '"+s.password+"'"); err != nil {
		return nil, err
	}
	return s, nil
}

// janitorScript ends the server and removes its files as soon as its input ends: when Close says so, or the process of
// the tests ended without, be it by SIGKILL.
const janitorScript = `
cat >/dev/null
if pid=$(head -n 1 "$1/data/postmaster.pid"); then
	kill -QUIT "$pid"
	tries=0
	while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do # which its last act removes
		sleep 0.1
		tries=$((tries + 1))
	done
fi
rm -rf "$1"
`

func (s *Server) hireJanitor() error {
	if err := s.programs.account.own(s.dir); err != nil {
		return err
	}
	s.janitor = s.command("/bin/sh", "-c", janitorScript, "janitor", s.dir)
	s.janitor.Dir = "/" // it must not stand in what it removes
	var err error
	if s.leash, err = s.janitor.StdinPipe(); err != nil {
		return err
	}
	return s.janitor.Start()
}

// command prepares a program that runs as the server's account, in a process group of its own: an interrupt from the
// terminal is for the tests, which end it in their way.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), program, args...) //nolint:gosec // G204: PostgreSQL's own programs
	cmd.Dir = s.dir
	s.programs.account.become(cmd)
	return cmd
}

// Dir returns the directory with all that the server has, its socket among it.
func (s *Server) Dir() string { return s.dir }

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// initialise makes the server's directory. Databases sort by the rules of English, as most that are in service do, so
// that a query which relies on the order of octets is found out.
func (s *Server) initialise() error {
	file := filepath.Join(s.dir, "password")
	if err := os.WriteFile(file, []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := s.programs.account.own(file); err != nil {
		return err
	}
	out, err := s.command(s.programs.initdb, "-D", s.data(), "-U", superuser, "--pwfile", file, "-A", "scram-sha-256",
		"-E", "UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US",
		"--no-sync", "--no-instructions").CombinedOutput() // what it makes is worth nothing after a power cut
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// Start starts the server again after Stop, at the same address, and waits until it has recovered.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command(s.programs.postgres, "-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-k", s.dir,
		"-c", "max_connections=200", "-c", "shared_buffers=64MB")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.server, s.exited = cmd.Process, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended stands in its log
	}()
	return s.awaitReady(exited)
}

func (s *Server) awaitReady(exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := s.run(ctx, "postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("the server ended: %s", s.endOfLog())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w: %s", err, s.endOfLog())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// running reports whether there is a server. The caller holds mu.
func (s *Server) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return s.exited != nil
	}
}

// Stop stops the server at once, as `pg_ctl stop -m immediate` does: connections break, and the next start recovers
// from the log, as after a power cut.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil
	}
	if err := s.server.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the server did not stop: %s", s.endOfLog())
	}
}

// Close stops the server and removes its files.
func (s *Server) Close() error {
	return errors.Join(s.leash.Close(), s.janitor.Wait())
}

// Addr returns the address that the server listens on, for a Proxy.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *Server) url(user, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, s.password, s.Addr(), database)
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

func (s *Server) endOfLog() []byte {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return []byte(err.Error())
	}
	const some = 2000
	return bytes.TrimSpace(text[max(0, len(text)-some):])
}

// run executes statements as the superuser, outside any transaction.
func (s *Server) run(ctx context.Context, database string, statements ...string) error {
	c, err := pgx.Connect(ctx, s.url(superuser, database))
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // what was to be done is done
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// take returns a database that nobody uses. Dropping one makes the server write and sync all that it has in memory,
// which takes longer than most tests; so they are emptied instead, and used again.
func (s *Server) take() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		name := s.free[n-1]
		s.free = s.free[:n-1]
		return name, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.made++
	name := fmt.Sprintf("pkid_%d", s.made)
	return name, s.run(ctx, "postgres", "CREATE DATABASE "+name+" OWNER "+role)
}

// emptying leaves a database as CREATE DATABASE made it.
var emptying = []string{
	`SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
	`DO $$
DECLARE name text;
BEGIN
	FOR name IN SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' LOOP
		EXECUTE format('DROP SCHEMA %I CASCADE', name);
	END LOOP;
	PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
END $$`,
	`CREATE SCHEMA public AUTHORIZATION pg_database_owner`,
	`GRANT USAGE ON SCHEMA public TO PUBLIC`,
}

func (s *Server) giveBack(database string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil // the test stopped it; another database is made for the next
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.run(ctx, database, emptying...); err != nil {
		return err
	}
	s.free = append(s.free, database)
	return nil
}

// freePort draws a port that nobody listens on, from below those that the system gives to outgoing connections: while
// the server is stopped such a connection could take its port, even one that somebody who tries to reach it makes, and
// thus reaches itself.
func freePort() (int, error) {
	const lowest, count, tries = 20_000, 10_000, 50
	for range tries {
		n, err := rand.Int(rand.Reader, big.NewInt(count))
		if err != nil {
			return 0, err
		}
		port := lowest + int(n.Int64())
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port among %d from %d on", tries, lowest)
}
