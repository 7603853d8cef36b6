package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/internal/pgtest"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func TestDatabase(t *testing.T) {
	var names [2]string
	for i := range names { // the second is the first, emptied
		t.Run("", func(t *testing.T) {
			c := connect(t, pgtest.Database(t))
			var objects int
			var syncs, super string
			err := c.QueryRow(t.Context(), `SELECT current_database(), current_setting('fsync'), current_setting('is_superuser'),
				(SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^(pg_|information_schema)')`,
			).Scan(&names[i], &syncs, &super, &objects)
			if err != nil || syncs != "on" || super != "off" || objects != 0 {
				t.Fatalf("fsync %q, superuser %q, %d objects, %v", syncs, super, objects, err)
			}
			var less bool
			if err := c.QueryRow(t.Context(), `SELECT 'a' < 'B'`).Scan(&less); err != nil || !less {
				t.Errorf("text sorts as octets do: %v", err)
			}
			for _, sql := range []string{"CREATE TABLE x (y int)", "CREATE SCHEMA z CREATE TABLE x (y int)"} {
				if _, err := c.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if names[0] != names[1] {
		t.Errorf("the databases are %q", names)
	}
}

// TestStopAndStart: what was committed is there after an immediate stop, and the connections are not.
func TestStopAndStart(t *testing.T) {
	s := pgtest.Start(t)
	url := s.Database(t)
	c := connect(t, url)
	if _, err := c.Exec(t.Context(), "CREATE TABLE kept (n int)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the connection outlived the server")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, url).Exec(t.Context(), "SELECT * FROM kept"); err != nil {
		t.Error(err)
	}
}

// TestServerEndsWithItsProcess kills a process that has a server, and then looks for what it left.
func TestServerEndsWithItsProcess(t *testing.T) {
	const child = "PGTEST_CHILD"
	if os.Getenv(child) != "" {
		s := pgtest.Start(t)
		fmt.Println("started", s.Dir(), s.Addr())
		select {} // until it is killed
	}
	pgtest.Database(t) // or skip
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir, addr string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "started "); ok {
			dir, addr, _ = strings.Cut(rest, " ")
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%s is still there: %v", dir, err)
		}
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the server is still there")
	}
}

func TestProxy(t *testing.T) {
	p := pgtest.StartProxy(t, echo(t))
	c := dial(t, p.Addr())
	say(t, c, "one")
	hear(t, c, "one")

	p.Stall()
	say(t, c, "two")
	late := dial(t, p.Addr()) // the system takes it for the proxy
	say(t, late, "three")
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a stalled proxy let %d octets through, %v", n, err)
	}
	p.Resume()
	hear(t, c, "two")
	hear(t, late, "three")

	p.Cut()
	for _, c := range []net.Conn{c, late, dial(t, p.Addr())} {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a cut connection read %d octets, %v", n, err)
		}
	}
	if n := p.Refused(); n != 1 {
		t.Errorf("%d connections were refused, want 1", n)
	}
	p.Resume()
	c = dial(t, p.Addr())
	say(t, c, "four")
	hear(t, c, "four")
}

// TestProxyCutsWhatStalls: a cut frees who waits for a stalled connection, as does closing the proxy.
func TestProxyCutsWhatStalls(t *testing.T) {
	p := pgtest.StartProxy(t, echo(t))
	c := dial(t, p.Addr())
	say(t, c, "one")
	hear(t, c, "one")
	p.Stall()
	say(t, c, "two")
	p.Cut()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v", err)
	}
	p.Resume()
	p.Stall()
	dial(t, p.Addr()) // nobody serves it before the proxy closes
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := c.Read(got[n:])
		if n += m; err != nil {
			t.Fatalf("heard %q, %v; want %q", got[:n], err, want)
		}
	}
	if string(got) != want {
		t.Fatalf("heard %q, want %q", got, want)
	}
}

// echo listens, and sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	return l.Addr().String()
}
