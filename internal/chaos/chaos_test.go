package chaos

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// faults is how many strike in the short run that is part of every test; `make chaos` has ten times as many.
const faults = 20

func TestBolt(t *testing.T) {
	t.Parallel() // both runs wait most of the time
	c, err := Bolt(t.Context(), binary(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shortRun(t, c)
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	c, err := Postgres(t.Context(), binary(t), t.TempDir())
	if errors.Is(err, pgtest.ErrMissing) {
		pkitest.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Hold = 300 * time.Millisecond
	shortRun(t, c)
}

func binary(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the file stays locked for a moment after a process was killed")
	}
	return pkitest.Build(t, "pkid")
}

func shortRun(t *testing.T, c *Cluster) {
	t.Helper()
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	seed := uint64(time.Now().UnixNano())
	report, err := Run(t.Context(), c, Config{Seed: seed, Faults: faults, Workers: 3, Load: 200 * time.Millisecond, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + Table(report))
	if len(report.Violations) > 0 {
		t.Errorf("seed %d: %d violations", seed, len(report.Violations))
	}
	if sum(report.Acknowledged) < faults || report.Replayed == 0 || report.Lists < 2 {
		t.Errorf("seed %d: too little happened to say anything", seed)
	}
}

func TestTableGoesBetweenItsMarks(t *testing.T) {
	r := &Report{Engine: "x", Nodes: 3, Faults: map[string]int{"a fault": 7}, Recoveries: []time.Duration{time.Millisecond, time.Second}}
	text := Table(r)
	for _, want := range []string{"| x, 3 nodes |", "| a fault | 7 |", "| **operations lost** | **0** |", "| – longest | 1000 ms |"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	before := "# Title\n" + tableBegins + "old\n" + tableEnds + "end\n"
	got, err := Insert(before, text)
	if want := strings.Replace(before, "old\n", text, 1); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := Insert("# Title\n", text); err == nil {
		t.Error("a document without marks was taken")
	}
}
