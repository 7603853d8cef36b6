package daemon

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkid/pkid/internal/admission"
)

// pipes is a listener whose connections are in memory, so that their timeouts run on a test's clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l pipes) Close() error   { close(l.done); return nil }
func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }

// timed serves a handler to one connection, whose other end it returns; over TLS with a configuration.
func timed(t *testing.T, conf *tls.Config, h http.HandlerFunc) net.Conn {
	t.Helper()
	l := pipes{make(chan net.Conn, 1), make(chan struct{})}
	here, there := net.Pipe()
	l.conns <- there
	var listener net.Listener = admission.Listen(l, admission.Connections{Most: 10, PerAddress: 10, New: 10})
	if conf != nil {
		listener = tls.NewListener(listener, conf)
	}
	server := newHTTPServer(h, slog.New(slog.DiscardHandler))
	go server.Serve(listener)
	t.Cleanup(func() {
		here.Close()
		server.Close()
		time.Sleep(time.Second) // net/http lingers half of that after some answers
	})
	return here
}

// cutAfter reads until the connection ends, and wants that to be after a time.
func cutAfter(t *testing.T, c io.Reader, began time.Time, want time.Duration) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if took := time.Since(began); took < want || took > want+time.Second {
		t.Errorf("cut after %s, want %s: %v", took, want, err)
	}
}

func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// Whoever is slow is cut, wherever they are slow.
func TestInvariant10_SlowClientsAreCut(t *testing.T) {
	nothing := func(http.ResponseWriter, *http.Request) {}
	inBubble(t, "no handshake", func(t *testing.T) {
		began := time.Now()
		cutAfter(t, timed(t, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}, nothing), began, 5*time.Second)
	})
	inBubble(t, "half a header", func(t *testing.T) {
		began := time.Now()
		c := timed(t, nil, nothing)
		c.Write([]byte("GET / HTTP/1.1\r\nHost:"))
		cutAfter(t, c, began, 5*time.Second)
	})
	inBubble(t, "an octet of a header now and then", func(t *testing.T) {
		began := time.Now()
		c := timed(t, nil, nothing)
		var writing sync.WaitGroup
		writing.Go(func() {
			for err := error(nil); err == nil; time.Sleep(time.Second) {
				_, err = c.Write([]byte("G"))
			}
		})
		cutAfter(t, c, began, 5*time.Second)
		c.Close()
		writing.Wait()
	})
	inBubble(t, "a body that does not come", func(t *testing.T) {
		began := time.Now()
		read := make(chan error, 1)
		c := timed(t, nil, func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			read <- err
		})
		c.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"))
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 16*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
	inBubble(t, "an answer that is not taken", func(t *testing.T) {
		began := time.Now()
		wrote := make(chan error, 1)
		c := timed(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			_, err := io.WriteString(w, strings.Repeat("x", 1<<20))
			wrote <- err
		})
		c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		if err := <-wrote; err == nil || time.Since(began) > 31*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
	inBubble(t, "no second request", func(t *testing.T) {
		c := timed(t, nil, nothing)
		c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		cutAfter(t, r, time.Now(), 2*time.Minute)
	})
}

func TestInvariant10_HeadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := timed(t, nil, func(http.ResponseWriter, *http.Request) { t.Error("handled") })
		go c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

// The server's first frame says how many streams it takes at once, and how much of their bodies (RFC 9113 section 6.5.2).
func TestHTTP2StreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, NextProtos: []string{"h2"}}
		c := tls.Client(timed(t, server, func(http.ResponseWriter, *http.Request) {}), &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"h2"},
		})
		if _, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil || head[3] != 4 {
			t.Fatalf("frame %x, %v; want SETTINGS", head, err)
		}
		settings := make([]byte, int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c, settings); err != nil {
			t.Fatal(err)
		}
		got := map[uint16]uint32{}
		for ; len(settings) >= 6; settings = settings[6:] {
			got[binary.BigEndian.Uint16(settings)] = binary.BigEndian.Uint32(settings[2:])
		}
		const maxConcurrentStreams, initialWindowSize = 3, 4
		if got[maxConcurrentStreams] != 64 || got[initialWindowSize] != 64<<10 {
			t.Errorf("settings %v", got)
		}
	})
}

// A connection makes room for others while it is idle, over TLS too, and not while a request is under way.
func TestListenerHearsOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn, 1), make(chan struct{})}
		bounds := admission.Listen(l, admission.Connections{Most: 1, PerAddress: 1, New: 1})
		leave := make(chan struct{})
		server := newHTTPServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-leave }), slog.New(slog.DiscardHandler))
		go server.Serve(tls.NewListener(bounds, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}))
		defer server.Close()
		dial := func() net.Conn {
			here, there := net.Pipe()
			l.conns <- there
			return tls.Client(here, &tls.Config{InsecureSkipVerify: true})
		}
		first := dial()
		defer first.Close()
		if _, err := first.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := bounds.Counts(); got.Open != 1 || got.New != 0 {
			t.Errorf("with a request under way: %+v", got)
		}
		second := dial()
		if _, err := second.Read(make([]byte, 1)); err == nil {
			t.Error("a second connection was served beside one with a request")
		}
		leave <- struct{}{}
		resp, err := http.ReadResponse(bufio.NewReader(first), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		synctest.Wait()
		third := dial()
		defer third.Close()
		if _, err := third.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Errorf("a third connection, while the first was idle: %v", err)
		}
		leave <- struct{}{}
		if got := bounds.Counts(); got.Open != 1 || got.Refused != 1 || got.Dropped != 1 {
			t.Errorf("in the end: %+v", got)
		}
	})
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// What no handler has seen is not answered: a proxy that asks with a client's own method and path takes 200 for a yes.
func TestOptionsOfAllIsTheHandlers(t *testing.T) {
	inBubble(t, "OPTIONS *", func(t *testing.T) {
		c := timed(t, nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
		c.Write([]byte("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Error(resp.Status)
		}
	})
}
