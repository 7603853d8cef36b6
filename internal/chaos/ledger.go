package chaos

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pkid/pkid/internal/audit"
)

// Outcome is what a client learned of an act that it asked for.
type Outcome int

// The outcomes. An act whose answer never came, or was an error of the server (5xx), may have been done or not.
const (
	Acknowledged Outcome = iota // done: the answer said so
	Unknown                     // done or not
	Refused                     // not done: the request was refused (4xx), or was never sent
)

// State is what a thing is at a time.
type State string

// The states of certificates, clients and tokens.
const (
	Active   State = "active"   // of a certificate or token
	Held     State = "held"     // of a certificate
	Revoked  State = "revoked"  // of a certificate or token
	Enabled  State = "enabled"  // of a client
	Disabled State = "disabled" // of a client
	Absent   State = "absent"
)

// Act is something that a client asked for: the name under which the audit log has it, what it was done to, and what
// that is afterwards.
type Act struct {
	Action string
	Key    string // as keyOf finds it in an audit entry
	After  State  // empty: the act changes no state
}

// keyOf is what an audit entry speaks of in a way that a client knows even if the answer was lost: a certificate's
// serial is in the answer alone.
func keyOf(e *audit.Entry) (key string) {
	switch e.Action {
	case audit.Issue:
		key = e.Detail["invitation"]
	case audit.Renew:
		key = e.Detail["renews"]
	case audit.Invite:
		key = e.Detail["client"] // each client here has one invitation
	}
	if key == "" {
		return e.Subject
	}
	return key
}

// Certificate is one that a client got.
type Certificate struct {
	Serial   string
	PEM      string
	ClientID string
	At       time.Time // when the client had it
}

// Invitation is one that a client got, and the request that was or will be sent with it.
type Invitation struct {
	ID, ClientID string
	Token        string
	CSR          string
	Serials      []string // of the certificates that came back, without repetition
	Sent         bool     // the request was sent at least once
}

// Proof is a DPoP proof that was sent with a token request, and how often that gave a token.
type Proof struct {
	ClientID, Secret string
	Text             string
	Accepted         int
	At               time.Time
}

// Token is an access token that a client got.
type Token struct {
	JTI, ClientID, Secret string
	Text                  string
	At                    time.Time
}

// count is how often an act was asked for.
type count struct{ acknowledged, unknown int }

// Ledger is what the clients know between them. Its methods may be called at once.
type Ledger struct {
	mu           sync.Mutex // guards what follows
	certificates map[string]*Certificate
	invitations  map[string]*Invitation
	tokens       map[string]*Token
	proofs       map[*Proof]bool
	may          map[string][]State // by serial, client id or jti: what it may be; one state if nothing is in doubt
	acts         map[Act]count      // asked for, with After left out
	touched      map[string]bool    // keys of what was acted on since the last Settle
	clashes      []Violation
	acknowledged map[string]int // by action
	unknown      int
}

// NewLedger returns an empty one.
func NewLedger() *Ledger {
	return &Ledger{
		certificates: map[string]*Certificate{}, invitations: map[string]*Invitation{}, tokens: map[string]*Token{},
		proofs: map[*Proof]bool{}, may: map[string][]State{}, acts: map[Act]count{}, touched: map[string]bool{}, acknowledged: map[string]int{},
	}
}

// Record notes an act and what came of it.
func (l *Ledger) Record(a Act, o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o == Refused {
		return
	}
	after := a.After
	a.After = ""
	n := l.acts[a]
	if o == Acknowledged {
		n.acknowledged++
		l.acknowledged[a.Action]++
	} else {
		n.unknown++
		l.unknown++
	}
	l.acts[a] = n
	l.touched[a.Key] = true
	switch {
	case after == "":
	case o == Acknowledged:
		l.may[a.Key] = []State{after}
	case len(l.may[a.Key]) == 0: // it would be the first that is known of the thing
		l.may[a.Key] = []State{Absent, after}
	case !slices.Contains(l.may[a.Key], after):
		l.may[a.Key] = append(l.may[a.Key], after)
	}
}

// Exempt allows the log a further entry of an act, which somebody else may have caused.
func (l *Ledger) Exempt(a Act) { l.Record(a, Unknown) }

// Got notes a certificate, and clashes with another one of the same serial.
func (l *Ledger) Got(c Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other := l.certificates[c.Serial]; other == nil {
		l.certificates[c.Serial] = &c
		l.may[c.Serial] = []State{Active}
	} else if other.PEM != c.PEM {
		l.clashes = append(l.clashes, Violation{Rule: SerialTwice, Subject: c.Serial, Detail: "two certificates with this serial were acknowledged"})
	}
	l.touched[c.Serial] = true
}

// Invited notes an invitation.
func (l *Ledger) Invited(i *Invitation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.invitations[i.ID] = i
}

// Redeemed notes that the invitation's request was sent, and the serial of the certificate that came back, if one did.
func (l *Ledger) Redeemed(i *Invitation, serial string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i.Sent = true
	if serial != "" && !slices.Contains(i.Serials, serial) {
		i.Serials = append(i.Serials, serial)
	}
}

// Proved notes how a proof fared: every sending of it is told here.
func (l *Ledger) Proved(p *Proof, accepted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proofs[p] = true
	if accepted {
		p.Accepted++
	}
}

// tokens is what the report calls tokens that were issued; the audit log does not have them.
const tokens = "token.issue"

// Tokened notes a token.
func (l *Ledger) Tokened(t Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens[t.JTI] = &t
	l.may[t.JTI] = []State{Active}
	l.acknowledged[tokens]++
	l.touched[t.JTI] = true
}

// Ended notes that a client was disabled, and with what outcome: so were its tokens.
func (l *Ledger) Ended(clientID string, o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for jti, t := range l.tokens {
		if t.ClientID != clientID || o == Refused {
			continue
		}
		l.touched[jti] = true
		if o == Acknowledged {
			l.may[jti] = []State{Revoked}
		} else if !slices.Contains(l.may[jti], Revoked) {
			l.may[jti] = append(l.may[jti], Revoked)
		}
	}
}

// May returns the states in which a thing may be.
func (l *Ledger) May(key string) []State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.may[key])
}

// Complain adds a violation that a client saw.
func (l *Ledger) Complain(v Violation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clashes = append(l.clashes, v)
}

// remembered is for how long tokens and proofs are looked at: shorter than either counts.
const remembered = 50 * time.Second

// Settle takes what a check found for what is, forgets what is too old to say anything, and begins the next round.
func (l *Ledger) Settle(f *Facts, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, state := range f.states() {
		if slices.Contains(l.may[key], state) {
			l.may[key] = []State{state}
		}
	}
	for jti, t := range l.tokens {
		if now.Sub(t.At) > remembered {
			delete(l.tokens, jti)
			delete(l.may, jti)
		}
	}
	maps.DeleteFunc(l.proofs, func(p *Proof, _ bool) bool { return now.Sub(p.At) > remembered })
	l.clashes = nil
	clear(l.invitations) // the audit log's entries tell of a second certificate from now on
	clear(l.touched)
}

// pendingInvitations returns those of this round.
func (l *Ledger) pendingInvitations() []*Invitation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.invitations))
}

// recentProofs returns at most n proofs that count still, in no order.
func (l *Ledger) recentProofs(n int) (out []*Proof) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.proofs {
		if len(out) < n && time.Since(p.At) < remembered {
			out = append(out, p)
		}
	}
	return out
}

// asked reports whether an act was asked for before.
func (l *Ledger) asked(action, key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acts[Act{Action: action, Key: key}] != count{}
}
