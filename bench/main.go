// Command bench measures pkid against what a user would pick instead, and against what the machine's crypto
// and a bare Go server cost. It builds or installs every contender, starts it on loopback in a temporary
// directory, alternates between them, and writes docs/benchmarks.md.
//
//	go run . [-quick] [-only issue,token] [-out ../docs/benchmarks.md]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	dir    string // temporary; everything is made in it
	quick  bool
	sizes  sizes
	report report
	ca     *testCA // signs the server certificates of the floor and of node
	pkid   string  // the built daemon; see pkidBinary
	stepca string
	large  *large

	// What one part measured and another compares.
	resigned        time.Duration
	revokedToServed time.Duration
	stepStart       time.Duration
}

// sizes are how much is measured. What a run used stands in its report.
type sizes struct {
	rounds       int
	round        time.Duration // of load
	revoked      int           // entries on the large CRL
	certificates int           // in the large store
	issued       int           // certificates before memory is read
}

var (
	full  = sizes{rounds: 5, round: 2 * time.Second, revoked: 1_000_000, certificates: 10_000_000, issued: 100_000}
	short = sizes{rounds: 3, round: time.Second, revoked: 20_000, certificates: 100_000, issued: 5_000}
)

// works are the parts of a run, in order. -only picks among them.
var works = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"issue", (*bench).issuance},
	{"token", (*bench).tokens},
	{"verify", (*bench).verification},
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

func run(ctx context.Context, args []string) (err error) {
	log.SetFlags(log.Ltime)
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "short rounds and small stores: shows that the bench works, not how fast anything is")
	only := flags.String("only", "", "comma-separated parts to run: "+strings.Join(names(), ", "))
	out := flags.String("out", "", "file to write the report to; standard output if empty")
	certificates := flags.Int("certificates", 0, "certificates in the large store (default 10,000,000; 100,000 with -quick)")
	revoked := flags.Int("revoked", 0, "entries on the large CRL (default 1,000,000; 20,000 with -quick)")
	temp := flags.String("temp", "", "where to make the temporary directory; a real disk, since commits are synced to it")
	flags.StringVar(&perfDir, "perf", "", "directory to put a Linux perf profile of every round of pkid's into; it costs some speed")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	b := &bench{quick: *quick, sizes: full}
	if b.quick {
		b.sizes = short
	}
	if *certificates > 0 {
		b.sizes.certificates = *certificates
	}
	if *revoked > 0 {
		b.sizes.revoked = *revoked
	}
	if b.dir, err = os.MkdirTemp(*temp, "pkid-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.ca, err = newTestCA(filepath.Join(b.dir, "bench-ca")); err != nil {
		return err
	}
	b.report.begin(b.sizes, b.quick, args)
	if err := b.work(ctx, *only); err != nil {
		return err
	}
	return b.write(*out)
}

func names() []string {
	var out []string
	for _, w := range works {
		out = append(out, w.name)
	}
	return out
}

// work runs the chosen parts.
func (b *bench) work(ctx context.Context, only string) error {
	chosen := map[string]bool{}
	for name := range strings.SplitSeq(only, ",") {
		chosen[name] = name != ""
	}
	ran := 0
	for _, w := range works {
		if only != "" && !chosen[w.name] {
			continue
		}
		ran++
		start := time.Now()
		log.Printf("%s", w.name)
		if err := w.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		log.Printf("%s took %s", w.name, time.Since(start).Round(time.Second))
	}
	if ran == 0 {
		return fmt.Errorf("-only %s: the parts are %s", only, strings.Join(names(), ", "))
	}
	return nil
}

func (b *bench) write(path string) error {
	var w io.Writer = os.Stdout
	if path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		w = io.MultiWriter(f, os.Stdout)
	}
	return b.report.write(w)
}
