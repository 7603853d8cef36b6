package crl

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// one is a listener of one connection.
type one struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l one) Close() error   { close(l.done); return nil }
func (l one) Addr() net.Addr { return &net.TCPAddr{} }

// download asks for a list of so many octets over a connection without buffers, and takes so many of it each second,
// until the connection ends or nothing of the list is left. It takes nothing any more when it has stopAt.
func download(t *testing.T, size, eachSecond, stopAt int) (got int, took time.Duration) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	l := one{make(chan net.Conn, 1), make(chan struct{})}
	l.conns <- there
	ended := make(chan struct{})
	server := &http.Server{WriteTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		DER{bytes.Repeat([]byte{'x'}, size)}.WriteTo(newDirect(w, DER{make([]byte, size)}))
	})}
	go server.Serve(l)
	defer server.Close()
	began := time.Now()
	if _, err := here.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, eachSecond); got < stopAt; {
		n, err := io.ReadFull(here, b[:min(eachSecond, stopAt-got)])
		got += n
		if err != nil {
			break
		}
		time.Sleep(time.Second)
	}
	<-ended
	return got, time.Since(began)
}

// A list takes as long as a slow link needs, and no longer than a reader takes anything.
func TestServe_SlowReaders(t *testing.T) {
	const size, all = 2 << 20, 1 << 30
	synctest.Test(t, func(t *testing.T) {
		if got, took := download(t, size, 64<<10, all); got < size || took < 20*time.Second {
			t.Errorf("a slow link got %d octets in %s", got, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if got, took := download(t, size, 64<<10, 1<<20); got >= size || took > 30*time.Second {
			t.Errorf("a reader that stopped half way was cut after %s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		end := writeTime(size)
		if got, took := download(t, size, 27<<10, all); got >= size || took > end+time.Second {
			t.Errorf("a reader of an octet now and then got %d of %d in %s, within %s", got, size, took, end)
		}
	})
}
