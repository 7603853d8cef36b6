package main

import (
	"net/http"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"

	"github.com/pkid/pkid/internal/config"
)

// waitFor waits until the daemon of a data directory answers on its ops listener.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if text, err := os.ReadFile(ts.MkAbs(args[0] + "/" + config.File)); err == nil {
			var c struct{ Listen config.Listen }
			ts.Check(yaml.Unmarshal(text, &c))
			if resp, err := http.Get("http://" + c.Listen.Ops + "/healthz"); err == nil {
				resp.Body.Close()
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s was not served", args[0])
}
