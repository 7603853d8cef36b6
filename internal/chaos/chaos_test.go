package chaos

import (
	"testing"

	"github.com/pkid/pkid/internal/pkitest"
	"time"
)

// faults is how many strike in the short run that every test has; `make chaos` has ten times as many.
const faults = 20

func TestBolt(t *testing.T) {
	c, err := Bolt(t.Context(), pkitest.Build(t, "pkid"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shortRun(t, c)
}

func shortRun(t *testing.T, c *Cluster) {
	t.Helper()
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	seed := uint64(time.Now().UnixNano())
	report, err := Run(t.Context(), c, Config{Seed: seed, Faults: faults, Workers: 3, Load: 300 * time.Millisecond, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Violations) > 0 {
		t.Errorf("seed %d: %d violations", seed, len(report.Violations))
	}
	t.Logf("%+v", report)
}
