package crl

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Serve answers GET and HEAD with the newest list of a shard, from memory. Its validators are
//
//   - ETag, strong, which differs for every list and for its compressed form;
//   - Last-Modified, thisUpdate. It has whole seconds, and two lists may have the same: a list that does not
//     have its second for itself is sent in full to who asks with If-Modified-Since alone (RFC 9110 section
//     8.8.2.2 calls such a date weak), or a revocation could go unnoticed until the next list.
//
// A cache may keep the list until nextUpdate; who wants to know of a revocation at once revalidates with
// Cache-Control: no-cache, as Checker does. Before the first list the answer is 503 with Retry-After, and
// 404 for a shard that is not published here.
//
// Who prefers gzip gets it once the list was compressed, which Run does after the first one has asked. A range is
// always one of the list as it is.
func (p *Publisher) Serve(w http.ResponseWriter, r *http.Request, shard Shard) {
	p.serve(w, r, p.find(shard), fullList)
}

// maxAge is for how long a cache may keep a delta list: clients ask for it in order to know of a revocation at once, and
// one question in a second for all of them is few enough.
const maxAge = time.Second

// ServeDelta answers as Serve does, with the delta list that was published with the newest list of a shard, or 404 if
// the shard has none. A cache may keep it for a second. When there is none beside the list that is served, the answer is
// 503, and the full list says everything.
func (p *Publisher) ServeDelta(w http.ResponseWriter, r *http.Request, shard Shard) {
	s := p.find(shard)
	if s != nil && s.DeltaURL == "" {
		s = nil
	}
	p.serve(w, r, s, deltaList)
}

func (p *Publisher) serve(w http.ResponseWriter, r *http.Request, s *publication, k kind) {
	if s == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a CRL can only be read", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	held := s.serving.Load()
	if held != nil && k == deltaList {
		held = held.delta.Load()
	}
	if held == nil {
		h.Set("Retry-After", "1")
		h.Set("Cache-Control", "no-store")
		http.Error(w, "no CRL is published yet", http.StatusServiceUnavailable)
		return
	}
	body, tag := held.DER, `"`+held.tag+`"`
	if wantsGzip(r) {
		if gzipped := s.gzipped(held); gzipped != nil && !names(r, tag) {
			body, tag = gzipped, `"`+held.tag+`-gzip"`
			h.Set("Content-Encoding", "gzip")
		}
	}
	age := max(held.NextUpdate.Sub(p.now()), 0)
	if k == deltaList {
		age = min(age, maxAge)
	}
	h.Set("Content-Type", "application/pkix-crl") // RFC 2585 section 4.2
	h.Set("ETag", tag)
	h.Set("Last-Modified", held.ThisUpdate.UTC().Format(http.TimeFormat))
	h.Set("Expires", p.now().Add(age).UTC().Format(http.TimeFormat))
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(age/time.Second))+", must-revalidate, no-transform")
	modified := held.ThisUpdate
	if !held.datable {
		modified = time.Time{} // ServeContent then leaves If-Modified-Since aside
	}
	http.ServeContent(newDirect(w, body), r, "", modified, body.Reader())
}

// names reports whether the request says that its sender has the form with this tag, and asks whether that is still the
// newest list. It is told of the form that it has.
func names(r *http.Request, tag string) bool {
	return strings.Contains(strings.Join(r.Header.Values("If-None-Match"), ","), tag)
}

// writeTime lets a slow link take a long list: 30 s, and a second for each 64 KiB.
func writeTime(size int) time.Duration { return 30*time.Second + time.Duration(size>>16)*time.Second }

// A list is written in steps, each of which must not stall: who takes nothing for so long takes nothing any more.
const (
	writeStep  = 256 << 10
	writeStall = 10 * time.Second
)

// direct writes the parts of a list as they are. http.ServeContent copies through io.CopyN, which hands a LimitedReader
// to whoever can read from one, and otherwise takes 32 KiB at a time through a buffer.
type direct struct {
	http.ResponseWriter
	body DER
	conn *http.ResponseController
	end  time.Time // of the whole
}

func newDirect(w http.ResponseWriter, body DER) direct {
	return direct{w, body, http.NewResponseController(w), time.Now().Add(writeTime(body.Len()))}
}

// Write writes step by step. A server's write timeout is for small answers, so that it is set anew for each.
func (d direct) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		step := p[:min(len(p), writeStep)]
		deadline := time.Now().Add(writeStall)
		if deadline.After(d.end) {
			deadline = d.end
		}
		_ = d.conn.SetWriteDeadline(deadline) // an error means that there is no connection, as in tests
		var m int
		m, err = d.ResponseWriter.Write(step)
		n, p = n+m, p[m:]
	}
	return n, err
}

// WriteHeader says how long the compressed form is, which http.ServeContent leaves out.
func (d direct) WriteHeader(status int) {
	if status == http.StatusOK {
		d.Header().Set("Content-Length", strconv.Itoa(d.body.Len()))
	}
	d.ResponseWriter.WriteHeader(status)
}

func (d direct) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		if r, ok := limited.R.(*partsReader); ok {
			return r.parts.writeFrom(d, r.at, limited.N)
		}
	}
	return io.Copy(struct{ io.Writer }{d}, src) // which does not come here again
}
