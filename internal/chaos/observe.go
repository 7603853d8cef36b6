package chaos

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/pkid/pkid/ca"
)

// observer polls a node's status listener all the time, as who relies on the CRL does, and compares each list with
// the one before it.
type observer struct {
	node   *Node
	issuer *x509.Certificate

	mu    sync.Mutex // guards what follows
	last  *crlFacts
	found []Violation
	lists int // seen
}

// crlFacts is what counts of a CRL.
type crlFacts struct {
	number  uint64
	sum     [sha256.Size]byte
	entries map[string]int // reason, by serial
}

// pollEvery is how often the list is asked for.
const pollEvery = 20 * time.Millisecond

// run polls until ctx ends.
func (o *observer) run(ctx context.Context) {
	tag := ""
	for {
		der, newTag, err := o.node.fetch(ctx, o.url(), tag)
		if err == nil && der != nil {
			o.see(der)
			tag = newTag
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
		}
	}
}

// url is where this node serves the CRL, which clients reach by another name.
func (o *observer) url() string {
	return "http://" + o.node.cfg.Listen.Status + "/crl/" + ca.IssuerID(o.issuer) + ".crl"
}

func (o *observer) see(der []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lists++
	next, err := o.read(der)
	if err != nil {
		o.found = append(o.found, Violation{Rule: CannotBeVerified, Subject: "the CRL", Detail: err.Error()})
		return
	}
	if o.last != nil {
		o.found = append(o.found, follows(o.last, next)...)
	}
	o.last = next
}

// read verifies a list with crypto/x509 alone, and not with the package that made it.
func (o *observer) read(der []byte) (*crlFacts, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if err := list.CheckSignatureFrom(o.issuer); err != nil {
		return nil, err
	}
	if list.Number == nil || !list.Number.IsUint64() {
		return nil, fmt.Errorf("its number is %v", list.Number)
	}
	facts := &crlFacts{number: list.Number.Uint64(), sum: sha256.Sum256(der), entries: map[string]int{}}
	for _, e := range list.RevokedCertificateEntries {
		facts.entries[serialText(e.SerialNumber)] = e.ReasonCode
	}
	return facts, nil
}

// certificateHold is the reason that can be taken back (RFC 5280 section 5.3.1).
const certificateHold = 6

// follows compares a list with the one that the same node showed before. None of the certificates expires during a run.
func follows(last, next *crlFacts) (found []Violation) {
	if next.number < last.number || next.number == last.number && next.sum != last.sum {
		found = append(found, Violation{Rule: CRLWentBack, Subject: fmt.Sprint(next.number), Detail: fmt.Sprintf("after %d", last.number)})
	}
	for serial, reason := range last.entries {
		if _, there := next.entries[serial]; !there && reason != certificateHold {
			found = append(found, Violation{Rule: CRLDropped, Subject: serial, Detail: fmt.Sprintf("list %d has it, and %d does not", last.number, next.number)})
		}
	}
	return found
}

// take returns what was found since the last call.
func (o *observer) take() []Violation {
	o.mu.Lock()
	defer o.mu.Unlock()
	found := o.found
	o.found = nil
	for i := range found {
		found[i].Node = o.node.Name
	}
	return found
}

// listed returns the serials on the newest list.
func (o *observer) listed() map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[string]bool{}
	if o.last != nil {
		for serial := range o.last.entries {
			out[serial] = true
		}
	}
	return out
}
