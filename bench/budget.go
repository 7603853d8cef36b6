package main

import (
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// sizes are how much is measured. What a run used stands in its report.
type sizes struct {
	rounds       int
	round        time.Duration // of load
	slow         int           // rounds of what takes seconds each
	revoked      int           // entries on the large CRL
	certificates int           // in the large store
	issued       int           // certificates before memory is read
	verified     int           // tokens
	revocations  int           // that are followed until the list with them is served
	rest         time.Duration // before memory is read
}

var (
	full = sizes{
		rounds: 5, round: 1500 * time.Millisecond, slow: 3, revoked: 1_000_000, certificates: 10_000_000,
		issued: 100_000, verified: 6000, revocations: 100, rest: 3 * time.Second,
	}
	short = sizes{
		rounds: 3, round: 500 * time.Millisecond, slow: 3, revoked: 20_000, certificates: 100_000,
		issued: 3_000, verified: 1000, revocations: 20, rest: time.Second,
	}
	smoke = sizes{
		rounds: 2, round: 100 * time.Millisecond, slow: 1, revoked: 500, certificates: 20_000,
		issued: 200, verified: 200, revocations: 3, rest: 100 * time.Millisecond,
	}
)

// A whole run, the building of this program and of the peers included, has to end within 25 minutes. What can give
// way is the filling of the large store: it goes on for as long as leaves enough for what comes after it, and the
// lines say how far it came.
const (
	wholeRun  = 22 * time.Minute  // from the start of this program, which takes two minutes to build where nothing is cached
	afterFill = 390 * time.Second // the revocations, and all that is measured on the large store
	leastFill = time.Minute
	mostFill  = 6 * time.Minute
	issueTime = 75 * time.Second  // for a CA to issue what memory is read after
	revokeAll = 120 * time.Second // for the revocations on the large CRL
)

// fillTime is how long the large store may be filled, so long after the start of the run.
func fillTime(elapsed time.Duration) time.Duration {
	return min(max(wholeRun-afterFill-elapsed, leastFill), mostFill)
}

// What a run keeps on disk at most: what a certificate takes in the large store, what a revocation takes in pkid's
// and in step-ca's, and all the rest.
const (
	certificateDisk = 950
	revocationDisk  = 700
	otherDisk       = 1 << 30
)

// checkDisk makes sure that what is to be stored fits, since a full disk is found late otherwise.
func checkDisk(dir string, s sizes) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if need := s.disk(); free < need {
		return fmt.Errorf("%s has %s free, and this run needs %s: name another directory with -temp, or a smaller store with -certificates",
			dir, model.Octets.Text(float64(free), 3), model.Octets.Text(float64(need), 3))
	}
	return nil
}

func (s sizes) disk() int64 {
	return int64(s.certificates)*certificateDisk + int64(s.revoked)*revocationDisk + otherDisk
}

// progress sets the time since the start of the run before each line.
type progress struct {
	start time.Time
	mu    sync.Mutex // guards to
	to    io.Writer
}

func (p *progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	elapsed := time.Since(p.start)
	if _, err := fmt.Fprintf(p.to, "%2d:%02d %s", int(elapsed.Minutes()), int(elapsed.Seconds())%60, line); err != nil {
		return 0, err
	}
	return len(line), nil
}
