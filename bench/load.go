package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The load comes from plain HTTP/1.1 over TLS on connections that are kept, with requests that were rendered
// before the clock starts. net/http's client would cost as much as the servers that are measured, on the same
// two cores; this one costs the same little for every contender.

// conn is one connection.
type conn struct {
	net.Conn
	r    *bufio.Reader
	body []byte // of the last answer; valid until the next
}

// clientTLS trusts one CA, and presents a certificate if one is given.
func clientTLS(roots *x509.CertPool, certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS13}
}

func dial(ctx context.Context, addr string, c *tls.Config) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var raw net.Conn
	var err error
	if c == nil {
		raw, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
	} else {
		raw, err = (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return &conn{Conn: raw, r: bufio.NewReaderSize(raw, 64<<10)}, nil
}

// dialAll opens n connections; config is asked for each one's certificate.
func dialAll(ctx context.Context, addr string, n int, config func(i int) *tls.Config) ([]*conn, error) {
	var conns []*conn
	for i := range n {
		c, err := dial(ctx, addr, config(i))
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.Close()
	}
}

// render writes a request. Header fields are pairs of name and value.
func render(method, host, path string, body []byte, fields ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, host)
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", fields[i], fields[i+1]) //nolint:gosec // G602: pairs
	}
	if method != "GET" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

var errAnswer = errors.New("malformed answer")

// do sends a rendered request and reads the answer into c.body.
func (c *conn) do(request []byte) (status int, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, errAnswer
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, errAnswer
	}
	length, chunked := 0, false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case equalFold(name, "content-length"):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, errAnswer
			}
		case equalFold(name, "transfer-encoding"):
			chunked = true
		}
	}
	if chunked {
		return status, c.readChunks()
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	_, err = io.ReadFull(c.r, c.body)
	return status, err
}

func (c *conn) readChunks() error {
	c.body = c.body[:0]
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return errAnswer
		}
		from := len(c.body)
		c.body = slices.Grow(c.body, int(n))[:from+int(n)]
		if _, err := io.ReadFull(c.r, c.body[from:]); err != nil {
			return err
		}
		if _, err := c.r.ReadSlice('\n'); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

func equalFold(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

// sample is what one round measured.
type sample struct {
	rate     float64 // requests a second
	p50, p99 time.Duration
	cpu      time.Duration // of the server, per request
	requests int
	allocs   float64 // per request, in process only
	idle     float64 // the share of all cores that neither the server nor this process used
}

// drive sends requests on all connections at once, each waiting for its answer before the next, until the
// time is over or next returns nil. next is given the connection's index. Any status but want ends it.
// keep, if not nil, is given every answer's body, which it must copy.
func drive(ctx context.Context, conns []*conn, limit time.Duration, want int, next func(i int) []byte, keep func(i int, body []byte)) (sample, error) {
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		all      []time.Duration
		failed   error
		over     atomic.Bool
		start    = time.Now()
		deadline = start.Add(limit)
	)
	for i, c := range conns {
		wg.Go(func() {
			took, err := c.drive(i, deadline, &over, want, next, keep)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && failed == nil {
				failed = err
				over.Store(true)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil || len(all) == 0 {
		return sample{}, failed
	}
	slices.Sort(all)
	return sample{
		rate: float64(len(all)) / elapsed.Seconds(), requests: len(all),
		p50: all[len(all)/2], p99: all[len(all)*99/100],
	}, nil
}

func (c *conn) drive(i int, deadline time.Time, over *atomic.Bool, want int, next func(int) []byte, keep func(int, []byte)) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1<<14)
	for begin := time.Now(); begin.Before(deadline) && !over.Load(); {
		request := next(i)
		if request == nil {
			break
		}
		status, err := c.do(request)
		if err != nil {
			return took, err
		}
		if status != want {
			return took, fmt.Errorf("answer %d, want %d: %.300s", status, want, c.body)
		}
		end := time.Now()
		took = append(took, end.Sub(begin))
		begin = end
		if keep != nil {
			keep(i, c.body)
		}
	}
	return took, nil
}

// once hands out each of the requests once, to whichever connection asks.
func once(requests [][]byte) func(int) []byte {
	var n atomic.Int64
	return func(int) []byte {
		if i := int(n.Add(1)) - 1; i < len(requests) {
			return requests[i]
		}
		return nil
	}
}

// cycle hands out the requests again and again.
func cycle(requests [][]byte) func(int) []byte {
	var n atomic.Int64
	return func(int) []byte { return requests[int(n.Add(1)-1)%len(requests)] }
}

// measure drives a server and adds its processor time.
func measure(p *process, drive func() (sample, error)) (sample, error) {
	recorded := p.profile()
	defer recorded()
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	own, start := ownCPU(), time.Now()
	s, err := drive()
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	wall := time.Since(start) * time.Duration(runtime.NumCPU())
	after, err := p.cpu()
	s.cpu = (after - before) / time.Duration(max(s.requests, 1))
	s.idle = max(0, 1-float64(after-before+ownCPU()-own)/float64(wall))
	return s, err
}

// noTLS is for dialAll.
func noTLS(int) *tls.Config { return nil }
