package admission

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// bounded listens on loopback, and dials for the test.
type bounded struct {
	*Listener
	t        *testing.T
	accepted chan *Conn
}

func listen(t *testing.T, c Connections) *bounded {
	t.Helper()
	return listenFor(t, c, slow)
}

func listenFor(t *testing.T, c Connections, slow time.Duration) *bounded {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bounded{Listen(l, c), t, make(chan *Conn, 100)}
	b.slow = slow
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			b.accepted <- c.(*Conn)
		}
	}()
	t.Cleanup(func() { b.Close(); <-done })
	return b
}

func (b *bounded) dial() net.Conn {
	b.t.Helper()
	c, err := new(net.Dialer).DialContext(b.t.Context(), "tcp", b.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// open dials and waits until the connection is accepted.
func (b *bounded) open() (net.Conn, *Conn) {
	b.t.Helper()
	c := b.dial()
	select {
	case accepted := <-b.accepted:
		return c, accepted
	case <-time.After(10 * time.Second):
		b.t.Fatal("a connection is not accepted")
		return nil, nil
	}
}

// refuses shows that a connection that comes now is closed at once.
func (b *bounded) refuses(what string) {
	b.t.Helper()
	c, err := new(net.Dialer).DialContext(b.t.Context(), "tcp", b.Addr().String())
	if err != nil {
		return // closed before Dial had seen it open
	}
	defer c.Close()
	b.isCut(what, c)
}

// isCut waits until the other side closes the connection.
func (b *bounded) isCut(what string, c net.Conn) {
	b.t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		b.t.Errorf("%s is not cut: %v", what, err)
	}
}

// isOpen shows that an octet still gets through.
func (b *bounded) isOpen(what string, c net.Conn, accepted *Conn) {
	b.t.Helper()
	c.Write([]byte{1})
	accepted.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(accepted, make([]byte, 1)); err != nil {
		b.t.Errorf("%s is cut: %v", what, err)
	}
}

func TestListener_IdleConnectionMakesRoom(t *testing.T) {
	b := listen(t, Connections{Most: 3, PerAddress: 3, New: 3})
	busy, busyConn := b.open()
	busyConn.Busy()
	longest, longestConn := b.open()
	longestConn.Busy()
	longestConn.Idle()
	shorter, shorterConn := b.open()
	shorterConn.Busy()
	time.Sleep(time.Millisecond) // for a later instant
	shorterConn.Idle()
	b.open()
	b.isCut("the one that was idle for longest", longest)
	b.isOpen("the one with a request", busy, busyConn)
	b.isOpen("the one that was idle for less", shorter, shorterConn)
	b.open()
	b.isCut("the next one", shorter)
	b.refuses("the one that nobody makes room for")
	if got := b.Counts(); got.Open != 3 || got.Dropped != 2 || got.Refused != 1 {
		t.Errorf("counts %+v", got)
	}
}

func TestListener_PerAddress(t *testing.T) {
	b := listen(t, Connections{Most: 100, PerAddress: 2, New: 100})
	first, firstConn := b.open()
	firstConn.Busy()
	_, secondConn := b.open()
	b.refuses("the third of an address")
	secondConn.Close()
	secondConn.Close() // counts once
	b.open()
	b.isOpen("the first", first, firstConn)
	firstConn.Idle()
	b.open()
	b.isCut("the idle one of the same address", first)
	if got := b.Counts(); got.Open != 2 {
		t.Errorf("counts %+v", got)
	}
}

// A proxy's address is that of many clients, and has no share but all.
func TestListener_Proxy(t *testing.T) {
	proxy := netip.MustParseAddr("192.0.2.7")
	l := Listen(nil, Connections{Most: 4, PerAddress: 1, New: 100})
	l.Proxy = func(a netip.Addr) bool { return a.Unmap() == proxy }
	for _, c := range []struct {
		from  string
		admit bool
	}{{"192.0.2.8", true}, {"192.0.2.8", false}, {"192.0.2.7", true}, {"192.0.2.7", true}, {"192.0.2.7", true}, {"192.0.2.7", false}} {
		conn := stranger{from: &net.TCPAddr{IP: net.ParseIP(c.from), Port: 1}}
		if got := l.admit(conn, time.Now()) != nil; got != c.admit {
			t.Errorf("one of %s with %d open: admitted %t", c.from, len(l.conns), got)
		}
	}
}

type stranger struct {
	net.Conn
	from net.Addr
}

func (s stranger) RemoteAddr() net.Addr { return s.from }

// While too many are new the next one waits, until one has sent its request, or has been slow and is cut.
func TestListener_NewConnections(t *testing.T) {
	b := listenFor(t, Connections{Most: 100, PerAddress: 100, New: 2}, 200*time.Millisecond)
	first, _ := b.open()
	_, secondConn := b.open()
	third := b.dial()
	secondConn.Busy()
	thirdConn := <-b.accepted
	b.isOpen("the third", third, thirdConn)
	b.open() // which takes until the first was slow
	b.isCut("the first", first)
	if got := b.Counts(); got.Open != 3 || got.New != 2 || got.Dropped != 1 {
		t.Errorf("counts %+v", got)
	}
}

func TestListener_CloseEndsAccept(t *testing.T) {
	b := listen(t, Connections{Most: 100, PerAddress: 100, New: 1})
	b.open()
	b.dial()
	if err := b.Close(); err != nil { // Accept may wait for room
		t.Fatal(err)
	}
}
