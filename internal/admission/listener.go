package admission

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Connections bound a listener.
type Connections struct {
	Most       int // connections at once
	PerAddress int // of one Address
	// New is how many may be new: accepted, and still without a request. It bounds TLS handshakes, and what they cost,
	// and clients that send their first request slowly.
	New int
}

// slow is how old a new connection is when it makes room for another one. An honest client's handshake and request take a
// few round trips, and a daemon that is busy some time on top.
const slow = 3 * time.Second

// Listener accepts connections within bounds. When there is no room, the connection that has been idle for longest
// makes it; without one, the new one is closed. While too many are new, the next one waits, and those after it in the
// kernel's queue, until one has sent its request or has been slow.
type Listener struct {
	net.Listener
	// Proxy reports whether an address is that of a proxy, where the connections of many clients end: PerAddress does not
	// hold for it. Nil: none is. It is set before the first Accept.
	Proxy func(netip.Addr) bool

	c      Connections
	slow   time.Duration // see slow; another in tests
	closed chan struct{}
	close  func() error
	settle chan struct{} // takes one message when a connection is no longer new

	refused, dropped atomic.Uint64

	mu      sync.Mutex // guards what follows
	conns   map[*Conn]struct{}
	fresh   map[*Conn]struct{} // those of conns that are new
	address map[Address]int    // how many of conns come from it
}

// Listen bounds a listener.
func Listen(l net.Listener, c Connections) *Listener {
	closed := make(chan struct{})
	return &Listener{
		Listener: l, c: c, slow: slow, closed: closed, settle: make(chan struct{}, 1),
		close: sync.OnceValue(func() error { close(closed); return l.Close() }),
		conns: map[*Conn]struct{}{}, fresh: map[*Conn]struct{}{}, address: map[Address]int{},
	}
}

// Conn is a connection that a Listener accepted. Who serves it says when it is Busy with a request and when Idle.
type Conn struct {
	net.Conn
	l        *Listener
	from     Address
	accepted time.Time
	idle     atomic.Int64 // since when, in Unix nanoseconds; 0: it is not
	settled  atomic.Bool  // no longer new
}

// Accept waits for a connection that there is room for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.awaitRoom() {
			cut(c)
			return nil, net.ErrClosed
		}
		if conn := l.admit(c, time.Now()); conn != nil {
			return conn, nil
		}
		l.refused.Add(1)
		cut(c)
	}
}

// Close closes the listener, and leaves its connections open.
func (l *Listener) Close() error { return l.close() }

// awaitRoom waits until there is room for a new connection. It returns false if the listener is closed before.
func (l *Listener) awaitRoom() bool {
	for {
		wait, full := l.freshFull(time.Now())
		if !full {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.settle:
		case <-l.closed:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// freshFull reports whether too many connections are new, and when the next of them will have been slow. One that has
// been makes room.
func (l *Listener) freshFull(now time.Time) (wait time.Duration, full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fresh) < l.c.New {
		return 0, false
	}
	var oldest *Conn
	for c := range l.fresh {
		if oldest == nil || c.accepted.Before(oldest.accepted) {
			oldest = c
		}
	}
	if wait := l.slow - now.Sub(oldest.accepted); wait > 0 {
		return wait, true
	}
	l.drop(oldest)
	return 0, false
}

// admit makes room for a connection, or returns nil.
func (l *Listener) admit(c net.Conn, now time.Time) *Conn {
	conn := &Conn{Conn: c, l: l, from: peerOf(c.RemoteAddr()), accepted: now}
	l.mu.Lock()
	defer l.mu.Unlock()
	ofAddress := l.address[conn.from] >= l.c.PerAddress && !l.proxy(c.RemoteAddr())
	if ofAddress || len(l.conns) >= l.c.Most {
		idlest := l.idlest(func(c *Conn) bool { return !ofAddress || c.from == conn.from })
		if idlest == nil {
			return nil
		}
		l.drop(idlest)
	}
	l.conns[conn], l.fresh[conn] = struct{}{}, struct{}{}
	l.address[conn.from]++
	return conn
}

func (l *Listener) proxy(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && l.Proxy != nil && l.Proxy(tcp.AddrPort().Addr())
}

// idlest returns the connection that has been idle for longest, of those that will do. The caller holds the mutex. All
// are looked at, since a list in order would cost every request something, and this only whoever comes too many.
func (l *Listener) idlest(will func(*Conn) bool) *Conn {
	var found *Conn
	var longest int64
	for c := range l.conns {
		if since := c.idle.Load(); since != 0 && (found == nil || since < longest) && will(c) {
			found, longest = c, since
		}
	}
	return found
}

// drop closes a connection, whose owner notices. The caller holds the mutex.
func (l *Listener) drop(c *Conn) {
	l.forget(c)
	l.dropped.Add(1)
	cut(c.Conn)
}

// forget takes a connection off the lists. The caller holds the mutex.
func (l *Listener) forget(c *Conn) {
	if _, open := l.conns[c]; !open {
		return
	}
	delete(l.conns, c)
	l.settled(c)
	if l.address[c.from]--; l.address[c.from] == 0 {
		delete(l.address, c.from)
	}
}

// settled: a connection is no longer new. The caller holds the mutex.
func (l *Listener) settled(c *Conn) {
	c.settled.Store(true)
	if _, fresh := l.fresh[c]; !fresh {
		return
	}
	delete(l.fresh, c)
	select {
	case l.settle <- struct{}{}:
	default:
	}
}

// cut closes a connection without waiting for what was sent to arrive.
func cut(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is closed in any case
	}
	_ = c.Close() // nobody is left to tell
}

// Busy says that a request came.
func (c *Conn) Busy() {
	c.idle.Store(0)
	if c.settled.Load() {
		return
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.settled(c)
}

// Idle says that no request is under way.
func (c *Conn) Idle() { c.idle.Store(time.Now().UnixNano()) }

// Close closes the connection and makes its room free.
func (c *Conn) Close() error {
	c.l.mu.Lock()
	c.l.forget(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// Counts are what a Listener has to tell.
type Counts struct {
	Open, New        int
	Refused, Dropped uint64 // new ones for want of room; idle and slow ones, to make some
}

// Counts returns the current ones.
func (l *Listener) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Counts{Open: len(l.conns), New: len(l.fresh), Refused: l.refused.Load(), Dropped: l.dropped.Load()}
}
