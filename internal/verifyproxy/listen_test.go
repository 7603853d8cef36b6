package verifyproxy

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/pkid/pkid/internal/admission"
)

// TestInvariant10_ConnectionsAreBounded: at each address of HTTP, as the daemon's are; one address may have a share of them,
// unless it is a proxy's.
func TestInvariant10_ConnectionsAreBounded(t *testing.T) {
	p := &Proxy{log: slog.New(slog.DiscardHandler)}
	p.c.complete()
	var err error
	if p.proxies, err = newProxies(p.c.Proxies, nil); err != nil {
		t.Fatal(err)
	}
	l, err := p.bind(t.Context(), "listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bounded, ok := l.(*admission.Listener)
	if !ok {
		t.Fatalf("%T", l)
	}
	if !bounded.Proxy(netip.MustParseAddr("127.0.0.9")) || bounded.Proxy(netip.MustParseAddr("192.0.2.1")) {
		t.Error("not the proxies that are trusted")
	}
	// What ends a wait for room is that a connection was heard to have a request.
	there, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := bounded.Counts(); n.Open != 1 || n.New != 1 {
		t.Errorf("%+v", n)
	}
	p.server(http.NotFoundHandler()).ConnState(c, http.StateActive)
	if n := bounded.Counts(); n.Open != 1 || n.New != 0 {
		t.Errorf("%+v", n)
	}
}
