// Package chaos breaks a running pkid again and again, and checks each time that it kept its promises.
//
// Clients act on real pkid processes and note every answer in a Ledger. A fault strikes at a random instant of a seeded
// generator: a process is killed, a database is stopped, a connection is cut. When all serve again, a Checker compares
// what the nodes show with the ledger: what was acknowledged must be there, and what was not may be there whole or not
// at all. Observers poll the CRL all the time, as who relies on it does.
package chaos

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// Cluster is what is broken: nodes that share one store.
type Cluster struct {
	Engine string
	Nodes  []*Node
	Faults []Fault       // that can strike it
	Hold   time.Duration // the longest that what is broken stays so
	Close  func() error
}

// Fault is a way to break a cluster.
type Fault struct {
	Name string
	// Strike breaks something, mends it, and returns how long it then took until every node was ready. It draws what
	// and how long from random.
	Strike func(ctx context.Context, c *Cluster, random *rand.Rand) (time.Duration, error)
}

// Kill ends a random node with SIGKILL and starts it again.
var Kill = Fault{"SIGKILL of a node", func(ctx context.Context, c *Cluster, random *rand.Rand) (time.Duration, error) {
	n := c.Nodes[random.IntN(len(c.Nodes))]
	if err := n.Kill(); err != nil {
		return 0, err
	}
	return n.Start(ctx)
}}

// Config says how much of it.
type Config struct {
	Seed    uint64
	Faults  int           // how many
	Workers int           // clients that make load at the same time
	Load    time.Duration // the longest that load runs before a fault
	Log     io.Writer     // progress and violations
}

// Report is what a run found.
type Report struct {
	Engine       string
	Nodes        int
	Seed         uint64
	Began        time.Time
	Took         time.Duration
	Faults       map[string]int  // by name
	Acknowledged map[string]int  // operations, by action
	Unknown      int             // operations without an answer, or with one that left it open
	Replayed     int             // proofs that were sent again after a fault
	Lists        int             // CRLs that observers saw
	Recoveries   []time.Duration // time to serve again, one for each fault
	Violations   []Violation
}

// run is a run under way.
type run struct {
	Config
	*Cluster
	random    *rand.Rand
	ledger    *Ledger
	checker   *Checker
	workers   []*worker
	observers []*observer
	reader    oauthClient // who introspects
	issuer    *x509.Certificate
	root      *x509.Certificate
	report    *Report
	replayed  int
}

// Run breaks a cluster whose nodes have been started, and reports. An error means that the run could not be carried
// out; violations are in the report.
func Run(ctx context.Context, c *Cluster, conf Config) (*Report, error) {
	r := &run{
		Config: conf, Cluster: c, ledger: NewLedger(), random: rand.New(rand.NewPCG(conf.Seed, 0)),
		report: &Report{Engine: c.Engine, Nodes: len(c.Nodes), Seed: conf.Seed, Began: time.Now(), Faults: map[string]int{}},
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	watching, end := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	for _, o := range r.observers {
		watchers.Go(func() { o.run(watching) })
	}
	defer watchers.Wait()
	defer end()

	for round := range conf.Faults {
		if err := r.round(ctx, round); err != nil {
			return nil, fmt.Errorf("round %d of seed %d: %w", round, conf.Seed, err)
		}
	}
	if err := r.checkAll(ctx); err != nil {
		return nil, fmt.Errorf("the last check of seed %d: %w", conf.Seed, err)
	}
	return r.end(), nil
}

// begin makes the workers, the observers and the client that introspects.
func (r *run) begin(ctx context.Context) error {
	var about client.CA
	if err := r.Nodes[0].ask(ctx, http.MethodGet, "/v1/ca", nil, &about); err != nil {
		return fmt.Errorf("asking for the issuing CA: %w", err)
	}
	var err error
	if r.issuer, err = parse(about.Issuers[0].Certificate); err != nil {
		return err
	}
	if r.root, err = parse(about.Root); err != nil {
		return err
	}
	r.checker = NewChecker(r.ledger, r.issuer, r.root)
	for _, n := range r.Nodes {
		r.observers = append(r.observers, &observer{node: n, issuer: r.issuer})
	}
	for i := range r.Workers {
		w, err := newWorker(fmt.Sprint(i), r.Nodes, r.ledger, rand.New(rand.NewPCG(r.Seed, uint64(i)+1)))
		if err != nil {
			return err
		}
		r.workers = append(r.workers, w)
	}
	var made client.ClientRecord
	record := client.ClientRecord{ID: "reader", Auth: "client_secret_basic", Introspect: true, DPoP: true, Nonce: "optional"}
	if err := r.Nodes[0].ask(ctx, http.MethodPost, "/v1/clients", record, &made); err != nil {
		return fmt.Errorf("adding a client that introspects: %w", err)
	}
	r.ledger.Record(Act{audit.ClientAdd, made.ID, Enabled}, Acknowledged)
	r.reader = oauthClient{made.ID, made.Secret, Enabled}
	return nil
}

// slow is a recovery that is worth a line.
const slow = 2 * time.Second

// round makes load, has a fault strike, and checks.
func (r *run) round(ctx context.Context, round int) error {
	began := time.Now()
	if round == 0 {
		began = time.Time{} // what was issued at the start is looked at too
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, w := range r.workers {
		load.Go(func() { w.run(ctx, stop) })
	}
	time.Sleep(r.Load/4 + time.Duration(r.random.Int64N(int64(3*r.Load/4))))
	fault := r.Cluster.Faults[round%len(r.Cluster.Faults)]
	took, err := fault.Strike(ctx, r.Cluster, r.random)
	close(stop)
	load.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", fault.Name, err)
	}
	r.report.Faults[fault.Name]++
	r.report.Recoveries = append(r.report.Recoveries, took)
	if took > slow {
		fmt.Fprintf(r.Log, "round %d of seed %d: %s: %s until all was well again\n", round, r.Seed, fault.Name, took.Round(time.Millisecond))
	}
	if err := r.check(ctx, round, began); err != nil {
		return fmt.Errorf("after %s: %w", fault.Name, err)
	}
	return nil
}

// How much of what is older is looked at again in each round. All of it is in the end.
const (
	sampleOld = 20
	replayed  = 60
)

// check compares what each node shows with the ledger. The workers rest.
func (r *run) check(ctx context.Context, round int, began time.Time) error {
	for _, n := range r.Nodes {
		if err := n.Ready(ctx); err != nil {
			return err
		}
	}
	at := r.random.IntN(len(r.Nodes)) // reads the log, and redeems what another node has given out
	if err := errors.Join(r.redeemAgain(ctx, r.Nodes[at]), r.replay(ctx, r.Nodes, replayed)); err != nil {
		return err
	}
	var found []Violation
	for i := range r.Nodes {
		o := r.observers[(at+i)%len(r.Nodes)]
		facts, err := r.gather(ctx, o, began.Add(-time.Second), sampleOld, i == 0)
		if err != nil {
			return err
		}
		found = append(found, r.checker.Check(facts)...)
		found = append(found, o.take()...)
		defer r.ledger.Settle(facts, time.Now())
	}
	r.note(round, append(found, r.checker.Clients()...))
	return nil
}

// checkAll reads everything from every node, and the audit log from its beginning.
func (r *run) checkAll(ctx context.Context) error {
	for _, o := range r.observers {
		r.checker = NewChecker(r.ledger, r.issuer, r.root)
		facts, err := r.gather(ctx, o, time.Time{}, len(r.ledger.certificates), true)
		if err != nil {
			return err
		}
		r.note(r.Config.Faults, append(r.checker.Check(facts), o.take()...))
	}
	return nil
}

// maxNoted bounds the violations that are kept: one cause has many.
const maxNoted = 1000

func (r *run) note(round int, found []Violation) {
	for _, v := range found {
		fmt.Fprintf(r.Log, "round %d of seed %d: VIOLATION: %s\n", round, r.Seed, v)
	}
	r.report.Violations = append(r.report.Violations, found...)
	r.report.Violations = r.report.Violations[:min(len(r.report.Violations), maxNoted)]
	if (round+1)%20 == 0 {
		fmt.Fprintf(r.Log, "%s: %d of %d faults, %d violations, %s\n", r.Engine, round+1, r.Config.Faults, len(r.report.Violations), time.Since(r.report.Began).Round(time.Second))
	}
}

func (r *run) end() *Report {
	out := r.report
	out.Took, out.Replayed = time.Since(out.Began), r.replayed
	out.Acknowledged, out.Unknown = r.ledger.acknowledged, r.ledger.unknown
	for _, o := range r.observers {
		out.Lists += o.lists
	}
	slices.Sort(out.Recoveries)
	return out
}
