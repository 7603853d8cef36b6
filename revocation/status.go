package revocation

import (
	"fmt"
	"io"
	"time"
)

// Status is how much a Follower knows.
type Status struct {
	Ready     bool      // the stream was heard to its present end at least once
	Connected bool      // and it is heard now; otherwise certificates go by the CRL alone
	Heard     time.Time // the newest heartbeat: what was revoked before that is refused here; zero if there was none
	Position  string    // on the stream, from where it goes on
	Err       error     // why it is not connected; nil if it is

	Certificates int // that are refused before a CRL at hand has them
	Clients      int // whose tokens of before some instant are refused
	Tokens       int // that are refused

	Events   uint64 // taken
	Connects uint64 // streams that were answered
	Resets   uint64 // times that the stream could not go on, and the CRL filled the gap
	Forgot   uint64 // certificates that were left to the CRL, for want of room

	CRLHeard time.Time // when the CRL that was heard of for the longest was last known to be the newest; zero if there is none
}

// Status returns the present state.
func (f *Follower) Status() Status {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s := Status{
		Ready: !f.heard.IsZero(), Connected: f.connected, Heard: f.heard, Position: f.last, Err: f.err,
		Certificates: len(f.certificates.known), Clients: len(f.tokens.clients), Tokens: len(f.tokens.revoked),
		Events: f.counts.events, Connects: f.counts.connects, Resets: f.counts.resets, Forgot: f.certificates.forgot,
	}
	if f.checker != nil {
		for i, list := range f.checker.Status() {
			if i == 0 || list.Heard.Before(s.CRLHeard) {
				s.CRLHeard = list.Heard
			}
		}
	}
	return s
}

// WriteMetrics writes the state in the Prometheus text format.
func (f *Follower) WriteMetrics(w io.Writer) {
	s, now := f.Status(), f.now()
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return -1
		}
		return now.Sub(t).Seconds()
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, m := range []struct {
		name, kind, help string
		value            float64
	}{
		{"connected", "gauge", "1 while the revocation stream is heard; 0 while certificates go by the polled CRL alone.", flag(s.Connected)},
		{"stale_seconds", "gauge", "Time since the stream was last heard to its end; -1 if it never was.", since(s.Heard)},
		{"crl_stale_seconds", "gauge", "Time since the CRL was last known to be the newest, of the worst of them; -1 if one was never had.", since(s.CRLHeard)},
		{"certificates", "gauge", "Revoked certificates that no CRL at hand has yet.", float64(s.Certificates)},
		{"clients", "gauge", "Clients whose older tokens are refused.", float64(s.Clients)},
		{"tokens", "gauge", "Revoked tokens that have not expired.", float64(s.Tokens)},
		{"events_total", "counter", "Events taken, heartbeats included.", float64(s.Events)},
		{"connects_total", "counter", "Streams begun.", float64(s.Connects)},
		{"resets_total", "counter", "Streams that could not go on from where the one before ended.", float64(s.Resets)},
		{"forgotten_total", "counter", "Revoked certificates left to the CRL for want of room.", float64(s.Forgot)},
	} {
		fmt.Fprintf(w, "# HELP pkid_follower_%s %s\n# TYPE pkid_follower_%[1]s %[3]s\npkid_follower_%[1]s %[4]g\n", m.name, m.help, m.kind, m.value)
	}
}
