package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// The daemon has no profiling endpoint; Linux perf looks at it from outside.

// perfDir is where measure puts a profile of every round of pkid's, if it is set: perf report --no-children -i FILE.
var perfDir string

// profile is where pkid's processor time went in one part.
type profile struct {
	part  string
	share map[string]float64 // by area
	idle  float64            // of the machine's cores: neither pkid nor the client
}

// areas tell what a symbol belongs to: the first pattern that matches. perf shows kernel symbols with a [k] before
// them, and hand-written assembly without its package.
var areas = []struct {
	name    string
	symbols *regexp.Regexp
}{
	{"kernel: network", regexp.MustCompile(`^\[k\].*(tcp|inet|ip_|sock|skb|net_|loopback|xmit|eth)`)},
	{"kernel: files and disk", regexp.MustCompile(`^\[k\].*(ext4|xfs|btrfs|jbd2|blk|bio|writeback|folio|filemap|iowrite|virtio|fsync|submit|nvme|page_cache|dirty)`)},
	{"kernel: scheduling, memory and the rest", regexp.MustCompile(`^\[k\]`)},
	{"signatures", regexp.MustCompile(`nistec|ecdsa|bigmod|elliptic|^p256|math/big|crypto/rsa|edwards|ed25519|drbg`)},
	{"hashes", regexp.MustCompile(`crypto/(internal/fips140/)?(sha|hmac|md5)|^sha256|blockAVX|blockSHANI`)},
	{"TLS", regexp.MustCompile(`crypto/tls|fips140/(aes|alias|subtle|tls|hkdf)|crypto/(aes|cipher|subtle|hkdf)|gcmAes|chacha|poly1305`)},
	{"certificates and ASN.1", regexp.MustCompile(`crypto/x509|encoding/asn1|cryptobyte|encoding/pem`)},
	{"net/http, net", regexp.MustCompile(`^(net|net/.*|bufio|mime|mime/.*|internal/poll|vendor/golang.org/x/net/.*|github.com/gorilla/mux)\.`)},
	{"JSON and text", regexp.MustCompile(`^(encoding/.*|strconv|fmt|unicode.*|reflect|strings|bytes|slices|sort|internal/bytealg|log/slog.*|time)\.`)},
	{"bbolt", regexp.MustCompile(`go.etcd.io/bbolt`)},
	{"pkid's own", regexp.MustCompile(`github.com/pkid/pkid`)},
	{"Go: memory and its collection", regexp.MustCompile(`^runtime\.(gc|scan|mark|malloc|newobject|makeslice|growslice|sweep|greyobject|wb|bgs|mem(clr|move)|heap|find(Object|object)|span|\(\*(m(heap|span|cache|central)|gcWork|limiter|page|unwinder).*\)|type(dmem|Point)|bulkBarrier|publicationBarrier|nextFree|deductAssist|tryDefer)`)},
	{"Go: scheduler and the rest", regexp.MustCompile(``)},
}

func areaOf(symbol string) string {
	for _, a := range areas {
		if a.symbols.MatchString(symbol) {
			return a.name
		}
	}
	return "" // the last one matches everything
}

// record runs perf on a process until the function it returns is called.
func record(pid int, file string, flags ...string) (func(), error) {
	cmd := exec.Command("perf", append([]string{"record", "-q", "-o", file, "-p", strconv.Itoa(pid)}, flags...)...) //nolint:gosec,noctx // G204: perf, until it is interrupted
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	time.Sleep(200 * time.Millisecond) // until it is attached
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}, nil
}

// profile records a server into a file of its own while it is measured, if that is asked for.
func (p *process) profile() func() {
	file, flags := p.perf, []string{"-F", "1999"}
	if file == "" && perfDir != "" && strings.HasPrefix(p.name, "pkid") {
		p.profiles++
		file, flags = filepath.Join(perfDir, fmt.Sprintf("%s-%d.perf", p.name, p.profiles)), []string{"-g", "-F", "499"}
	}
	if file == "" {
		return func() {}
	}
	stop, err := record(p.cmd.Process.Pid, file, flags...)
	if err != nil {
		log.Printf("  perf: %v", err)
		return func() {}
	}
	return stop
}

// explain profiles one more round of a part in which a demand was missed, and does not measure it. Without perf
// there is no explanation.
func (b *bench) explain(ctx context.Context, part string, p *process, round func(context.Context) (sample, error), ids ...string) error {
	if _, err := exec.LookPath("perf"); err != nil || !b.peers || !b.report.missed(ids...) {
		return nil //nolint:nilerr // a machine without perf
	}
	p.perf = filepath.Join(b.dir, "explain.perf")
	s, err := round(ctx)
	file := p.perf
	p.perf = ""
	if err != nil {
		return err
	}
	share, err := shares(ctx, file)
	if err != nil {
		log.Printf("  no profile of %s: %v", part, err)
		return nil
	}
	b.report.profiles = append(b.report.profiles, profile{part, share, s.idle})
	return nil
}

// shares reads a profile.
func shares(ctx context.Context, file string) (map[string]float64, error) {
	text, err := output(ctx, ".", nil, "perf", "report", "-i", file, "--stdio", "-q", "--no-children", "-g", "none", "-F", "overhead,sym", "-t", "\t")
	if err != nil {
		return nil, err
	}
	return sum(text)
}

// sum adds the lines of a perf report up by area: a share, a tab, a mark and a symbol.
func sum(text string) (map[string]float64, error) {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		percent, symbol, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue
		}
		x, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(percent), "%"), 64)
		if err != nil {
			continue // a warning of perf's
		}
		out[areaOf(strings.TrimPrefix(strings.TrimSpace(symbol), "[.] "))] += x / 100
	}
	if len(out) == 0 {
		return nil, errors.New("nothing was recorded")
	}
	return out, nil
}

// profileTable shows all profiles side by side.
func (r *report) profileTable() (table, bool) {
	t := table{
		title: "Where pkid's processor time went, in the parts with a miss",
		text: "By what the processor was in, of one more round that was not measured: a call's time counts where it is spent, not with its caller. " +
			"Recorded with `perf`. The last row is of all cores: what neither pkid nor the client used, as while all wait for the disk.",
		head: []string{"area"},
	}
	for _, p := range r.profiles {
		t.head = append(t.head, p.part)
	}
	add := func(name string, of func(profile) float64) {
		cells := []string{name}
		for _, p := range r.profiles {
			cells = append(cells, model.Share.Text(of(p), 2))
		}
		t.rows = append(t.rows, cells)
	}
	for _, a := range areas {
		add(a.name, func(p profile) float64 { return p.share[a.name] })
	}
	add(fmt.Sprintf("idle, of %d cores", runtime.NumCPU()), func(p profile) float64 { return p.idle })
	return t, len(r.profiles) > 0
}
