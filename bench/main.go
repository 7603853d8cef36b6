// Command bench measures pkid against what a user would pick instead, and against what the machine's crypto
// and a bare Go server cost. It builds or installs every contender, starts it on loopback in a temporary
// directory, alternates between them, and prints a line for each thing that pkid is to reach.
//
//	go run . [-quick] [-only issue,token] [-out ../docs]
//	go run . -model ../docs/benchmarks.json [-certificates N -revoked N -tokens N -verifiers N]
//
// With -out it writes benchmarks.md, benchmarks.json with the figures that the model stands on, and scale.md,
// which the model makes of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// bench is one run.
type bench struct {
	dir    string // temporary; everything is made in it
	began  time.Time
	sizes  sizes
	peers  bool // step-ca and what is on npm take part
	report report
	ca     *testCA // signs the server certificates of the floor and of node
	pkid   string  // the built daemon; see pkidBinary
	stepca string
	large  *large

	// What one part measured and another compares.
	resigned   time.Duration
	stepStart  stepStart
	stepOctets string // what a certificate takes in its stores
}

// works are the parts of a run, in order. -only picks among them.
var works = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"issue", (*bench).issuance},
	{"nodes", (*bench).nodes},
	{"token", (*bench).tokens},
	{"verify", (*bench).verification},
	{"revocation", (*bench).revocations},
	{"growth", (*bench).growth},
	{"crl", (*bench).revocationLists},
	{"scale", (*bench).scale},
}

func main() {
	if name, ok := os.LookupEnv(floorEnv); ok {
		if err := serveFloor(name); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// options are the flags.
type options struct {
	quick, smoke          bool
	only, out, temp       string
	model                 string
	certificates, revoked int
	tokens, verifiers     float64
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "short rounds and small stores: shows that the bench works, not how fast anything is")
	flags.BoolVar(&o.smoke, "smoke", false, "still shorter, and without the peers that have to be built or installed")
	flags.StringVar(&o.only, "only", "", "comma-separated parts to run: "+strings.Join(names(), ", "))
	flags.StringVar(&o.out, "out", "", "directory to write benchmarks.md, benchmarks.json and scale.md to, beside the report on standard output")
	flags.IntVar(&o.certificates, "certificates", 0, "certificates in the large store (default 10,000,000; 100,000 with -quick)")
	flags.IntVar(&o.revoked, "revoked", 0, "entries on the large CRL (default 1,000,000; 20,000 with -quick)")
	flags.StringVar(&o.temp, "temp", "", "where to make the temporary directory; a real disk, since commits are synced to it")
	flags.StringVar(&perfDir, "perf", "", "directory to put a Linux perf profile of every round of pkid's into; it costs some speed")
	flags.StringVar(&o.model, "model", "", "measure nothing: write scale.md from this benchmarks.json, or work out the installation that the next four say")
	flags.Float64Var(&o.tokens, "tokens", 0, "with -model: tokens a second")
	flags.Float64Var(&o.verifiers, "verifiers", 0, "with -model: servers that ask for the CRL")
	return o, flags.Parse(args)
}

// sizes are those of the flags.
func (o options) sizes() sizes {
	s := full
	switch {
	case o.smoke:
		s = smoke
	case o.quick:
		s = short
	}
	if o.certificates > 0 {
		s.certificates = o.certificates
	}
	if o.revoked > 0 {
		s.revoked = o.revoked
	}
	return s
}

// whole reports whether nothing is left out or made smaller.
func (o options) whole() bool { return o.only == "" && !o.smoke && o.sizes() == full }

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case o.model != "":
		return o.carryOn(os.Stdout)
	}
	b := &bench{began: time.Now(), sizes: o.sizes(), peers: !o.smoke}
	log.SetFlags(0)
	log.SetOutput(&progress{start: b.began, to: os.Stderr})
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if slices.Equal(chosen, []string{"revocation"}) { // which has no peers
		b.peers = false
	}
	if b.dir, err = os.MkdirTemp(o.temp, "pkid-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if slices.ContainsFunc(chosen, onLargeStore) {
		if err := checkDisk(b.dir, b.sizes); err != nil {
			return err
		}
	}
	if b.ca, err = newTestCA(filepath.Join(b.dir, "bench-ca")); err != nil {
		return err
	}
	b.report.begin(b.sizes, o.whole(), args)
	if err := b.work(ctx, chosen); err != nil {
		return err
	}
	return b.report.keep(o.out)
}

func names() []string {
	var out []string
	for _, w := range works {
		out = append(out, w.name)
	}
	return out
}

func onLargeStore(part string) bool { return part == "growth" || part == "crl" || part == "scale" }

// choose reads -only.
func choose(only string) ([]string, error) {
	if only == "" {
		return names(), nil
	}
	chosen := strings.Split(only, ",")
	for _, name := range chosen {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("-only %s: the parts are %s", name, strings.Join(names(), ", "))
		}
	}
	return chosen, nil
}

// work makes everything ready and runs the chosen parts.
func (b *bench) work(ctx context.Context, chosen []string) error {
	t := table{title: "Where the time went", text: "Of this run, without building the bench itself.", head: []string{"part", "took"}}
	part := func(name string, run func(*bench, context.Context) error) error {
		start := time.Now()
		log.Printf("%s", name)
		if err := run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took := time.Since(start).Round(time.Second)
		log.Printf("%s took %s", name, took)
		t.rows = append(t.rows, []string{name, took.String()})
		return nil
	}
	if err := part("build", (*bench).build); err != nil {
		return err
	}
	for _, w := range works {
		if slices.Contains(chosen, w.name) {
			if err := part(w.name, w.run); err != nil {
				return err
			}
		}
	}
	total := time.Since(b.began).Round(time.Second)
	log.Printf("all took %s", total)
	t.rows = append(t.rows, []string{"all", total.String()})
	b.report.tables = append(b.report.tables, t)
	return nil
}

// build makes every contender ready before anything is measured.
func (b *bench) build(ctx context.Context) error {
	if !b.peers {
		_, err := b.pkidBinary(ctx)
		return err
	}
	var group errgroup.Group
	group.Go(func() error { _, err := b.nodeModules(ctx); return err })
	group.Go(func() error {
		if _, err := b.pkidBinary(ctx); err != nil {
			return err
		}
		_, err := b.stepBinary(ctx)
		return err
	})
	return group.Wait()
}
