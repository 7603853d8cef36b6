package model

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is the data of a machine whose costs follow the laws to the letter.
func sample() *Data {
	d := &Data{Date: "2026-01-02", Machine: "a machine, 2 cores", Cores: 2, Whole: true}
	for _, n := range []int{100_000, 1_000_000, 3_000_000, 10_000_000} {
		d.Add(StoreOctets, n, 100_000+800*float64(n))
		d.Add(IssueTime, n, 250e-6)
		d.Add(AnswerTime, n, 0.05)
	}
	for _, n := range []int{10_000, 30_000, 100_000, 300_000, 1_000_000} {
		d.Add(ListOctets, n, 500+37*float64(n))
		d.Add(RoundTime, n, 4e-3+30e-9*float64(n))
		d.Add(ListTime, n, 0.05+200e-9*float64(n))
		d.Add(Resident, n, 20e6+80*float64(n))
	}
	for name, v := range map[string]float64{
		CostIssue: 180e-6, CostToken: 60e-6, CostProofToken: 150e-6, CostIntrospect: 100e-6, CostPoll: 30e-6,
		CostVerify: 70e-6, CostVerifySeen: 1e-6, CostVerifyDPoP: 150e-6,
	} {
		d.Cost(name, v)
	}
	return d
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-6*math.Abs(want) }

func TestFitFindsTheConstants(t *testing.T) {
	d := sample()
	for series, want := range map[string]Fit{
		StoreOctets: {100_000, 800}, IssueTime: {250e-6, 0}, ListOctets: {500, 37}, RoundTime: {4e-3, 30e-9}, Resident: {20e6, 80},
	} {
		got, err := d.Fit(law(series))
		if err != nil || !near(got.A, want.A) || !near(got.B, want.B) {
			t.Errorf("%s: got %v %v, want %v", series, got, err, want)
		}
	}
}

// A line through measurements that shrink, or one that would begin below zero, is no law of a cost.
func TestFitHasNoNegativeConstants(t *testing.T) {
	linear := law(ListTime)
	if f, err := linear.fit([]Point{{1, 12}, {10, 11}, {100, 10}}); err != nil || f.B != 0 || f.A < 10 || f.A > 12 {
		t.Errorf("shrinking: %v %v", f, err)
	}
	if f, err := linear.fit([]Point{{10, 1}, {20, 10}, {40, 30}}); err != nil || f.A != 0 || f.B <= 0 {
		t.Errorf("below zero: %v %v", f, err)
	}
}

func TestFitRefusesTooLittle(t *testing.T) {
	for name, points := range map[string][]Point{"none": nil, "one for a line": {{1, 1}}, "no cost": {{1, 1}, {2, 0}}} {
		if f, err := law(ListTime).fit(points); err == nil {
			t.Errorf("%s: got %v", name, f)
		}
	}
	if _, err := law(IssueTime).fit([]Point{{1, 1}}); err != nil {
		t.Errorf("one is enough for a flat law: %v", err)
	}
}

func TestCheckLeavesTheLargestOut(t *testing.T) {
	d := sample()
	for _, l := range Laws {
		c, err := d.Check(l)
		if err != nil || c.Off() > 1e-6 {
			t.Errorf("%s: off by %g, %v", l.Series, c.Off(), err)
		}
	}
	// The largest turns out dearer than the others promise: the prediction does not know of it.
	d.Series[RoundTime] = slices.Clone(d.Series[RoundTime])
	last := &d.Series[RoundTime][len(d.Series[RoundTime])-1]
	last.Value *= 2
	slices.Reverse(d.Series[RoundTime])
	c, err := d.Check(law(RoundTime))
	if err != nil || c.Size != 1_000_000 || math.Abs(c.Off()-0.5) > 0.01 {
		t.Errorf("got %+v, off by %g, %v", c, c.Off(), err)
	}
	d.Series[RoundTime] = d.Series[RoundTime][:2]
	if c, err := d.Check(law(RoundTime)); err == nil {
		t.Errorf("of two sizes: %+v", c)
	}
}

func TestPlan(t *testing.T) {
	load := Load{Certificates: 6e6, Lifetime: 90 * day, Years: 2, Revoked: 1e6, Tokens: 50_000, Verifiers: 100}
	p, err := sample().Plan(load)
	if err != nil {
		t.Fatal(err)
	}
	records := 6e6 + 6e6*730/60
	revocations := 1e6 / (45 * 86400.0)
	for name, c := range map[string]struct{ got, want float64 }{
		"issued":      {p.Issued, 6e6 / (60 * 86400.0)},
		"records":     {p.Records, records},
		"disk":        {p.Disk, 100_000 + 800*records},
		"each day":    {p.DiskPerDay, 800 * 6e6 / 60},
		"cores":       {p.TokenCores, 50_000 * 60e-6 / 0.6},
		"nodes":       {p.TokenNodes, 1},
		"revocations": {p.Revocations, revocations},
		"list":        {p.FullList, 500 + 37e6},
		"round":       {p.FullRound, 0.034},
		"shards":      {p.Shards, 1},
		"polls":       {p.Polls, 200},
		"traffic":     {p.Bandwidth, 200*300 + 100*revocations*(500+37e6)},
	} {
		if !near(c.got, c.want) {
			t.Errorf("%s: got %g, want %g", name, c.got, c.want)
		}
	}
	if got := p.Limit().Name; got != "serving the CRL" {
		t.Errorf("the limit is %q", got)
	}
	load.Verifiers = 1
	if p, err = sample().Plan(load); err != nil || p.Limit().Name != "tokens" {
		t.Errorf("with one verifier the limit is %q, %v", p.Limit().Name, err)
	}
}

func TestShardsAndDeltasSaveTraffic(t *testing.T) {
	load := Load{Certificates: 1e9, Lifetime: 90 * day, Years: 1, Revoked: 1e7, Tokens: 1e5, Verifiers: 1e4}
	d := sample()
	one, err := d.Plan(load)
	if err != nil {
		t.Fatal(err)
	}
	load.Bytes = 4e6
	shards, err := d.Plan(load)
	if err != nil {
		t.Fatal(err)
	}
	load.Delta = true
	deltas, err := d.Plan(load)
	if err != nil {
		t.Fatal(err)
	}
	if shards.Shards != 93 || shards.ShardList > 4.01e6 || shards.ShardRound >= one.FullRound {
		t.Errorf("got %g shards of %g octets, %g s each", shards.Shards, shards.ShardList, shards.ShardRound)
	}
	if !(deltas.Bandwidth < shards.Bandwidth && shards.Bandwidth < one.Bandwidth/10) {
		t.Errorf("traffic: %g, with shards %g, with deltas %g", one.Bandwidth, shards.Bandwidth, deltas.Bandwidth)
	}
	if one.Limit().Name != "serving the CRL" {
		t.Errorf("the limit is %q", one.Limit().Name)
	}
}

// A verifier cannot fetch a list more often than it asks, nor more often than it is made.
func TestFetchesAreBoundedByPolls(t *testing.T) {
	p, err := sample().Plan(Load{Certificates: 1e9, Lifetime: 2 * time.Hour, Revoked: 1e6, Verifiers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if want := 2*300 + 2*p.FullList; p.Revocations < 100 || !near(p.Bandwidth, want) {
		t.Errorf("%g revocations a second, %g octets, want %g", p.Revocations, p.Bandwidth, want)
	}
}

func TestPlanSaysWhatIsMissing(t *testing.T) {
	d := sample()
	delete(d.Costs, CostPoll)
	if _, err := d.Plan(scenarios[0].Load); err == nil || !strings.Contains(err.Error(), CostPoll) {
		t.Errorf("got %v", err)
	}
	d = sample()
	delete(d.Series, ListOctets)
	if _, err := d.Plan(scenarios[0].Load); err == nil || !strings.Contains(err.Error(), ListOctets) {
		t.Errorf("got %v", err)
	}
}

func TestDataSurvivesItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.json")
	var first, second, page1, page2 bytes.Buffer
	d := sample()
	d.Add(ListOctets, 2_000_000, 74_123_456.789)
	if err := d.Write(&first); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, first.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Series[ListOctets][5].Value; got != 74_120_000 {
		t.Errorf("rounded to %v", got)
	}
	if err := errors.Join(again.Write(&second), again.Document(&page1), again.Document(&page2)); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() || page1.String() != page2.String() {
		t.Error("writing what was read gives another text")
	}
}

func TestDocument(t *testing.T) {
	var b bytes.Buffer
	if err := sample().Document(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, bad := range []string{"NaN", "Inf", "<no value>", "%!"} {
		if strings.Contains(text, bad) {
			t.Errorf("%s in the text", bad)
		}
	}
	for _, want := range []string{"| 100,000 | 1,000,000 | 3,000,000 | 10,000,000 |", "100 kB + 800 octets for each", "16,667 tokens a second", "a billion"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	columns := 0
	for line := range strings.Lines(text) {
		switch n := strings.Count(line, "|"); {
		case n == 0:
			columns = 0
		case columns == 0:
			columns = n
		case n != columns:
			t.Errorf("%d cells, want %d: %s", n-1, columns-1, line)
		}
	}
}

// docs/scale.md is what the figures in docs/benchmarks.json give.
func TestScaleStandsOnTheFigures(t *testing.T) {
	d, err := Read("../../docs/benchmarks.json")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no figures of a whole run are kept in docs yet; make bench writes them")
	}
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := d.Document(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/scale.md")
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/scale.md is another text (%v); write it with: go run -C bench . -model ../docs/benchmarks.json -out ../docs", err)
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		unit   Unit
		x      float64
		digits int
		want   string
	}{
		{Times, 0.7954, 3, "0.795x"},
		{Times, 0.8, 3, "0.8x"},
		{Times, 23.449, 3, "23.4x"},
		{Times, 1234.5, 3, "1,234x"},
		{Times, 0, 3, "0x"},
		{Seconds, 0.25, 3, "250 ms"},
		{Seconds, 2.04e-6, 3, "2.04 µs"},
		{Seconds, 1, 3, "1 s"},
		{Seconds, 5e-8, 3, "50 ns"},
		{Octets, 899.6, 3, "900 octets"},
		{Octets, 40e6, 3, "40 MB"},
		{Octets, 1.5e12, 3, "1.5 TB"},
		{Share, 0.2, 2, "20%"},
		{Share, 0.0512, 2, "5.1%"},
		{Number, 1_000_000, 1, "1,000,000"},
		{Number, -1234, 2, "-1,234"},
		{Number, 39.5, 3, "39.5"},
	} {
		if got := c.unit.Text(c.x, c.digits); got != c.want {
			t.Errorf("%g: got %q, want %q", c.x, got, c.want)
		}
	}
}
