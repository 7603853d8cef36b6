package chaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/config"
)

// Node is a pkid process that can be killed and started again.
type Node struct {
	Name string

	binary, dir string
	cfg         *config.Config
	urls        client.URLs  // where clients believe all nodes to be
	anyone      *http.Client // of the public listener
	operator    *http.Client // of the mtls listener, with the operator's certificate
	plain       *http.Client // of status and ops
	roots       *x509.CertPool

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	log  *os.File
}

// timeout bounds a request of ours. It is longer than the daemon's own bound, so that its answer is what is seen.
const timeout = 15 * time.Second

// NewNode returns the node of a data directory, whose identity is in its directory "admin" or in admin, if set.
func NewNode(name, binary, dir, admin string) (*Node, error) {
	cfg, err := config.Load(filepath.Join(dir, config.File))
	if err != nil {
		return nil, err
	}
	id, err := client.Load(admin)
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: name, binary: binary, dir: dir, cfg: cfg, roots: id.Roots(),
		urls:  client.URLs{Public: cfg.URLs.Public, MTLS: cfg.URLs.MTLS, Status: cfg.URLs.Status},
		plain: &http.Client{Timeout: timeout},
	}
	n.anyone = n.showing(cfg.Listen.Public, nil)
	n.operator = n.showing(cfg.Listen.MTLS, id.Certificate())
	n.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return n, err
}

// showing returns a client whose connections all go to one listener of this node, whatever the URL's host, and show a
// certificate, if there is one.
func (n *Node) showing(addr string, cert *tls.Certificate) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: n.roots}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	dialer := net.Dialer{Timeout: timeout}
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: 16, ForceAttemptHTTP2: false,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
	}}
}

// Start starts the process and returns how long it took until /readyz was content.
func (n *Node) Start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	n.cmd = exec.CommandContext(context.WithoutCancel(ctx), n.binary, "serve", "--data", n.dir) //nolint:gosec // G204: the program under test
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	endWithParent(n.cmd)
	if err := n.cmd.Start(); err != nil {
		return 0, err
	}
	n.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // it is killed
		close(done)
	}(n.cmd, n.done)
	err := n.Ready(ctx)
	return time.Since(began), err
}

// patience is how long a node may take to recover.
const patience = 30 * time.Second

// Ready waits until /readyz is content.
func (n *Node) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		if last = n.ready(ctx); last == nil {
			return nil
		}
		select {
		case <-n.done:
			return fmt.Errorf("node %s ended: see %s", n.Name, n.log.Name())
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w: see %s", n.Name, last, n.log.Name())
		case <-time.After(time.Millisecond):
		}
	}
}

func (n *Node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, _, err := n.fetch(ctx, "http://"+n.cfg.Listen.Ops+"/readyz", "")
	return err
}

// Kill ends the process with SIGKILL: it does nothing more.
func (n *Node) Kill() error {
	if n.cmd == nil {
		return nil
	}
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-n.done
	return nil
}

// Close kills the process and closes what belongs to it.
func (n *Node) Close() error { return errors.Join(n.Kill(), n.log.Close()) }

// notSent reports whether a request cannot have reached the server: there was no connection.
func notSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" || errors.Is(err, syscall.ECONNREFUSED)
}

// outcomeOf tells what is known of an act after its answer.
func outcomeOf(err error) Outcome {
	problem, answered := errors.AsType[*client.Problem](err)
	switch {
	case err == nil:
		return Acknowledged
	case answered && problem.Status < 500, notSent(err):
		return Refused
	default:
		return Unknown
	}
}

// maxAnswer bounds an answer.
const maxAnswer = 64 << 20

// call sends one request, once, and decodes the answer. An answer that is none of success is a *client.Problem.
func call(ctx context.Context, hc *http.Client, method, target string, header http.Header, in, out any) error {
	var body io.Reader
	if header == nil {
		header = http.Header{}
	}
	switch in := in.(type) {
	case nil:
	case url.Values:
		body = strings.NewReader(in.Encode())
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
		header.Set("Content-Type", "application/json")
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return refusalOf(resp, text)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, out)
}

// refusalOf reads a problem document, or an OAuth error, whose code becomes the type and whose nonce the detail.
func refusalOf(resp *http.Response, text []byte) error {
	p := new(client.Problem)
	var oauth client.TokenError
	if json.Unmarshal(text, p) != nil || p.Type == "" {
		if json.Unmarshal(text, &oauth) == nil {
			p.Type, p.Title, p.Detail = oauth.Code, oauth.Description, resp.Header.Get("DPoP-Nonce")
		}
	}
	if p.Title == "" {
		p.Title = resp.Status
	}
	p.Status = resp.StatusCode
	return p
}

// fetch reads a URL of the status or ops listener, unless it has the entity tag.
func (n *Node) fetch(ctx context.Context, target, tag string) (text []byte, newTag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, "", err
	}
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := n.plain.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, "", err
	case resp.StatusCode == http.StatusNotModified:
		return nil, tag, nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("%s answered %s: %.300s", target, resp.Status, text)
	}
	return text, resp.Header.Get("ETag"), nil
}

// ask is a request of the REST API as the operator, sent once.
func (n *Node) ask(ctx context.Context, method, path string, in, out any) error {
	return call(ctx, n.operator, method, n.urls.MTLS+path, nil, in, out)
}

// insist asks until there is an answer other than that there can be none now: a node that is ready may still find out
// that a connection to the database is gone. What it asks for must be the same if it is done twice.
func insist(ctx context.Context, ask func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := ask()
		if err == nil || outcomeOf(err) != Unknown || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// read is a GET of the REST API as the operator.
func (n *Node) read(ctx context.Context, path string, out any) error {
	return insist(ctx, func() error { return n.ask(ctx, http.MethodGet, path, nil, out) })
}
