package pgtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP connection's way to a server, which can fail as networks do.
type Proxy struct {
	target   string
	listener net.Listener
	done     sync.WaitGroup // all goroutines

	mu      sync.Mutex // guards all below
	flows   sync.Cond  // tells that how may have changed
	how     condition
	ends    map[net.Conn]struct{} // of the connections that there are, on both sides
	refused int
}

type condition int

const (
	passing condition = iota
	stalled
	cut
	closed
)

// StartProxy runs a proxy to an address until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// NewProxy runs a proxy to an address.
func NewProxy(target string) (*Proxy, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: l, ends: map[net.Conn]struct{}{}}
	p.flows.L = &p.mu
	p.done.Go(p.accept)
	return p, nil
}

// Addr returns the address to connect to instead of the target.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL returns a database's URL with the proxy's address in it.
func (p *Proxy) URL(database string) (string, error) {
	u, err := url.Parse(database)
	if err != nil {
		return "", fmt.Errorf("proxy for a database: %w", err)
	}
	u.Host = p.Addr()
	return u.String(), nil
}

// Cut breaks all connections, and those that come until Resume.
func (p *Proxy) Cut() { p.become(cut) }

// Stall lets nothing through until Resume, and keeps all connections: a network that loses every packet.
func (p *Proxy) Stall() { p.become(stalled) }

// Resume ends Cut or Stall.
func (p *Proxy) Resume() { p.become(passing) }

// Refused returns how many connections Cut has refused so far: a test can wait for somebody to have tried.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Close breaks all connections and takes no more. It returns when nothing runs any longer.
func (p *Proxy) Close() {
	p.become(closed)
	p.listener.Close()
	p.done.Wait()
}

func (p *Proxy) become(how condition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.how == closed {
		return
	}
	p.how = how
	if how >= cut {
		for end := range p.ends {
			end.Close()
		}
	}
	p.flows.Broadcast()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.done.Go(func() { p.serve(c) })
	}
}

// serve carries a connection until either side ends it.
func (p *Proxy) serve(client net.Conn) {
	if !p.keep(client) {
		return
	}
	defer p.drop(client)
	p.await()
	server, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		ways.Go(func() {
			_, _ = io.Copy(gate{p, way[1]}, way[0]) // either side may break it
			client.Close()
			server.Close()
		})
	}
	ways.Wait()
}

// keep adds an end of a connection, or closes it if there are to be none.
func (p *Proxy) keep(end net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.how >= cut {
		p.refused++
		end.Close()
		return false
	}
	p.ends[end] = struct{}{}
	return true
}

func (p *Proxy) drop(end net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ends, end)
	end.Close()
}

// await returns when nothing is stalled.
func (p *Proxy) await() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.how == stalled {
		p.flows.Wait()
	}
}

// gate lets octets through when they flow.
type gate struct {
	p  *Proxy
	to net.Conn
}

func (g gate) Write(b []byte) (int, error) {
	g.p.await()
	return g.to.Write(b)
}
