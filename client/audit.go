package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// AuditHead is an entry of the audit log, by number and hash. The zero one stands before the first.
type AuditHead struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"` // 64 hex digits
}

// AuditEntries is the answer of GET /v1/audit. An empty list marks the end.
type AuditEntries struct {
	Base    AuditHead         `json:"base"` // what the oldest kept entry follows; zero until some were archived
	Head    AuditHead         `json:"head"` // the newest entry
	Entries []json.RawMessage `json:"entries"`
}

// AuditEnds returns where the audit log begins and ends.
func (a *API) AuditEnds(ctx context.Context) (base, head AuditHead, err error) {
	page, err := get[AuditEntries](ctx, a, "/v1/audit", url.Values{"limit": {"1"}})
	if err != nil {
		return base, head, err
	}
	return page.Base, page.Head, nil
}

// Audit yields the audit log after an entry's number, each entry as the JSON that its hash covers. An error
// ends it.
func (a *API) Audit(ctx context.Context, after uint64) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for {
			page, err := get[AuditEntries](ctx, a, "/v1/audit", url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {"250"}})
			if err != nil {
				yield(nil, err)
				return
			}
			if len(page.Entries) == 0 {
				return
			}
			for _, entry := range page.Entries {
				var head struct {
					Seq uint64 `json:"seq"`
				}
				if err := json.Unmarshal(entry, &head); err != nil || head.Seq <= after {
					yield(nil, fmt.Errorf("the audit log's answer does not go on after entry %d", after))
					return
				}
				after = head.Seq
				if !yield(entry, nil) {
					return
				}
			}
		}
	}
}

// ArchivedAudit has the CA drop the oldest audit entries, up to one that the caller has kept elsewhere, and returns
// where its log begins then. The newest entry always stays. What was dropped cannot be asked for again.
func (a *API) ArchivedAudit(ctx context.Context, upTo AuditHead) (base AuditHead, err error) {
	for {
		next, err := send[AuditHead](ctx, a, http.MethodPost, "/v1/audit/archived", upTo)
		if err != nil {
			return base, err
		}
		if *next == upTo || *next == base { // all of it, or all that goes
			return *next, nil
		}
		base = *next
	}
}
