package config

import (
	"fmt"
	"runtime"
	"time"
)

// Limits bound what comes in; docs/limits.md tells what is refused and how. Where one address stands for many clients,
// so do its limits; but the clients of a proxy that is named in proxies, and tells their addresses, have each their own.
type Limits struct {
	// Connections to one listener at once: 16 to 1000000. Beyond it the one that has been idle for longest is closed.
	// The process needs a file descriptor for each. Default 2048.
	Connections int `yaml:"connections,omitempty"`
	// ConnectionsPerAddress are those of one IPv4 address or IPv6 /64 to one listener, and the requests that it may have
	// under way there at once. Default a quarter of connections.
	ConnectionsPerAddress int `yaml:"connections_per_address,omitempty"`
	// Streams of revocations that one listener has open at once; they count as connections and requests too. Beyond it
	// others are refused, and go by the CRL. Default a quarter of connections.
	Streams int `yaml:"streams,omitempty"`
	// StreamsPerAddress are those of one address. Default a quarter of connections_per_address.
	StreamsPerAddress int `yaml:"streams_per_address,omitempty"`
	// NewConnections are those to one listener that have not sent their first request: with a TLS handshake or a
	// request's header under way. Keep it above connections_per_address: one address that uses it up keeps all others
	// waiting. Default half of connections.
	NewConnections int `yaml:"new_connections,omitempty"`
	// Requests of one kind that are worked on at once: 2 to 100000. Kinds are certificates (enrolment and renewal), tokens
	// (and introspection), revocation of tokens, checks that proxies ask for, and what operators do, such as revoking
	// certificates; searches have a sixteenth. Default 16 for each processor, at least 32 and at most 512.
	Requests int `yaml:"requests,omitempty"`
	// Wait is how long a request waits for its turn, among four times as many as are worked on, before it is refused:
	// 10ms to 5s. Default 1s.
	Wait time.Duration `yaml:"wait,omitempty"`
	// CertificatesPerAddress is how many certificates one address may enrol or renew in a minute. Default 0: any number.
	CertificatesPerAddress int `yaml:"certificates_per_address,omitempty"`
	// CertificatesPerClient is how many one client may enrol or renew in a minute. Default 0: any number.
	CertificatesPerClient int `yaml:"certificates_per_client,omitempty"`
	// TokensPerAddress is how many tokens one address may ask for in a minute. Default 0: any number.
	TokensPerAddress int `yaml:"tokens_per_address,omitempty"`
	// TokensPerClient is how many one client may ask for in a minute. Default 0: any number.
	TokensPerClient int `yaml:"tokens_per_client,omitempty"`
	// FailuresPerAddress is how often one address may send wrong credentials or proofs in a minute, when it enrols, renews
	// or asks for tokens. Beyond it all that is refused, right or wrong. 0: any number. Default 600.
	FailuresPerAddress *int `yaml:"failures_per_address,omitempty"`
}

func (l *Limits) complete() {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Connections, 2048)
	set(&l.ConnectionsPerAddress, max(l.Connections/4, 1))
	set(&l.Streams, max(l.Connections/4, 1))
	set(&l.StreamsPerAddress, min(max(l.ConnectionsPerAddress/4, 1), l.Streams))
	set(&l.NewConnections, max(l.Connections/2, 1)) // more than one address has, or it could hold up all the others
	set(&l.Requests, min(max(16*runtime.GOMAXPROCS(0), 32), 512))
	if l.Wait == 0 {
		l.Wait = time.Second
	}
	if l.FailuresPerAddress == nil {
		failures := 600
		l.FailuresPerAddress = &failures
	}
}

func (l *Limits) validate() error {
	for _, bound := range []struct {
		key              string
		got, least, most int
	}{
		{"connections", l.Connections, 16, 1_000_000},
		{"connections_per_address", l.ConnectionsPerAddress, 1, l.Connections},
		{"streams", l.Streams, 1, l.Connections},
		{"streams_per_address", l.StreamsPerAddress, 1, l.Streams},
		{"new_connections", l.NewConnections, 1, l.Connections},
		{"requests", l.Requests, 2, 100_000},
		{"certificates_per_address", l.CertificatesPerAddress, 0, 1_000_000_000},
		{"certificates_per_client", l.CertificatesPerClient, 0, 1_000_000_000},
		{"tokens_per_address", l.TokensPerAddress, 0, 1_000_000_000},
		{"tokens_per_client", l.TokensPerClient, 0, 1_000_000_000},
		{"failures_per_address", *l.FailuresPerAddress, 0, 1_000_000_000},
	} {
		if bound.got < bound.least || bound.got > bound.most {
			return fmt.Errorf("limits.%s: want %d to %d, not %d", bound.key, bound.least, bound.most, bound.got)
		}
	}
	if l.Wait < 10*time.Millisecond || l.Wait > 5*time.Second {
		return fmt.Errorf("limits.wait: want 10ms to 5s, not %s", l.Wait)
	}
	return nil
}
