package crl

import (
	"net/http"
	"strconv"
	"time"
)

// Serve answers GET and HEAD with the newest list of a shard, from memory. Its validators are
//
//   - ETag, strong, which differs for every list;
//   - Last-Modified, thisUpdate. It has whole seconds, and two lists may have the same: a list that does not
//     have its second for itself is sent in full to who asks with If-Modified-Since alone (RFC 9110 section
//     8.8.2.2 calls such a date weak), or a revocation could go unnoticed until the next list.
//
// A cache may keep the list until nextUpdate; who wants to know of a revocation at once revalidates with
// Cache-Control: no-cache, as Checker does. Before the first list the answer is 503 with Retry-After, and
// 404 for a shard that is not published here.
func (p *Publisher) Serve(w http.ResponseWriter, r *http.Request, shard Shard) {
	s := p.shards[shard]
	if s == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a CRL can only be read", http.StatusMethodNotAllowed)
		return
	}
	held := s.serving.Load()
	if held == nil {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "no CRL has been published yet", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	age := max(held.NextUpdate.Sub(p.now()), 0)
	h.Set("Content-Type", "application/pkix-crl") // RFC 2585 section 4.2
	h.Set("ETag", `"`+held.tag+`"`)
	h.Set("Last-Modified", held.ThisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Expires", held.NextUpdate.UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(age/time.Second))+", must-revalidate, no-transform")
	modified := held.ThisUpdate
	if !held.datable {
		modified = time.Time{} // ServeContent then leaves If-Modified-Since aside
	}
	// A server's write timeout is for small answers. An error means that this one has none, as in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime(held.DER.Len())))
	http.ServeContent(w, r, "", modified, held.DER.Reader())
}

// writeTime lets a slow link take a long list: 30 s, and a second for each 64 KiB.
func writeTime(size int) time.Duration { return 30*time.Second + time.Duration(size>>16)*time.Second }
