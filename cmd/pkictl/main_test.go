package main

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pkictl": main})
}

// The scripts run the real command: each is a story with its expected output and exit codes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: commands})
}

// The live scripts also have a running daemon, whose operator is in $PKICTL_HOME.
func TestLiveScripts(t *testing.T) {
	s := pkitest.Start(t, pkitest.Options{})
	testscript.Run(t, testscript.Params{Dir: "testdata/live", Cmds: commands, Setup: func(env *testscript.Env) error {
		env.Setenv("PKICTL_HOME", s.Home)
		return nil
	}})
}

var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exitcode":    exitCode,
	"accesstoken": accessToken,
}

// exitCode runs a command and compares how it ended.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// accessToken sets $ACCESS_TOKEN from a file with a token response.
func accessToken(ts *testscript.TestScript, _ bool, args []string) {
	var answer client.Token
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &answer))
	ts.Setenv("ACCESS_TOKEN", answer.AccessToken)
}
