package crlfile

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeHAProxy answers commands as it is told. An answer that is missing closes the connection without a word.
type fakeHAProxy struct {
	answers map[string]string // by the first word
	bufsize int
	heard   []string // commands without what is sent with them; to be read when all are answered
}

func (h *fakeHAProxy) start(t *testing.T) (socket string) {
	dir, err := os.MkdirTemp("", "crl-") //nolint:usetesting // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.serve(c)
		}
	}()
	return socket
}

func (h *fakeHAProxy) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(io.LimitReader(c, int64(h.bufsize)))
	line, err := r.ReadString('\n')
	for payload := strings.HasSuffix(line, "<<\n"); err == nil && payload; {
		var next string
		next, err = r.ReadString('\n')
		payload = next != "\n"
	}
	if err != nil {
		return // more than fits
	}
	h.heard = append(h.heard, strings.TrimSpace(line))
	word, _, _ := strings.Cut(line, " ")
	io.WriteString(c, h.answers[word])
}

func TestHAProxy(t *testing.T) {
	const created, done = "transaction created for CRL /crl.pem!\n\n", "Committing /crl.pem.\nSuccess!\n\n"
	const set, commit, abort = "set ssl crl-file /crl.pem <<", "commit ssl crl-file /crl.pem", "abort ssl crl-file /crl.pem"
	for _, tt := range []struct {
		name    string
		answers map[string]string
		size    int
		want    string // of the error
		heard   []string
	}{
		{"it does", map[string]string{"set": created, "commit": done}, 100, "", []string{set, commit}},
		{"it has one half done", map[string]string{"set": "transaction updated for CRL /crl.pem!\n\n", "commit": "Committing /crl.pem..\n..\nSuccess!\n\n"}, 100, "", []string{set, commit}},
		{"another file", map[string]string{"set": "Can't replace a CRL file which is not referenced by the configuration!\n\n"}, 100, "the name must be as HAProxy's configuration has it", []string{set}},
		{"no CRL", map[string]string{"set": "Invalid payload\nCan't update /crl.pem!\n\n"}, 100, "Invalid payload; Can't update", []string{set}},
		{"too low a level", map[string]string{"set": "Permission denied\n\n"}, 100, "level admin", []string{set}},
		{"too old", map[string]string{"set": "Unknown command, but maybe one of the following ones is a better match:\n  set ssl cert\n"}, 100, "HAProxy 2.5", []string{set}},
		{"too long, without a word", map[string]string{"set": created}, 20000, "tune.bufsize", nil},
		{"too long, with a word", map[string]string{"set": "The command is too big for the buffer size. Please change tune.bufsize in the configuration to use a bigger command.\n"}, 100, "tune.bufsize", []string{set}},
		{"silence", nil, 100, "without an answer", []string{set}},
		{"the commit fails", map[string]string{"set": created, "commit": "Committing /crl.pem.\nunable to allocate memory\nFailed!\n", "abort": "Transaction aborted for certificate '/crl.pem'!\n"}, 100, "unable to allocate memory", []string{set, commit, abort}},
		{"it ends before the commit", map[string]string{"set": created, "abort": "No ongoing transaction!\n"}, 100, "without an answer", []string{set, commit, abort}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "crl.pem")
			if err := os.WriteFile(file, []byte(strings.Repeat("x", tt.size)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			fake := &fakeHAProxy{answers: tt.answers, bufsize: 16384}
			h, err := NewHAProxy(fake.start(t), "/crl.pem", file)
			if err != nil {
				t.Fatal(err)
			}
			err = h.Replace(t.Context())
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if got := strings.Join(fake.heard, "\n"); got != strings.Join(tt.heard, "\n") {
				t.Errorf("it was told\n%s\nwant\n%s", got, strings.Join(tt.heard, "\n"))
			}
			if strings.Contains(tt.name, "too long") && !errors.Is(err, ErrHAProxyTooLong) {
				t.Errorf("%v is no ErrHAProxyTooLong", err)
			}
		})
	}
}

// TestHAProxyIsToldOneCommand: what stands behind an empty line in the file would be another, by whoever may write the file.
func TestHAProxyIsToldOneCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "crl.pem")
	if err := os.WriteFile(file, []byte("list\n\nshutdown sessions server a/b\r\n\r\nlist\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir((&fakeHAProxy{}).start(t)), "l")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var all strings.Builder
		for r := bufio.NewReader(c); !strings.HasSuffix(all.String(), "\n\n"); {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			all.WriteString(line)
		}
		heard <- all.String()
		io.WriteString(c, strings.Repeat("no ", 1000)+"\n")
	}()
	h := &HAProxy{Socket: socket, Name: "/crl.pem", File: file}
	if err := h.Replace(t.Context()); err == nil || len(err.Error()) > 2*maxRefusal {
		t.Errorf("the refusal: %v", err)
	}
	if got, want := <-heard, "set ssl crl-file /crl.pem <<\nlist\nshutdown sessions server a/b\nlist\n\n"; got != want {
		t.Errorf("it heard %q, want %q", got, want)
	}
}

func TestHAProxyThatHangs(t *testing.T) {
	socket := (&fakeHAProxy{}).start(t)
	l, err := net.Listen("unix", socket+"2") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "crl.pem")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	h := &HAProxy{Socket: socket + "2", Name: "/crl.pem", File: file}
	t.Run("in the middle", func(t *testing.T) { hangsAtCommit(t, socket+"4", file) })
	if err := h.Replace(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it hangs: %v", err)
	}
	h.Socket += "3"
	if err := h.Replace(t.Context()); err == nil || !strings.Contains(err.Error(), "connecting to HAProxy") {
		t.Errorf("it is not there: %v", err)
	}
}

// hangsAtCommit: what is half done is undone, though the time is over.
func hangsAtCommit(t *testing.T, socket, file string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string, 3)
	go func() {
		defer close(heard)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			word, _, _ := strings.Cut(line, " ")
			heard <- word
			switch word {
			case "set":
				io.WriteString(c, "transaction created\n")
			case "commit":
				cancel()
				defer c.Close()
				continue
			}
			c.Close()
		}
	}()
	if err := (&HAProxy{Socket: socket, Name: "/crl.pem", File: file}).Replace(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("it hangs: %v", err)
	}
	l.Close()
	var all []string
	for word := range heard {
		all = append(all, word)
	}
	if got := strings.Join(all, " "); got != "set commit abort" {
		t.Errorf("it heard %s", got)
	}
}

func TestHAProxyNames(t *testing.T) {
	for _, name := range []string{"", "a b", "a;b", "a\nb", `a\b`, "a'b", `a"b`, "a#b", "a\x7f"} {
		if _, err := NewHAProxy("/s", name, "/crl.pem"); err == nil {
			t.Errorf("%q can be said", name)
		}
	}
}
