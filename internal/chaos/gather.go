package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// crlDue is how long after a recovery a revocation may wait for its CRL. A working node takes some 30 ms.
const crlDue = 10 * time.Second

// gather asks a node for all that a check compares. Certificates issued since an instant are listed, so that those
// are found too that nobody was told of; what was acted on before is asked for one by one.
func (r *run) gather(ctx context.Context, o *observer, since time.Time, sample int, withAudit bool) (*Facts, error) {
	f := &Facts{Node: o.node.Name, Certificates: map[string]*client.Certificate{}, Clients: map[string]*client.ClientRecord{}, Tokens: map[string]bool{}}
	var err error
	if withAudit {
		if f.Audit, err = readAudit(ctx, o.node, r.checker.Head); err != nil {
			return nil, err
		}
	}
	if err := listCertificates(ctx, o.node, since, f); err != nil {
		return nil, err
	}
	serials, clients, issued := r.checker.Questions(sample)
	for _, serial := range serials {
		if f.Certificates[serial] != nil {
			continue
		}
		c, err := lookup[client.Certificate](ctx, o.node, "/v1/certificates/"+serial)
		if err != nil {
			return nil, err
		}
		if f.Asked = append(f.Asked, serial); c != nil {
			f.Certificates[serial] = c
		}
	}
	for _, id := range clients {
		c, err := lookup[client.ClientRecord](ctx, o.node, "/v1/clients/"+url.PathEscape(id))
		if err != nil {
			return nil, err
		}
		if f.Asked = append(f.Asked, id); c != nil {
			f.Clients[id] = c
		}
	}
	for _, t := range issued {
		var answer struct {
			Active bool `json:"active"`
		}
		header := http.Header{"Authorization": {basic(r.reader.id, r.reader.secret)}}
		if err := insist(ctx, func() error {
			return call(ctx, o.node.anyone, http.MethodPost, o.node.urls.Public+"/oauth/introspect", header, url.Values{"token": {t.Text}}, &answer)
		}); err != nil {
			return nil, fmt.Errorf("introspecting: %w", err)
		}
		f.Tokens[t.JTI] = answer.Active
	}
	f.Listed, err = r.awaitList(ctx, o)
	return f, err
}

// readAudit reads the audit log from where it was read before.
func readAudit(ctx context.Context, n *Node, head audit.Head) (all []audit.Entry, err error) {
	for {
		var page struct {
			Entries []audit.Entry `json:"entries"`
		}
		if err := n.read(ctx, "/v1/audit?limit=1000&after="+strconv.FormatUint(head.Seq, 10), &page); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		if len(page.Entries) == 0 {
			return all, nil
		}
		all = append(all, page.Entries...)
		head = all[len(all)-1].Head()
	}
}

// listCertificates lists what was issued since an instant, newest first.
func listCertificates(ctx context.Context, n *Node, since time.Time, f *Facts) error {
	for cursor := ""; ; {
		var page client.Certificates
		q := url.Values{"limit": {"1000"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if err := n.read(ctx, "/v1/certificates?"+q.Encode(), &page); err != nil {
			return fmt.Errorf("listing certificates: %w", err)
		}
		for i := range page.Certificates {
			c := &page.Certificates[i]
			if c.IssuedAt.Before(since) {
				return nil
			}
			f.Certificates[c.Serial] = c
		}
		if cursor = page.NextCursor; cursor == "" {
			return nil
		}
	}
}

// lookup returns nil for what is not there.
func lookup[T any](ctx context.Context, n *Node, path string) (*T, error) {
	out := new(T)
	err := n.read(ctx, path, out)
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return out, nil
}

// awaitList waits until the newest list says what it must, and returns it in any case when the time is up: the check
// names what is missing.
func (r *run) awaitList(ctx context.Context, o *observer) (map[string]bool, error) {
	deadline := time.Now().Add(crlDue)
	for {
		listed := o.listed()
		missing, extra := r.checker.Pending(listed)
		if len(missing)+len(extra) == 0 || time.Now().After(deadline) {
			return listed, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// redeemAgain sends the request of every invitation of the round again, twice, and then another request: the first
// gives the one certificate, and the other is refused.
func (r *run) redeemAgain(ctx context.Context, n *Node) error {
	for _, i := range r.ledger.pendingInvitations() {
		for range 2 {
			cert, err := redeemSurely(ctx, n, i, i.CSR)
			if err != nil && outcomeOf(err) != Refused {
				return fmt.Errorf("redeeming again: %w", err)
			}
			if err != nil {
				r.ledger.Complain(Violation{Rule: LostInvitation, Node: n.Name, Subject: i.ID, Detail: err.Error()})
				break
			}
			if !slices.Contains(i.Serials, cert.Serial) {
				if len(i.Serials) == 0 && !r.ledger.asked(audit.Issue, i.ID) {
					r.ledger.Record(Act{audit.Issue, i.ID, ""}, Acknowledged)
				}
				r.ledger.Got(Certificate{cert.Serial, cert.Certificate, cert.ClientID, time.Now()})
			}
			r.ledger.Redeemed(i, cert.Serial)
		}
		other, err := newCSR(r.workers[0].key, i.ClientID) // signed anew, and thus another
		if err != nil {
			return err
		}
		cert, err := redeemSurely(ctx, n, i, other)
		if err == nil {
			r.ledger.Complain(Violation{Rule: RedeemedTwice, Node: n.Name, Subject: i.ID, Detail: "another request got certificate " + cert.Serial})
		} else if outcomeOf(err) != Refused {
			return fmt.Errorf("redeeming with another request: %w", err)
		}
	}
	return nil
}

func redeemSurely(ctx context.Context, n *Node, i *Invitation, csr string) (cert *client.Certificate, err error) {
	err = insist(ctx, func() error { cert, err = redeem(ctx, n, i, csr); return err })
	return cert, err
}

// replay sends proofs again that were sent before the fault, each to one node: none may give a second token.
func (r *run) replay(ctx context.Context, nodes []*Node, most int) error {
	for i, p := range r.ledger.recentProofs(most) {
		err := insist(ctx, func() error { _, err := r.ledger.prove(ctx, nodes[i%len(nodes)], p); return err })
		if err != nil && outcomeOf(err) != Refused {
			return fmt.Errorf("replaying a proof: %w", err)
		}
		r.replayed++
	}
	return nil
}
