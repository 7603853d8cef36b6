// Command cmd runs internal/chaos at length, and writes what it found into a document.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/pkid/pkid/internal/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// engines are the clusters that can be broken, by the name that -engines takes.
var engines = map[string]func(ctx context.Context, binary, dir string) (*chaos.Cluster, error){
	"bolt":     chaos.Bolt,
	"postgres": chaos.Postgres,
}

func run(ctx context.Context) (err error) {
	conf := chaos.Config{Log: os.Stderr}
	flag.IntVar(&conf.Faults, "faults", 200, "how many faults strike each engine")
	flag.IntVar(&conf.Workers, "workers", 4, "clients that make load at the same time")
	flag.DurationVar(&conf.Load, "load", time.Second, "the longest that load runs before a fault")
	flag.Uint64Var(&conf.Seed, "seed", uint64(time.Now().UnixNano()), "of what is random in the load and the faults")
	names := flag.String("engines", "bolt,postgres", "which stores, separated by commas")
	out := flag.String("out", "", "document to write the table into, between its marks")
	flag.Parse()

	dir, err := os.MkdirTemp("", "pkid-chaos-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil { // what failed is left to be looked at
			err = os.RemoveAll(dir)
		} else {
			fmt.Fprintln(os.Stderr, "chaos: the data directories and logs are in", dir)
		}
	}()
	binary := filepath.Join(dir, "pkid")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/pkid/pkid/cmd/pkid") //nolint:gosec // G204: into our own directory
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building pkid: %w: %s", err, text)
	}
	var reports []*chaos.Report
	for name := range strings.SplitSeq(*names, ",") {
		report, err := breakEngine(ctx, name, binary, filepath.Join(dir, name), conf)
		if err != nil {
			return err
		}
		reports = append(reports, report)
	}
	text := chaos.Table(reports...) + "\n" + machine() + "\n"
	fmt.Print(text)
	violations := 0
	for _, r := range reports {
		violations += len(r.Violations)
	}
	if *out != "" {
		err = write(*out, text)
	}
	if violations > 0 {
		err = errors.Join(err, fmt.Errorf("%d violations", violations))
	}
	return err
}

func breakEngine(ctx context.Context, name, binary, dir string, conf chaos.Config) (_ *chaos.Report, err error) {
	start := engines[name]
	if start == nil {
		return nil, fmt.Errorf("no engine %q", name)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := start(ctx, binary, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return chaos.Run(ctx, c, conf)
}

func write(path, text string) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := chaos.Insert(string(document), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644) //nolint:gosec // G306: a document
}

// machine says where and when the figures were made.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(text) {
			if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d processors (%s), %s, %s.", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), model, runtime.GOOS, runtime.Version())
}
