// Package connstate lets an http.Server tell an admission.Listener of its connections. It stands apart because package
// admission serves those who know no HTTP too.
package connstate

import (
	"crypto/tls"
	"net"
	"net/http"

	"github.com/pkid/pkid/internal/admission"
)

// Tell is for http.Server.ConnState: it says of a connection, TLS or not, whether it is busy or idle.
func Tell(c net.Conn, state http.ConnState) {
	if overTLS, ok := c.(*tls.Conn); ok {
		c = overTLS.NetConn()
	}
	conn, ok := c.(*admission.Conn)
	if !ok {
		return
	}
	switch state { // the listener hears of the end by itself, and at the beginning a connection is new
	case http.StateActive:
		conn.Busy()
	case http.StateIdle:
		conn.Idle()
	}
}
