package revocation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/thumbprint"
	"github.com/pkid/pkid/tokenbind"
)

// wire is the way to an issuer: it answers each request with the next of what a test has for it, and nothing else is
// between the two, so that time can be a bubble's.
type wire struct {
	answers chan *http.Response
	asked   chan http.Header
}

func newWire() *wire { return &wire{make(chan *http.Response), make(chan http.Header, 100)} }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.asked <- r.Header
	select {
	case resp := <-w.answers:
		if body, ok := resp.Body.(*pipe); ok {
			context.AfterFunc(r.Context(), func() { body.CloseWithError(context.Cause(r.Context())) })
		}
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipe struct{ *io.PipeReader }

// stream answers with a stream, and returns where to write it.
func (w *wire) stream() *io.PipeWriter {
	r, to := io.Pipe()
	w.answers <- &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {ContentType}}, Body: &pipe{r}}
	return to
}

// send writes an event; an id of "-" is none.
func send(t *testing.T, to io.Writer, id string, name string, data any) {
	t.Helper()
	var at *string
	if id != "-" {
		at = &id
	}
	if _, err := to.Write(Append(nil, name, at, data)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// begin tells a follower who knows nothing that there is nothing to know.
func begin(t *testing.T, to io.Writer, id string) {
	t.Helper()
	send(t, to, "", ResetEvent, Reset{Reason: "new"})
	send(t, to, id, HeartbeatEvent, Heartbeat{Every: 2})
}

func newFollower(t *testing.T, w http.RoundTripper, c Config) *Follower {
	t.Helper()
	c.Issuer, c.HTTPClient, c.Logger = "https://pki.example.com", &http.Client{Transport: w}, slog.New(slog.DiscardHandler)
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run runs a follower until the test, or its bubble, ends.
func run(t *testing.T, f *Follower) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

func token(id string, issued time.Time) *tokenbind.Claims {
	return &tokenbind.Claims{ID: id, ClientID: "client of " + id, IssuedAt: issued}
}

func revoked(err error) bool { _, is := errors.AsType[*RevokedError](err); return is }

func TestFollower_GoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{})
		run(t, f)
		now := time.Now()
		if err := f.CheckToken(t.Context(), token("a", now)); !errors.Is(err, ErrNotReady) || !errors.Is(err, tokenbind.ErrUnavailable) {
			t.Errorf("before the stream was heard: %v", err)
		}
		to := w.stream()
		begin(t, to, "7.aa")
		<-f.Ready()
		send(t, to, "8.bb", TokenEvent, Token{HashOf("a"), now.Add(time.Hour)})
		send(t, to, "9.cc", "of another version", struct{}{})
		to.Close()
		synctest.Wait()
		if err := f.CheckToken(t.Context(), token("a", now)); !revoked(err) {
			t.Errorf("a revoked token: %v", err)
		}
		if err := f.CheckToken(t.Context(), token("b", now)); err != nil {
			t.Errorf("another token while the stream is away: %v", err)
		}
		if st := f.Status(); st.Connected || st.Err == nil || !st.Ready {
			t.Errorf("after the end of the stream: %+v", st)
		}
		<-w.asked
		to = w.stream()
		if got := (<-w.asked).Get("Last-Event-ID"); got != "9.cc" {
			t.Errorf("it asks to go on after %q", got)
		}
		send(t, to, "9.cc", HeartbeatEvent, Heartbeat{Every: 2})
		if st := f.Status(); !st.Connected || st.Err != nil || st.Resets != 1 || st.Tokens != 1 {
			t.Errorf("with the second stream: %+v", st)
		}
	})
}

// TestFollower_IDRefused: an issuer that does not take the id is asked for everything.
func TestFollower_IDRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{})
		run(t, f)
		to := w.stream()
		begin(t, to, "7.aa")
		to.Close()
		for _, status := range []int{http.StatusServiceUnavailable, http.StatusBadRequest} {
			w.answers <- &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
		}
		to = w.stream()
		for _, want := range []string{"", "7.aa", "7.aa", ""} {
			if got := (<-w.asked).Get("Last-Event-ID"); got != want {
				t.Errorf("it asks to go on after %q, want %q", got, want)
			}
		}
		begin(t, to, "1.bb")
		if st := f.Status(); !st.Connected || st.Position != "1.bb" {
			t.Errorf("%+v", st)
		}
	})
}

// TestFollower_Silence: a stream that says nothing for three heartbeats is dead, however open its connection is, and after
// MaxStale no token is taken.
func TestFollower_Silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{MaxStale: 10 * time.Minute})
		run(t, f)
		to := w.stream()
		begin(t, to, "1.aa")
		claims := token("a", time.Now())
		for range 10 {
			time.Sleep(5 * time.Second)
			send(t, to, "1.aa", HeartbeatEvent, Heartbeat{Every: 2})
		}
		if st := f.Status(); !st.Connected {
			t.Fatalf("with heartbeats: %+v", st)
		}
		time.Sleep(6*time.Second + time.Millisecond)
		synctest.Wait()
		if st := f.Status(); st.Connected || !errors.Is(st.Err, errSilent) {
			t.Errorf("without heartbeats: %+v", st)
		}
		if err := f.CheckToken(t.Context(), claims); err != nil {
			t.Errorf("in the time of MaxStale: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if err := f.CheckToken(t.Context(), claims); !errors.Is(err, ErrStale) || !errors.Is(err, tokenbind.ErrUnavailable) {
			t.Errorf("after MaxStale: %v", err)
		}
	})
}

// TestFollower_Reset: what a reset makes void counts until all is told that counts instead, also if the stream is cut in
// between.
func TestFollower_Reset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{})
		run(t, f)
		now := time.Now()
		wants := func(when string, a, b bool) {
			t.Helper()
			for id, want := range map[string]bool{"a": a, "b": b} {
				if got := revoked(f.CheckToken(t.Context(), token(id, now))); got != want {
					t.Errorf("%s: token %s is revoked: %t", when, id, got)
				}
			}
		}
		to := w.stream()
		begin(t, to, "1.aa")
		send(t, to, "2.aa", TokenEvent, Token{HashOf("a"), now.Add(time.Hour)})
		wants("at first", true, false)
		send(t, to, "", ResetEvent, Reset{Reason: "gap"})
		send(t, to, "-", TokenEvent, Token{HashOf("b"), now.Add(time.Hour)})
		send(t, to, "4.bb", TokenEvent, Token{HashOf("c"), now.Add(time.Hour)}) // revoked meanwhile
		wants("in the middle", true, false)
		to.Close()
		to = w.stream()
		<-w.asked
		if got := (<-w.asked).Get("Last-Event-ID"); got != "" {
			t.Errorf("after half a reset it asks to go on after %q", got)
		}
		wants("after the cut", true, false)
		send(t, to, "", ResetEvent, Reset{Reason: "new"})
		send(t, to, "-", TokenEvent, Token{HashOf("b"), now.Add(time.Hour)})
		send(t, to, "5.bb", HeartbeatEvent, Heartbeat{Every: 2})
		wants("after the reset", false, true)
		to.Close()
		to = w.stream()
		send(t, to, "", ResetEvent, Reset{Reason: "gap", TokensNotBefore: now.Add(time.Second)})
		send(t, to, "6.bb", HeartbeatEvent, Heartbeat{Every: 2})
		wants("after a restore", true, true)
	})
}

func TestFollower_Clients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{})
		run(t, f)
		now := time.Now()
		to := w.stream()
		begin(t, to, "1.aa")
		of := HashOf("client of a")
		before, after := token("a", now), token("a", now.Add(2*time.Second))
		send(t, to, "2.aa", ClientEvent, Client{of, true, now.Add(time.Second), now.Add(time.Hour)})
		if !revoked(f.CheckToken(t.Context(), before)) || !revoked(f.CheckToken(t.Context(), after)) {
			t.Error("a disabled client's tokens are taken")
		}
		send(t, to, "3.aa", ClientEvent, Client{of, false, now.Add(time.Second), now.Add(time.Hour)})
		if !revoked(f.CheckToken(t.Context(), before)) {
			t.Error("a token of before the client was disabled is taken when it is enabled again")
		}
		if err := f.CheckToken(t.Context(), after); err != nil {
			t.Errorf("a later token: %v", err)
		}
		of = HashOf("client of b") // tokens have whole seconds: one of the second in which the client was disabled is dead
		send(t, to, "3.bb", ClientEvent, Client{of, false, now.Add(500 * time.Millisecond), now.Add(time.Hour)})
		if !revoked(f.CheckToken(t.Context(), token("b", now))) {
			t.Error("a token of the second in which the client was disabled is taken")
		}
		for range 30 * 65 { // it expires, and is forgotten
			time.Sleep(2 * time.Second)
			send(t, to, "4.aa", HeartbeatEvent, Heartbeat{Every: 2})
		}
		if st := f.Status(); st.Clients != 0 {
			t.Errorf("%d clients are remembered for good", st.Clients)
		}
	})
}

// TestFollower_Bounds: what does not fit is refused in other ways, or left to the CRL.
func TestFollower_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{MaxTokens: 10, MaxCertificates: 10})
		run(t, f)
		now := time.Now()
		to := w.stream()
		begin(t, to, "1.aa")
		for i := range 25 {
			send(t, to, "2.aa", TokenEvent, Token{HashOf(fmt.Sprint(i)), now.Add(time.Hour)})
			send(t, to, "3.aa", CertificateEvent, certificateEvent(byte(i+1), Revoked, now))
		}
		for i := range 25 {
			if !revoked(f.CheckToken(t.Context(), token(fmt.Sprint(i), now))) {
				t.Errorf("revoked token %d is taken", i)
			}
		}
		if err := f.CheckToken(t.Context(), token("new", now.Add(2*time.Minute))); err != nil {
			t.Errorf("a token from after all that: %v", err)
		}
		for n, want := range map[byte]bool{1: false, 15: false, 16: true, 25: true} { // the oldest are left to the CRL
			if got := revoked(f.checkThumbprint(thumbprint.Cert{n})); got != want {
				t.Errorf("certificate %d of 25 is refused: %t", n, got)
			}
		}
		later := now.Add(time.Hour) // what the issuer says is not taken back by what there is no room for
		send(t, to, "", ResetEvent, Reset{Reason: "gap", TokensNotBefore: later})
		for i := range 25 {
			send(t, to, "-", TokenEvent, Token{HashOf(fmt.Sprint(i)), now.Add(time.Hour)})
		}
		send(t, to, "4.aa", HeartbeatEvent, Heartbeat{2})
		if !revoked(f.CheckToken(t.Context(), token("new", later.Add(-time.Second)))) {
			t.Error("a token of before the instant that the issuer told is taken")
		}
		if st := f.Status(); st.Tokens > 10 || st.Certificates > 10 || st.Forgot != 15 {
			t.Errorf("%+v", st)
		}
	})
}

func certificateEvent(n byte, status string, now time.Time) Certificate {
	return Certificate{thumbprint.Cert{n}, "0a0b", fmt.Sprintf("%02x", n), status, now.Add(24 * time.Hour)}
}

// TestFollower_Hold: a certificate that is released is not refused by the stream any more, and a hold does not outlast a
// reset by which its release may have been missed.
func TestFollower_Hold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{})
		run(t, f)
		now := time.Now()
		to := w.stream()
		begin(t, to, "1.aa")
		refused := func(n byte) bool { return revoked(f.checkThumbprint(thumbprint.Cert{n})) }
		for n := range byte(3) {
			send(t, to, "2.aa", CertificateEvent, certificateEvent(n+1, Held, now))
		}
		send(t, to, "3.aa", CertificateEvent, certificateEvent(1, Good, now))
		send(t, to, "4.aa", CertificateEvent, certificateEvent(2, Revoked, now))
		if refused(1) || !refused(2) || !refused(3) {
			t.Errorf("refused: %t %t %t", refused(1), refused(2), refused(3))
		}
		bound := &tokenbind.Claims{IssuedAt: now, Confirmation: tokenbind.Confirmation{Cert: thumbprint.Cert{3}, Key: thumbprint.Key{1}}}
		if !revoked(f.CheckToken(t.Context(), bound)) {
			t.Error("a token that is bound to a revoked certificate, and to a key, is taken")
		}
		send(t, to, "", ResetEvent, Reset{Reason: "gap"})
		for range 40 {
			time.Sleep(2 * time.Second)
			send(t, to, "9.aa", HeartbeatEvent, Heartbeat{Every: 2})
		}
		if refused(1) || !refused(2) || refused(3) {
			t.Errorf("a minute after the reset, refused: %t %t %t", refused(1), refused(2), refused(3))
		}
		if err := f.Check(t.Context(), &x509.Certificate{Raw: []byte("none")}); !errors.Is(err, tokenbind.ErrUnavailable) {
			t.Errorf("without a Checker: %v", err)
		}
	})
}

// TestFollower_Hostile: whatever answers in the issuer's place, nothing of it counts, and none of it is read without bound.
func TestFollower_Hostile(t *testing.T) {
	endless := strings.Repeat("x", 1<<20)
	good := string(Append(nil, ResetEvent, new(""), Reset{})) + string(Append(nil, HeartbeatEvent, new("1.aa"), Heartbeat{2}))
	for name, answer := range map[string]func(http.ResponseWriter){
		"a redirect":            with("Location", "/elsewhere", http.StatusFound, ""),
		"no stream":             with("Location", "", http.StatusNotFound, ""),
		"too many":              with("Retry-After", "1", http.StatusServiceUnavailable, ""),
		"another content type":  with("Content-Type", "text/html", http.StatusOK, good),
		"no content type":       with("Content-Type", "", http.StatusOK, good),
		"an endless line":       says("data: " + endless),
		"an endless event":      says(strings.Repeat("data: {}\n", 1<<16)),
		"endless comments":      says(strings.Repeat(":\n", 1<<20)),
		"an endless id":         says("id: " + strings.Repeat("1", 200) + "\n" + good),
		"an id with a line end": says("id: 1\r2\n" + good),
		"no JSON":               says("event: reset\ndata: {\n\n" + good),
		"two values":            says("event: reset\ndata: {}{}\n\n" + good),
		"another status":        says("event: certificate\ndata: {\"x5t#S256\":\"" + thumbprint.Cert{1}.String() + "\",\"serial\":\"01\",\"status\":\"fine\"}\n\n" + good),
		"no thumbprint":         says("event: certificate\ndata: {\"serial\":\"01\",\"status\":\"good\"}\n\n" + good),
		"an endless serial":     says("event: certificate\ndata: {\"x5t#S256\":\"" + thumbprint.Cert{1}.String() + "\",\"serial\":\"" + strings.Repeat("1", 99) + "\",\"status\":\"good\"}\n\n" + good),
		"a short hash":          says("event: token\ndata: {\"token\":\"AAAA\"}\n\n" + good),
		"no reset":              says(string(Append(nil, HeartbeatEvent, new("1.aa"), Heartbeat{2}))),
		"half of an event":      says("event: heartbeat\ndata: {}"),
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != Path {
					t.Errorf("asked for %s", r.URL)
				}
				w.Header().Set("Content-Type", ContentType)
				answer(w)
			}))
			defer s.Close()
			f, err := New(Config{Issuer: s.URL, InsecureIssuerHTTP: true, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			heard, err := f.follow(t.Context())
			if heard || err == nil {
				t.Errorf("heard: %t, %v", heard, err)
			}
			if st := f.Status(); st.Ready || st.Connected || st.Certificates+st.Clients+st.Tokens > 0 || st.Position != "" {
				t.Errorf("%+v", st)
			}
		})
	}
}

func with(header, value string, status int, text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set(header, value)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func says(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { _, _ = io.WriteString(w, text) }
}

// TestFollower_AtOnce has everything used at once, for the race detector.
func TestFollower_AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := newFollower(t, w, Config{MaxTokens: 50, MaxCertificates: 50})
		run(t, f)
		now := time.Now()
		to := w.stream()
		begin(t, to, "1.aa")
		var using sync.WaitGroup
		for range 8 {
			using.Go(func() {
				for i := range 200 {
					_ = f.CheckToken(t.Context(), token(fmt.Sprint(i), now))
					_ = f.Check(t.Context(), &x509.Certificate{Raw: []byte{byte(i)}})
					f.WriteMetrics(io.Discard)
				}
			})
		}
		for i := range 200 {
			send(t, to, fmt.Sprintf("%d.aa", i), TokenEvent, Token{HashOf(fmt.Sprint(i)), now.Add(time.Hour)})
			send(t, to, fmt.Sprintf("%d.aa", i), CertificateEvent, certificateEvent(byte(i+1), Held, now))
			send(t, to, fmt.Sprintf("%d.aa", i), HeartbeatEvent, Heartbeat{2})
		}
		using.Wait()
		var text strings.Builder
		f.WriteMetrics(&text)
		if !strings.Contains(text.String(), "\npkid_follower_connected 1\n") {
			t.Errorf("metrics:\n%s", text.String())
		}
	})
}

func TestNew_Refuses(t *testing.T) {
	for _, c := range []Config{
		{},
		{Issuer: "http://pki.example.com"},
		{Issuer: "https://"},
		{Issuer: "https://pki.example.com?x=1"},
		{Issuer: "https://a:b@pki.example.com"},
		{Issuer: "https://pki.example.com", MaxStale: -1},
		{Issuer: "https://pki.example.com", MaxTokens: -1},
		{Issuer: "ftp://pki.example.com", InsecureIssuerHTTP: true},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// FuzzReader: whatever comes is read within bounds, and what Append writes is read as it was.
func FuzzReader(f *testing.F) {
	f.Add("event: reset\nid:\ndata: {}\n\n")
	f.Add(":\r\n\r\ndata\ndata: x\ndata:y\nid: 12\n\n")
	f.Add("id: \x00\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := newReader(strings.NewReader(text))
		for {
			m, err := r.next()
			if err != nil {
				break
			}
			if len(m.data) > maxData || len(m.id) > maxID || len(m.name) > maxLine {
				t.Fatalf("an event of %d octets, an id of %d", len(m.data), len(m.id))
			}
			_, _ = decode[Certificate](m)
			_, _ = decode[Client](m)
		}
		want := Token{HashOf(text), time.Unix(1, 0).UTC()}
		m, err := newReader(strings.NewReader(string(Append(nil, TokenEvent, new("1.aa"), want)))).next()
		if err != nil || m.name != TokenEvent || m.id != "1.aa" || !m.hasI {
			t.Fatalf("%+v, %v", m, err)
		}
		if got, err := decode[Token](m); got != want || err != nil {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}
