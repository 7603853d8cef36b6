package grpcauth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pkid/pkid/client"
)

// Conn is a connection to a server that wants sender-constrained tokens. It is a grpc.ClientConnInterface, so generated
// clients take it.
//
// A token, the certificate that it is bound to and the connection that shows this certificate go together: a renewed
// certificate brings a new token over a new connection, and the one before is closed when its last call has ended. A unary
// call that is refused is made again once with a new token if the old one was refused, and once with the server's nonce if
// it wants one. A stream is not made again; what was learned from its refusal serves the next.
type Conn struct {
	source *client.TokenSource
	base   *url.URL
	opts   []grpc.DialOption

	mu      sync.Mutex // guards what follows
	conns   map[*tls.Certificate]*shown
	current *tls.Certificate // shown to the latest call
	closed  bool
}

// shown is a connection that shows one certificate, or none. One that is not current any more is kept while it has calls.
type shown struct {
	cert  *tls.Certificate
	conn  *grpc.ClientConn
	calls int // under way
}

// NewConn returns a connection to the server at an https URL, which is also what stands before the call's name in a
// proof's htu. Nothing is sent yet. Transport credentials are the source's; opts are for the rest.
func NewConn(server string, source *client.TokenSource, opts ...grpc.DialOption) (*Conn, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.TrimSuffix(server, "/") != "https://"+u.Host {
		return nil, fmt.Errorf("server %q: want an https URL with nothing behind the host", server)
	}
	return &Conn{source: source, base: &url.URL{Scheme: u.Scheme, Host: u.Host}, opts: opts, conns: map[*tls.Certificate]*shown{}}, nil
}

// Close closes the connection, and ends its calls.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for cert, s := range c.conns {
		delete(c.conns, cert)
		errs = append(errs, s.conn.Close())
	}
	return errors.Join(errs...)
}

// Invoke is that of grpc.ClientConnInterface.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	call, err := c.source.Call(http.MethodPost, c.base.String()+method)
	if err != nil {
		return err
	}
	for {
		with, to, err := c.prepare(ctx, call)
		if err != nil {
			return err
		}
		var header, trailer metadata.MD
		err = to.conn.Invoke(with, method, args, reply, append(slices.Clip(opts), grpc.Header(&header), grpc.Trailer(&trailer))...)
		c.done(to)
		if again := call.Answered(answered(header, trailer), status.Code(err) == codes.Unauthenticated); !again {
			return err
		}
	}
}

// NewStream is that of grpc.ClientConnInterface.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	call, err := c.source.Call(http.MethodPost, c.base.String()+method)
	if err != nil {
		return nil, err
	}
	with, to, err := c.prepare(ctx, call)
	if err != nil {
		return nil, err
	}
	var trailer metadata.MD
	release := sync.OnceFunc(func() { c.done(to) })
	ended := grpc.OnFinish(func(err error) {
		release()
		call.Answered(answered(nil, trailer), status.Code(err) == codes.Unauthenticated)
	})
	stream, err := to.conn.NewStream(with, desc, method, append(slices.Clip(opts), grpc.Trailer(&trailer), ended)...)
	if err != nil {
		release()
		return nil, err
	}
	return stream, nil
}

// prepare authorises an attempt, and finds the connection that shows the certificate of its token.
func (c *Conn) prepare(ctx context.Context, call *client.Call) (context.Context, *shown, error) {
	h, cert, err := call.Authorize(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return nil, nil, status.Error(codes.Unavailable, err.Error())
	}
	to, err := c.showing(cert)
	if err != nil {
		return nil, nil, err
	}
	for name, values := range h {
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, name, v)
		}
	}
	return ctx, to, nil
}

// showing returns the connection that shows a certificate, with one more call under way.
func (c *Conn) showing(cert *tls.Certificate) (*shown, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, status.Error(codes.Canceled, "the connection is closed")
	}
	s := c.conns[cert]
	if s == nil {
		opts := append([]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(c.source.TLSConfig(cert)))}, c.opts...)
		conn, err := grpc.NewClient("dns:///"+c.base.Host, opts...)
		if err != nil {
			return nil, err
		}
		s = &shown{cert: cert, conn: conn}
		c.conns[cert] = s
	}
	s.calls++
	if before := c.conns[c.current]; before != nil && before != s {
		c.dropUnused(before)
	}
	c.current = cert
	return s, nil
}

// done ends a call.
func (c *Conn) done(s *shown) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.calls--; s.cert != c.current {
		c.dropUnused(s)
	}
}

// dropUnused closes a connection that has no calls. The caller holds the mutex.
func (c *Conn) dropUnused(s *shown) {
	if s.calls == 0 && c.conns[s.cert] == s {
		delete(c.conns, s.cert)
		_ = s.conn.Close() // nothing is under way on it
	}
}

// answered are the headers of an answer, or of a refusal, which has trailers only.
func answered(header, trailer metadata.MD) http.Header {
	h := http.Header{}
	for _, md := range []metadata.MD{header, trailer} {
		for _, name := range []string{"www-authenticate", "dpop-nonce"} {
			if values := md.Get(name); len(values) > 0 {
				h[http.CanonicalHeaderKey(name)] = values
			}
		}
	}
	return h
}
