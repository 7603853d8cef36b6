// Command overload measures what a daemon does when ten times as much is asked of it as it can do. It makes a CA with an
// RSA-4096 key, so that a certificate costs the server far more than the request costs this program; finds out how many
// renewals the daemon can do in a second; asks for ten times as many, at times that do not depend on the answers; and
// meanwhile revokes, waits for the CRL, and asks for tokens. It prints a table for docs/limits.md.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkid/pkid/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pkid := flag.String("pkid", "../bin/pkid", "the daemon's binary")
	seconds := flag.Int("seconds", 20, "how long the overload lasts")
	times := flag.Int("times", 10, "how many times what can be sustained is asked for")
	flag.Parse()
	if err := run(ctx, *pkid, time.Duration(*seconds)*time.Second, *times); err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, pkid string, length time.Duration, times int) error {
	dir, err := os.MkdirTemp("", "pkid-overload")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, pkid, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.clients(ctx, dir, int(length/time.Second)); err != nil {
		return err
	}
	fmt.Printf("| | renewals/s answered | p50 | p99 | refused/s | p50 | p99 | tokens: p50 | p99 | revoke: worst | in the CRL: worst | memory, highest |\n")
	fmt.Printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")

	one := s.closed(ctx, 1, length/4)
	s.print("one client", one, nil)
	most := s.closed(ctx, 32, length/2)
	s.print("32 clients, each after its answer", most, nil)
	rate := most.rate(true)
	s.open(ctx, rate*float64(times), length/4) // opens the connections
	beside := s.beside(ctx, length)
	over := s.open(ctx, rate*float64(times), length)
	s.print(fmt.Sprintf("%d times that, %.0f/s", times, rate*float64(times)), over, beside())
	s.print("one client, afterwards", s.closed(ctx, 1, length/4), nil)
	if over.failed > 0 {
		return fmt.Errorf("%d requests had neither an answer nor a refusal: %w", over.failed, over.err)
	}
	return nil
}

// server is the daemon and those who ask it.
type server struct {
	cmd     *exec.Cmd
	home    string
	api     *client.API
	robot   *client.Identity
	victims []*client.Identity
	http    *http.Client // as the robot
}

func start(ctx context.Context, pkid, data string) (*server, error) {
	args := []string{"init", "--data", data, "--key-type", "RSA-4096"}
	for _, name := range []string{"public", "mtls", "status", "ops"} {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		args = append(args, "--"+name, l.Addr().String())
	}
	if out, err := exec.CommandContext(ctx, pkid, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return &server{cmd: exec.CommandContext(ctx, pkid, "serve", "--data", data), home: filepath.Join(data, "admin")}, nil
}

// clients starts the daemon and enrols a robot, and as many others as will be revoked.
func (s *server) clients(ctx context.Context, dir string, victims int) error {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	operator, err := client.Load(s.home)
	if err != nil {
		return err
	}
	s.api = operator.API()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = s.api.CA(ctx); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the daemon does not answer: %w", err)
		}
	}
	enrol := func(id string) (*client.Identity, error) {
		inv, err := s.api.Invite(ctx, client.InvitationRequest{ClientID: id})
		if err != nil {
			return nil, err
		}
		token, err := client.ParseEnrolmentToken(inv.Token)
		if err != nil {
			return nil, err
		}
		return client.Enroll(ctx, token, client.EnrollOptions{Dir: filepath.Join(dir, id)})
	}
	if s.robot, err = enrol("robot"); err != nil {
		return err
	}
	for i := range victims {
		v, err := enrol(fmt.Sprint("victim-", i))
		if err != nil {
			return err
		}
		s.victims = append(s.victims, v)
	}
	s.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: s.robot.TLSConfig(), MaxConnsPerHost: outstanding, MaxIdleConnsPerHost: outstanding}}
	return nil
}

func (s *server) stop() {
	if s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
}

// outstanding is how many requests this program has under way at most; a daemon's default allows one address as many
// connections.
const outstanding = 400

// took are the latencies of one kind of answer.
type took []time.Duration

func (t took) at(quantile float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t))
	return sorted[int(float64(len(sorted)-1)*quantile)]
}

// outcome is what requests were answered.
type outcome struct {
	mu            sync.Mutex // guards the rest
	done, refused took
	failed        int
	err           error // one of them
	length        time.Duration
}

func (o *outcome) rate(done bool) float64 {
	n := len(o.done)
	if !done {
		n = len(o.refused)
	}
	return float64(n) / o.length.Seconds()
}

func (o *outcome) add(want, status int, err error, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil && status == want:
		o.done = append(o.done, d)
	case err == nil && status == http.StatusServiceUnavailable:
		o.refused = append(o.refused, d)
	default:
		o.failed++
		if o.err = err; err == nil {
			o.err = fmt.Errorf("status %d", status)
		}
	}
}

func (s *server) ask(o *outcome, path string, form url.Values, want int) {
	began := time.Now()
	status, err := s.post(path, form)
	o.add(want, status, err, time.Since(began))
}

func (s *server) post(path string, form url.Values) (int, error) {
	req, err := http.NewRequest(http.MethodPost, s.robot.Info().URLs.MTLS+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		err = errors.New("503 without Retry-After")
	}
	return resp.StatusCode, err
}

const renewPath = "/v1/certificates/renew"

// closed has so many clients, each of which asks when it was answered.
func (s *server) closed(ctx context.Context, clients int, length time.Duration) *outcome {
	o := &outcome{length: length}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				s.ask(o, renewPath, nil, http.StatusCreated)
			}
		})
	}
	wg.Wait()
	return o
}

// open asks at a rate, whatever is answered.
func (s *server) open(ctx context.Context, rate float64, length time.Duration) *outcome {
	o := &outcome{length: length}
	room := make(chan struct{}, outstanding)
	var wg sync.WaitGroup
	began := time.Now()
	for n := 0; time.Since(began) < length && ctx.Err() == nil; n++ {
		time.Sleep(time.Until(began.Add(time.Duration(float64(n) / rate * float64(time.Second)))))
		room <- struct{}{}
		wg.Go(func() {
			s.ask(o, renewPath, nil, http.StatusCreated)
			<-room
		})
	}
	o.length = time.Since(began)
	wg.Wait()
	return o
}

// aside is what goes on beside the load.
type aside struct {
	tokens          outcome
	revoke, publish took
	err             error
}

// beside asks for tokens, one after the other, and revokes a certificate each second, until a time is over.
func (s *server) beside(ctx context.Context, length time.Duration) func() *aside {
	a := &aside{tokens: outcome{length: length}}
	ctx, cancel := context.WithTimeout(ctx, length)
	var wg sync.WaitGroup
	wg.Go(func() {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"robot"}}
		for ctx.Err() == nil {
			s.ask(&a.tokens, "/oauth/token", form, http.StatusOK)
			time.Sleep(20 * time.Millisecond)
		}
	})
	wg.Go(func() {
		for _, v := range s.victims {
			if ctx.Err() != nil {
				return
			}
			if err := s.revokeOne(v, a); err != nil {
				a.err = errors.Join(a.err, err)
			}
			time.Sleep(time.Second)
		}
	})
	return func() *aside { wg.Wait(); cancel(); return a }
}

func (s *server) revokeOne(v *client.Identity, a *aside) error {
	leaf := v.Certificate().Leaf
	began := time.Now()
	if _, err := s.api.Revoke(context.Background(), fmt.Sprintf("%032x", leaf.SerialNumber), client.Revocation{Reason: "superseded"}); err != nil {
		return fmt.Errorf("revoking: %w", err)
	}
	done := time.Now()
	a.revoke = append(a.revoke, done.Sub(began))
	for {
		listed, err := onCRL(leaf)
		if err != nil {
			return err
		}
		if listed {
			a.publish = append(a.publish, time.Since(done))
			return nil
		}
		if time.Since(done) > 30*time.Second {
			return errors.New("no CRL had a revocation within 30s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func onCRL(leaf *x509.Certificate) (bool, error) {
	resp, err := http.Get(leaf.CRLDistributionPoints[0])
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	der, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(leaf.SerialNumber) == 0
	}), nil
}

// highest is the most memory that the daemon ever had, in megabytes.
func (s *server) highest() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.Fields(kb)[0])
			return fmt.Sprintf("%d MB", n/1000)
		}
	}
	return "?"
}

func (s *server) print(name string, o *outcome, a *aside) {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	refused := []string{"0", "", ""}
	if len(o.refused) > 0 {
		refused = []string{fmt.Sprintf("%.0f", o.rate(false)), ms(o.refused.at(0.5)), ms(o.refused.at(0.99))}
	}
	rest := []string{"", "", "", ""}
	if a != nil {
		rest = []string{ms(a.tokens.done.at(0.5)), ms(a.tokens.done.at(0.99)), ms(a.revoke.at(1)), ms(a.publish.at(1))}
	}
	fmt.Printf("| %s | %.0f | %s | %s | %s | %s | %s |\n", name, o.rate(true), ms(o.done.at(0.5)), ms(o.done.at(0.99)),
		strings.Join(refused, " | "), strings.Join(rest, " | "), s.highest())
	if a != nil {
		fmt.Fprintf(os.Stderr, "beside: %d tokens, %d refused, %d failed; %d revocations; %v\n", len(a.tokens.done), len(a.tokens.refused), a.tokens.failed, len(a.revoke), a.err)
	}
}
