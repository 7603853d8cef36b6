package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pkitest"
	"github.com/pkid/pkid/tokenbind"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pkictl": main})
}

// The scripts run the real command: each is a story with its expected output and exit codes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: commands})
}

// The live scripts also have a running daemon, whose operator is in $PKICTL_HOME, and a resource server.
func TestLiveScripts(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	op, err := client.Load(s.Home)
	if err != nil {
		t.Fatal(err)
	}
	resource := startResource(t, s)
	testscript.Run(t, testscript.Params{Dir: "testdata/live", Cmds: commands, Setup: func(env *testscript.Env) error {
		for name, value := range map[string]string{
			"PKICTL_HOME": s.Home, "PUBLIC": s.URLs.Public, "FINGERPRINT": op.Info().Fingerprint, "RESOURCE": resource,
		} {
			env.Setenv(name, value)
		}
		return nil
	}})
}

// The scripts of a CA with several CRLs.
func TestShardScripts(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{Edit: func(c *config.Config) { c.CRL.ShardSize = 3 }})
	testscript.Run(t, testscript.Params{Dir: "testdata/shards", Cmds: commands, Setup: func(env *testscript.Env) error {
		env.Setenv("PKICTL_HOME", s.Home)
		return nil
	}})
}

// startResource serves a greeting behind a verifier.
func startResource(t *testing.T, s *pkitest.Server) string {
	web := s.Enrol(t, client.InvitationRequest{ClientID: "resource", Profile: "server", SANs: []string{"127.0.0.1"}})
	srv := httptest.NewUnstartedServer(nil)
	verifier, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: s.URLs.Public, Audience: "https://" + srv.Listener.Addr().String(), HTTPClient: web.HTTPClient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = verifier.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := tokenbind.ClaimsFrom(r.Context())
		fmt.Fprintf(w, "hello %s\n", claims.ClientID)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*web.Certificate()}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}

var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exitcode":    exitCode,
	"accesstoken": accessToken,
	"secretof":    secretOf,
	"eventually":  eventually,
}

// exitCode runs a command and compares how it ended.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	if want, got := atoi(ts, args[0]), codeOf(ts, args[1:]); got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// eventually is exitCode for what takes a moment, such as a new CRL.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if codeOf(ts, args[1:]) == atoi(ts, args[0]) {
			return
		}
	}
	exitCode(ts, neg, args)
}

func codeOf(ts *testscript.TestScript, command []string) int {
	err := ts.Exec(command[0], command[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

func atoi(ts *testscript.TestScript, text string) int {
	n, err := strconv.Atoi(text)
	ts.Check(err)
	return n
}

// accessToken sets $ACCESS_TOKEN from a file with a token response, and writes the token to the file "token".
func accessToken(ts *testscript.TestScript, _ bool, args []string) {
	var answer client.Token
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &answer))
	ts.Setenv("ACCESS_TOKEN", answer.AccessToken)
	ts.Check(os.WriteFile(ts.MkAbs("token"), []byte(answer.AccessToken+"\n"), 0o600))
}

// secretOf writes the secret in a client's record to a file, as jq -r .client_secret would.
func secretOf(ts *testscript.TestScript, _ bool, args []string) {
	var c client.ClientRecord
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &c))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(c.Secret+"\n"), 0o600))
}
