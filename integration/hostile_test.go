package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
)

// hostileWithin is how long any answer may take. An honest one takes milliseconds; a machine under test may be busy.
const hostileWithin = 15 * time.Second

// maxHostileMemory is what a daemon may hold after all of the corpus, in octets.
const maxHostileMemory = 256 << 20

// TestHostileInputs sends every request of testdata/hostile to a real daemon, as it is written there, and wants the
// answer that is written beside it: never one of 5xx, and never none. testdata/hostile/README.md says how to write one.
func TestHostileInputs(t *testing.T) {
	files, err := filepath.Glob("testdata/hostile/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("the corpus has %d files, %v", len(files), err)
	}
	s := pkitest.Start(t, pkitest.Options{Edit: withoutNonces})
	h := newHostile(t, s)
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(archive.Files) == 0 {
			t.Errorf("%s is empty", file)
		}
		for _, input := range archive.Files {
			name, rest, ok := strings.Cut(input.Name, " | ")
			listener, want, ok2 := strings.Cut(rest, " | ")
			if !ok || !ok2 {
				t.Fatalf("%s: %q is not NAME | LISTENER | ANSWER", file, input.Name)
			}
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name, func(t *testing.T) {
				raw := h.render(t, string(input.Data))
				if got := h.send(t, listener, raw); got != want {
					t.Errorf("answered %q, want %q", got, want)
				}
			})
		}
	}
	h.unharmed(t)
}

// hostile sends what the corpus says to a daemon.
type hostile struct {
	s        *pkitest.Server
	operator *client.Identity
	funcs    template.FuncMap
}

func newHostile(t *testing.T, s *pkitest.Server) *hostile {
	t.Helper()
	operator, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	return &hostile{s, operator, materials(t, s)}
}

// render makes the octets of a request: the template's functions run, the lines of its head end with CRLF, and
// "Content-Length: auto" gets the body's. What comes after the first empty line is the body, without its last newline.
func (h *hostile) render(t *testing.T, text string) []byte {
	t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	run := func(text string) string {
		tmpl, err := template.New("request").Funcs(h.funcs).Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := tmpl.Execute(&b, map[string]string{"Public": host(h.s.URLs.Public), "MTLS": host(h.s.URLs.MTLS)}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	body = run(strings.TrimSuffix(body, "\n"))
	head = strings.ReplaceAll(run(strings.TrimSuffix(head, "\n")), "Content-Length: auto", "Content-Length: "+strconv.Itoa(len(body)))
	return []byte(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body)
}

func host(origin string) string { return origin[strings.Index(origin, "//")+2:] }

// send writes raw octets to a listener, and returns the answer in the words of the corpus.
func (h *hostile) send(t *testing.T, listener string, raw []byte) string {
	t.Helper()
	conn := h.dial(t, listener)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(hostileWithin))
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = conn.Write(raw) // refused before it is whole: the answer tells
	}()
	defer func() { conn.Close(); <-written }()
	method, _, _ := bytes.Cut(raw, []byte(" "))
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: string(method)})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "none"
	case err != nil:
		return "cut"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Errorf("reading the answer: %v", err)
	}
	return describeAnswer(resp, body)
}

func (h *hostile) dial(t *testing.T, listener string) net.Conn {
	t.Helper()
	addr, conf := host(h.s.URLs.Status), (*tls.Config)(nil)
	switch listener {
	case "public":
		addr, conf = host(h.s.URLs.Public), h.operator.TLSConfig()
		conf.GetClientCertificate = nil
	case "mtls":
		addr, conf = host(h.s.URLs.MTLS), h.operator.TLSConfig()
		conf.GetClientCertificate = nil
	case "operator":
		addr, conf = host(h.s.URLs.MTLS), h.operator.TLSConfig()
	case "ops":
		addr = h.s.Config.Listen.Ops
	case "status":
	default:
		t.Fatalf("no listener %q", listener)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if conf != nil {
		conf.NextProtos, conf.ServerName = []string{"http/1.1"}, "localhost"
		return tls.Client(conn, conf)
	}
	return conn
}

// describeAnswer says what the corpus says: the status, and the type of a problem, the code of an OAuth error or
// neither.
func describeAnswer(resp *http.Response, body []byte) string {
	status := strconv.Itoa(resp.StatusCode)
	var said struct{ Type, Error string }
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/") && json.Unmarshal(body, &said) == nil && resp.StatusCode >= 400 {
		if kind, ok := strings.CutPrefix(said.Type, "urn:pkid:problem:"); ok {
			return status + " " + kind
		}
		return strings.TrimSpace(status + " " + said.Error)
	}
	return status
}

// unharmed wants a daemon that lives, took no wrong turn inside, and holds no more memory than it may.
func (h *hostile) unharmed(t *testing.T) {
	t.Helper()
	get := func(path string) string {
		resp, err := http.Get("http://" + h.s.Config.Listen.Ops + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return string(pkitest.ReadAll(t, resp.Body))
	}
	if ready := get("/readyz"); !strings.Contains(ready, `"ready":true`) {
		t.Errorf("not ready: %s", ready)
	}
	metrics := get("/metrics")
	if errs := regexp.MustCompile(`(?m)^pkid_http_requests_total\{.*code="5xx"\}.*$`).FindAllString(metrics, -1); len(errs) > 0 {
		t.Errorf("internal errors: %s", errs)
	}
	held := regexp.MustCompile(`(?m)^go_memory_bytes (\d+)$`).FindStringSubmatch(metrics)
	if held == nil {
		t.Fatal("the metrics lack go_memory_bytes")
	}
	if n, err := strconv.Atoi(held[1]); err != nil || n > maxHostileMemory {
		t.Errorf("%s octets of memory are held, %v", held[1], err)
	}
	op := h.s.Operator(t)
	if _, err := op.Invite(t.Context(), client.InvitationRequest{ClientID: "after-all"}); err != nil {
		t.Errorf("inviting after all of it: %v", err)
	}
}

// A request that says its length in two ways, and has another one hidden in what one of them calls its body, gets one
// answer, and then the connection is closed (RFC 9112 section 6.1).
func TestHiddenRequestIsNotAnswered(t *testing.T) {
	h := &hostile{s: pkitest.Start(t, pkitest.Options{})}
	var err error
	if h.operator, err = client.Load(h.s.Home); err != nil {
		t.Fatal(err)
	}
	conn := h.dial(t, "public")
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(hostileWithin))
	const hidden = "GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n"
	fmt.Fprintf(conn, "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden)
	all := pkitest.ReadAll(t, conn)
	if n := bytes.Count(all, []byte("HTTP/1.1 ")); n != 1 {
		t.Errorf("%d answers: %s", n, all)
	}
}

// withoutNonces has a proof judged for what is wrong with it, before anybody asks for a nonce.
func withoutNonces(c *config.Config) { c.Tokens.RequireDPoPNonce = false }

// TestHostilePrint is for adding to the corpus: HOSTILE=print go test -run HostilePrint -v prints what each is answered.
func TestHostilePrint(t *testing.T) {
	if os.Getenv("HOSTILE") != "print" {
		t.Skip("prints the corpus' answers with HOSTILE=print")
	}
	h := newHostile(t, pkitest.Start(t, pkitest.Options{Edit: withoutNonces}))
	files, err := filepath.Glob("testdata/hostile/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, input := range archive.Files {
			parts := strings.Split(input.Name, " | ")
			got := h.send(t, parts[1], h.render(t, string(input.Data)))
			mark := " "
			if got != parts[2] {
				mark = "!"
			}
			fmt.Printf("%s %-20s %-45s want %-28s got %s\n", mark, filepath.Base(file), parts[0], parts[2], got)
		}
	}
}
