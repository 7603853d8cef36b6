package chaos

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// Rule is a promise of which a violation was found.
type Rule string

// The promises.
const (
	LostCertificate  Rule = "an acknowledged certificate is not there as it was"
	LostState        Rule = "an acknowledged change of a certificate, client or token is not there"
	LostRevocation   Rule = "an acknowledged revocation is not in the CRL"
	LostInvitation   Rule = "an acknowledged invitation does not give its certificate"
	LostAudit        Rule = "an acknowledged act has no audit entry"
	SerialTwice      Rule = "a serial number was used twice"
	RedeemedTwice    Rule = "an invitation was redeemed twice"
	ReplayAccepted   Rule = "a DPoP proof was accepted twice"
	AuditBroken      Rule = "the audit chain is broken"
	Unasked          Rule = "something is there that nobody asked for"
	HalfDone         Rule = "an act is there in part"
	CRLWentBack      Rule = "a CRL number did not grow"
	CRLDropped       Rule = "a CRL lacks what the one before it had"
	RefusedWrongly   Rule = "a request that had to be granted was refused"
	CannotBeVerified Rule = "something cannot be read or verified"
)

// lost are the rules whose violation means that an acknowledged operation is gone.
var lost = []Rule{LostCertificate, LostState, LostRevocation, LostInvitation, LostAudit}

// Violation is a broken promise.
type Violation struct {
	Rule    Rule
	Node    string // which one showed it; empty: a client saw it
	Subject string // a serial, a client id, an invitation id, ...
	Detail  string
}

// Lost reports whether an acknowledged operation is gone.
func (v Violation) Lost() bool { return slices.Contains(lost, v.Rule) }

func (v Violation) String() string {
	return fmt.Sprintf("%s: %s: %s (node %s)", v.Rule, v.Subject, v.Detail, cmp.Or(v.Node, "of a client"))
}

// Facts are what a node shows after a fault.
type Facts struct {
	Node         string
	Asked        []string                       // the keys that were asked for: what is not below is not there
	Certificates map[string]*client.Certificate // by serial
	Clients      map[string]*client.ClientRecord
	Tokens       map[string]bool // by jti: whether introspection calls it active
	Listed       map[string]bool // serials on the newest CRL, which was waited for until it had what it must have
	Audit        []audit.Entry   // those after Checker.Head; of other nodes than the first, none
}

// states are what was asked for is, by key.
func (f *Facts) states() map[string]State {
	out := map[string]State{}
	for _, key := range f.Asked {
		out[key] = Absent
	}
	for serial, c := range f.Certificates {
		out[serial] = State(c.Status)
	}
	for id, c := range f.Clients {
		out[id] = Enabled
		if c.Disabled {
			out[id] = Disabled
		}
	}
	for jti, active := range f.Tokens {
		out[jti] = Revoked
		if active {
			out[jti] = Active
		}
	}
	return out
}

// Checker compares what nodes show with what clients know. It remembers the audit log that it has seen.
type Checker struct {
	ledger  *Ledger
	issuer  *x509.Certificate
	roots   *x509.CertPool
	entries map[Act]int     // in the log up to the last Check
	issued  map[string]bool // serials in the log
	stored  map[string]bool // serials that a node showed
	Head    audit.Head      // of the log up to the last Check
}

// NewChecker returns a checker of what the issuing CA below root issues.
func NewChecker(l *Ledger, issuer, root *x509.Certificate) *Checker {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &Checker{ledger: l, issuer: issuer, roots: roots, entries: map[Act]int{}, issued: map[string]bool{}, stored: map[string]bool{}}
}

// Check returns what a node's facts violate. Facts of several nodes are checked one after the other; those of the
// first one hold the new audit entries.
func (c *Checker) Check(f *Facts) []Violation {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	found := slices.Concat(c.log(f), c.states(f), c.certificates(f), c.list(f))
	for i := range found {
		found[i].Node = f.Node
	}
	return found
}

// Clients returns what clients saw themselves: a serial of two certificates, a proof that gave two tokens, an
// invitation that gave two certificates.
func (c *Checker) Clients() (found []Violation) {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	found = slices.Clone(l.clashes)
	for _, i := range l.invitations {
		if len(i.Serials) > 1 {
			found = append(found, Violation{Rule: RedeemedTwice, Subject: i.ID, Detail: fmt.Sprintf("it gave the certificates %v", i.Serials)})
		}
	}
	for p := range l.proofs {
		if p.Accepted > 1 {
			found = append(found, Violation{Rule: ReplayAccepted, Subject: p.ClientID, Detail: fmt.Sprintf("one proof gave %d tokens", p.Accepted)})
		}
	}
	return found
}

// log checks that the chain goes on where it ended, that each act is in it as often as it was acknowledged, and no more
// often than it was asked for.
func (c *Checker) log(f *Facts) (found []Violation) {
	for _, e := range f.Audit {
		head, err := audit.Verify(c.Head, e)
		if err != nil {
			return append(found, Violation{Rule: AuditBroken, Subject: fmt.Sprint(e.Seq), Detail: err.Error()})
		}
		c.Head = head
		if e.Action == audit.Issue || e.Action == audit.Renew {
			if c.issued[e.Subject] {
				found = append(found, Violation{Rule: SerialTwice, Subject: e.Subject, Detail: "the audit log has it twice"})
			}
			c.issued[e.Subject] = true
		}
		if e.Actor == "pkid" {
			continue // the daemon's own certificate
		}
		act := Act{Action: e.Action, Key: keyOf(&e)}
		c.entries[act]++
		switch n, asked := c.entries[act], c.ledger.acts[act]; {
		case e.Action == audit.Issue && n > 1:
			found = append(found, Violation{Rule: RedeemedTwice, Subject: act.Key, Detail: "the audit log has two certificates for it"})
		case n > asked.acknowledged+asked.unknown:
			found = append(found, Violation{Rule: Unasked, Subject: act.Key, Detail: fmt.Sprintf("%s: %d in the audit log, of %d asked for", act.Action, n, asked.acknowledged+asked.unknown)})
		}
	}
	for act, n := range c.ledger.acts {
		if logged := c.entries[act]; logged < n.acknowledged {
			found = append(found, Violation{Rule: LostAudit, Subject: act.Key, Detail: fmt.Sprintf("%s: %d in the audit log, of %d acknowledged", act.Action, logged, n.acknowledged)})
		}
	}
	return found
}

// states checks that what was asked for is in a state in which it may be.
func (c *Checker) states(f *Facts) (found []Violation) {
	for key, is := range f.states() {
		may := c.ledger.may[key]
		switch {
		case len(may) == 0 || slices.Contains(may, is):
		case is == Absent && c.ledger.certificates[key] != nil:
			found = append(found, Violation{Rule: LostCertificate, Subject: key, Detail: "it is not in the store"})
		default:
			found = append(found, Violation{Rule: LostState, Subject: key, Detail: fmt.Sprintf("it is %s, and should be %v", is, may)})
		}
	}
	return found
}

// certificates checks that each certificate verifies, is the one that was handed out, and is in the audit log, and that
// the log has none that is not there.
func (c *Checker) certificates(f *Facts) (found []Violation) {
	for serial, cert := range f.Certificates {
		if err := c.verify(serial, cert.Certificate); err != nil {
			found = append(found, Violation{Rule: CannotBeVerified, Subject: serial, Detail: err.Error()})
		}
		if known := c.ledger.certificates[serial]; known != nil && known.PEM != cert.Certificate {
			found = append(found, Violation{Rule: LostCertificate, Subject: serial, Detail: "another certificate is in its place"})
		}
		if !c.issued[serial] {
			found = append(found, Violation{Rule: HalfDone, Subject: serial, Detail: "the certificate is stored, and the audit log does not have it"})
		}
		c.stored[serial] = true
	}
	for serial := range c.issued {
		if !c.stored[serial] {
			found = append(found, Violation{Rule: HalfDone, Subject: serial, Detail: "the audit log has it, and the certificate is not stored"})
		}
	}
	return found
}

func (c *Checker) verify(serial, text string) error {
	if c.stored[serial] && c.ledger.certificates[serial] != nil {
		return nil // it did before, and is compared with what was handed out
	}
	cert, err := parse(text)
	if err != nil {
		return err
	}
	if got := serialText(cert.SerialNumber); got != serial {
		return fmt.Errorf("it is certificate %s", got)
	}
	between := x509.NewCertPool()
	between.AddCert(c.issuer)
	_, err = cert.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func parse(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// list checks that the CRL has what is revoked or held without doubt, and nothing that is active without doubt.
func (c *Checker) list(f *Facts) (found []Violation) {
	for serial := range c.ledger.certificates {
		switch must, may := onList(c.ledger.may[serial]); {
		case must && !f.Listed[serial]:
			found = append(found, Violation{Rule: LostRevocation, Subject: serial, Detail: fmt.Sprintf("it is %v", c.ledger.may[serial])})
		case !may && f.Listed[serial]:
			found = append(found, Violation{Rule: Unasked, Subject: serial, Detail: fmt.Sprintf("it is on the CRL, and %v", c.ledger.may[serial])})
		}
	}
	for serial, cert := range f.Certificates {
		if revoked := cert.Status == string(Revoked) || cert.Status == string(Held); revoked != f.Listed[serial] {
			found = append(found, Violation{Rule: HalfDone, Subject: serial, Detail: fmt.Sprintf("it is %s, and on the CRL: %v", cert.Status, f.Listed[serial])})
		}
	}
	return found
}

// onList reports whether a certificate in one of these states must and may be on the CRL.
func onList(states []State) (must, may bool) {
	on := func(s State) bool { return s == Revoked || s == Held }
	off := slices.ContainsFunc(states, func(s State) bool { return !on(s) })
	return len(states) > 0 && !off, slices.ContainsFunc(states, on)
}

// Pending returns the serials that the CRL must have and lacks, and those that it has and must not have.
func (c *Checker) Pending(listed map[string]bool) (missing, extra []string) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	for serial := range c.ledger.certificates {
		switch must, may := onList(c.ledger.may[serial]); {
		case must && !listed[serial]:
			missing = append(missing, serial)
		case !may && listed[serial]:
			extra = append(extra, serial)
		}
	}
	return missing, extra
}

// Questions are the keys to ask a node for: what was acted on in this round, and some of what is older.
func (c *Checker) Questions(sample int) (serials, clients []string, tokens []*Token) {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for serial := range l.certificates {
		if l.touched[serial] {
			serials = append(serials, serial)
		} else if sample > 0 { // a map's order is another each time
			sample--
			serials = append(serials, serial)
		}
	}
	for key := range l.touched {
		if l.certificates[key] == nil && l.tokens[key] == nil && slices.ContainsFunc(l.may[key], func(s State) bool { return s == Enabled || s == Disabled }) {
			clients = append(clients, key)
		}
	}
	for _, jti := range slices.Sorted(maps.Keys(l.tokens)) {
		if l.touched[jti] && time.Since(l.tokens[jti].At) < remembered {
			tokens = append(tokens, l.tokens[jti])
		}
	}
	return serials, clients, tokens
}
