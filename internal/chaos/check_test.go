package chaos

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// scene is a ledger of some acts, and what a node shows that kept its promises.
type scene struct {
	*testing.T
	ledger *Ledger
	facts  *Facts
	root   *x509.Certificate
	issuer *x509.Certificate
	key    crypto.Signer
}

const (
	good, revoked, lostAnswer = "0000000000000000000000000000000a", "0000000000000000000000000000000b", "0000000000000000000000000000000c"
)

func newScene(t *testing.T) *scene {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, ledger: NewLedger(), key: key, facts: &Facts{
		Node: "1", Certificates: map[string]*client.Certificate{}, Clients: map[string]*client.ClientRecord{},
		Tokens: map[string]bool{}, Listed: map[string]bool{},
	}}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	s.root = s.sign(ca, ca)
	ca.Subject.CommonName = "issuing"
	s.issuer = s.sign(ca, s.root)

	s.issued("x", good, Acknowledged)
	s.issued("y", revoked, Acknowledged)
	s.issued("z", lostAnswer, Unknown)
	s.did(Act{audit.Revoke, revoked, Revoked}, Acknowledged)
	s.facts.Certificates[revoked].Status = "revoked"
	s.facts.Listed[revoked] = true
	s.did(Act{audit.ClientAdd, "app", Enabled}, Acknowledged)
	s.did(Act{audit.ClientDisable, "app", Disabled}, Unknown)
	s.facts.Clients["app"] = &client.ClientRecord{ID: "app"}
	s.ledger.Tokened(Token{JTI: "t1", ClientID: "app", At: time.Now()})
	s.facts.Tokens["t1"] = true
	s.facts.Asked = []string{good, revoked, "app"}
	return s
}

func (s *scene) sign(template, parent *x509.Certificate) *x509.Certificate {
	s.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, s.key.Public(), s.key)
	if err != nil {
		s.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.Fatal(err)
	}
	return cert
}

// certificate is one with a serial, in PEM.
func (s *scene) certificate(serial string) string {
	n, _ := new(big.Int).SetString(serial, 16)
	cert := s.sign(&x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: "client"}, NotBefore: s.issuer.NotBefore, NotAfter: s.issuer.NotAfter,
	}, s.issuer)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// issued is a certificate that an invitation gave, which a client knows of if it was acknowledged.
func (s *scene) issued(invitation, serial string, o Outcome) {
	text := s.certificate(serial)
	s.ledger.Record(Act{audit.Issue, invitation, ""}, o)
	s.log(audit.Event{Action: audit.Issue, Subject: serial, Detail: map[string]string{"invitation": invitation}})
	if o == Acknowledged {
		s.ledger.Got(Certificate{Serial: serial, PEM: text, At: time.Now()})
	}
	s.facts.Certificates[serial] = &client.Certificate{Serial: serial, Status: "active", Certificate: text}
}

// did is an act of which the log tells if it was acknowledged.
func (s *scene) did(a Act, o Outcome) {
	s.ledger.Record(a, o)
	if o == Acknowledged {
		s.log(audit.Event{Action: a.Action, Subject: a.Key})
	}
}

// log adds an entry to the audit log.
func (s *scene) log(ev audit.Event) {
	var head audit.Head
	if n := len(s.facts.Audit); n > 0 {
		head = s.facts.Audit[n-1].Head()
	}
	ev.Time, ev.Actor.Name = time.Now(), "someone"
	s.facts.Audit = append(s.facts.Audit, audit.Seal(head, ev))
}

// A run says nothing if its checker cannot find what is wrong. Here each promise is broken, and must be named.
func TestCheckerFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*scene)
		want  Rule // none if empty
	}{
		{"nothing is wrong", func(*scene) {}, ""},
		{"an act of unknown outcome was done", func(s *scene) {
			s.log(audit.Event{Action: audit.ClientDisable, Subject: "app"})
			s.facts.Clients["app"].Disabled = true
		}, ""},
		{"a certificate is gone", func(s *scene) { delete(s.facts.Certificates, good) }, LostCertificate},
		{"a certificate was replaced", func(s *scene) { s.facts.Certificates[good].Certificate = s.certificate(good) }, LostCertificate},
		{"a certificate was signed by another CA", func(s *scene) { s.issuer = s.root }, CannotBeVerified},
		{"a certificate is no certificate", func(s *scene) { s.facts.Certificates[lostAnswer].Certificate = "none" }, CannotBeVerified},
		{"a certificate has another serial", func(s *scene) { s.facts.Certificates[lostAnswer].Certificate = s.certificate(good) }, CannotBeVerified},
		{"a revocation is not recorded", func(s *scene) { s.facts.Certificates[revoked].Status = "active" }, LostState},
		{"a revocation is not published", func(s *scene) { delete(s.facts.Listed, revoked) }, LostRevocation},
		{"a good certificate is on the list", func(s *scene) { s.facts.Listed[good] = true }, Unasked},
		{"record and list differ", func(s *scene) { s.facts.Listed[lostAnswer] = true }, HalfDone},
		{"a client is gone", func(s *scene) { delete(s.facts.Clients, "app") }, LostState},
		{"a token is dead", func(s *scene) { s.facts.Tokens["t1"] = false }, LostState},
		{"a dead token lives", func(s *scene) { s.ledger.Ended("app", Acknowledged) }, LostState},
		{"an act is not in the log", func(s *scene) { s.ledger.Record(Act{audit.Hold, good, ""}, Acknowledged) }, LostAudit},
		{"the end of the log is gone", func(s *scene) { s.facts.Audit = s.facts.Audit[:4] }, LostAudit},
		{"an entry is gone", func(s *scene) { s.facts.Audit = append(s.facts.Audit[:2], s.facts.Audit[3:]...) }, AuditBroken},
		{"an entry was changed", func(s *scene) { s.facts.Audit[1].Subject = "other" }, AuditBroken},
		{"a certificate is in the log alone", func(s *scene) { delete(s.facts.Certificates, lostAnswer) }, HalfDone},
		{"a certificate is not in the log", func(s *scene) { s.facts.Audit = s.facts.Audit[:2] }, HalfDone},
		{"an act was done twice", func(s *scene) { s.log(audit.Event{Action: audit.Revoke, Subject: revoked}) }, Unasked},
		{"nobody asked for an act", func(s *scene) { s.log(audit.Event{Action: audit.Hold, Subject: good}) }, Unasked},
		{"a serial is in the log twice", func(s *scene) { s.log(audit.Event{Action: audit.Issue, Subject: good}) }, SerialTwice},
		{"an invitation is in the log twice", func(s *scene) { s.issued("x", "0000000000000000000000000000000d", Unknown) }, RedeemedTwice},
		{"two certificates have a serial", func(s *scene) {
			s.ledger.Got(Certificate{Serial: good, PEM: s.certificate(good), At: time.Now()})
		}, SerialTwice},
		{"an invitation gave two certificates", func(s *scene) {
			i := &Invitation{ID: "x"}
			s.ledger.Invited(i)
			s.ledger.Redeemed(i, good)
			s.ledger.Redeemed(i, revoked)
		}, RedeemedTwice},
		{"a proof gave two tokens", func(s *scene) {
			p := &Proof{ClientID: "app", At: time.Now()}
			s.ledger.Proved(p, true)
			s.ledger.Proved(p, false)
			s.ledger.Proved(p, true)
		}, ReplayAccepted},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.spoil(s)
			checker := NewChecker(s.ledger, s.issuer, s.root)
			found := append(checker.Check(s.facts), checker.Clients()...)
			if c.want == "" {
				for _, v := range found {
					t.Error(v)
				}
				return
			}
			for _, v := range found {
				if v.Rule == c.want {
					return
				}
			}
			t.Errorf("%q was not found, but %v", c.want, found)
		})
	}
}

// What was in doubt is known after a check, and stays as it was found.
func TestSettledStateMustStay(t *testing.T) {
	s := newScene(t)
	checker := NewChecker(s.ledger, s.issuer, s.root)
	if found := checker.Check(s.facts); len(found) > 0 {
		t.Fatal(found)
	}
	s.ledger.Settle(s.facts, time.Now())
	s.facts.Audit = nil
	s.facts.Clients["app"].Disabled = true // as it might have been, had it not been seen enabled
	if found := checker.Check(s.facts); len(found) != 1 || found[0].Rule != LostState || !found[0].Lost() {
		t.Errorf("found %v", found)
	}
}

func TestObserverComparesLists(t *testing.T) {
	list := func(number uint64, sum byte, entries map[string]int) *crlFacts {
		f := &crlFacts{number: number, entries: entries}
		f.sum[0] = sum
		return f
	}
	before := list(7, 1, map[string]int{revoked: 4, good: certificateHold})
	for _, c := range []struct {
		name string
		next *crlFacts
		want Rule
	}{
		{"a longer list", list(8, 2, map[string]int{revoked: 4, good: certificateHold, lostAnswer: 1}), ""},
		{"a release", list(8, 2, map[string]int{revoked: 4}), ""},
		{"the same list", before, ""},
		{"another list of that number", list(7, 2, before.entries), CRLWentBack},
		{"a lower number", list(6, 2, before.entries), CRLWentBack},
		{"a revocation is gone", list(8, 2, map[string]int{good: certificateHold}), CRLDropped},
	} {
		found := follows(before, c.next)
		if c.want == "" && len(found) > 0 || c.want != "" && (len(found) != 1 || found[0].Rule != c.want) {
			t.Errorf("%s: found %v, want %q", c.name, found, c.want)
		}
	}
}
