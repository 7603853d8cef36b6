package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/tokenbind"
)

// resourceServer is what the stolen tokens are tried on: a Go server protected as any other would be, and
// beside it a path that takes bearer tokens.
type resourceServer struct {
	url     string // its audience too
	srv     *http.Server
	cancel  context.CancelFunc
	running sync.WaitGroup
}

const (
	guarded  = "/orders"   // takes bound tokens only
	careless = "/careless" // takes any token
)

func openResourceServer(ctx context.Context, ca, id *client.Identity) (*resourceServer, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	rs := &resourceServer{url: "https://" + l.Addr().String()}
	conf := tokenbind.Config{
		Issuer: ca.Info().URLs.Public, Audience: rs.url, HTTPClient: trusting(ca.Roots()),
		Replay: firstProofs{tokenbind.NewMemoryReplay(10_000, nil)},
		Logger: slog.New(slog.DiscardHandler), // the refusals are the story
	}
	checker, err := statusChecker(ctx, ca)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	for path, c := range map[string]tokenbind.Config{
		guarded:  with(conf, func(c *tokenbind.Config) { c.Revocation = checker }),
		careless: with(conf, func(c *tokenbind.Config) { c.AllowBearer = true }),
	} {
		verifier, err := tokenbind.NewVerifier(c)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		mux.Handle(path, verifier.Handler(http.HandlerFunc(welcome)))
	}
	rs.srv = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			CipherSuites: tokenbind.CipherSuites(),
			Certificates: []tls.Certificate{*id.Certificate()},
			ClientAuth:   tls.RequestClientCert, // possession is what counts, RFC 8705 section 6.2
		},
	}
	ctx, rs.cancel = context.WithCancel(ctx)
	rs.running.Go(func() { _ = checker.Run(ctx) })
	rs.running.Go(func() { _ = rs.srv.ServeTLS(l, "", "") })
	return rs, nil
}

func with(c tokenbind.Config, change func(*tokenbind.Config)) tokenbind.Config {
	change(&c)
	return c
}

func welcome(w http.ResponseWriter, r *http.Request) {
	claims, _ := tokenbind.ClaimsFrom(r.Context())
	fmt.Fprintf(w, "the orders of %s", claims.ClientID)
}

func (rs *resourceServer) close() {
	rs.cancel()
	_ = rs.srv.Close()
	rs.running.Wait()
}

// answer is what came back.
type answer struct {
	status    int
	challenge string
	body      string
}

func (a answer) String() string {
	text := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if a.challenge != "" {
		return text + "\nWWW-Authenticate: " + a.challenge
	}
	return text + "  " + strings.TrimSpace(a.body)
}

// want is nil if the answer is what the story told: a status, and an OAuth error if one is named.
func (a answer) want(status int, code string) error {
	if a.status != status || code != "" && !strings.Contains(a.challenge, `error="`+code+`"`) {
		return fmt.Errorf("want %d %s", status, code)
	}
	return nil
}

// get calls the resource server with headers in pairs.
func get(ctx context.Context, hc *http.Client, url string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := hc.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return answer{resp.StatusCode, strings.Join(resp.Header.Values("WWW-Authenticate"), ", "), string(body)}, err
}

// firstProofs is a replay memory of a verifier that never ran before, so that no earlier process can have seen a
// proof. A plain MemoryReplay has the verifier ask for nonces after its start.
type firstProofs struct{ *tokenbind.MemoryReplay }
