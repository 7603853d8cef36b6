package web

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/pkid/pkid/internal/admission"
)

// underWay counts the requests of a listener, those of each address apart: one that makes as many as it can, over as many
// connections and streams as it may have, leaves room for the others.
type underWay struct {
	cut atomic.Uint64

	mu   sync.Mutex // guards the rest
	all  int
	from map[admission.Address]int
}

// begin panics as a handler does that cuts its connection, if there are too many. An answer would have to be kept until
// its reader takes it, and who makes so many does not. Otherwise the caller calls end.
func (u *underWay) begin(from admission.Address, c LimitsConfig) {
	if !u.enter(from, c) {
		u.cut.Add(1)
		panic(http.ErrAbortHandler)
	}
}

func (u *underWay) enter(from admission.Address, c LimitsConfig) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.UnderWay > 0 && u.all >= c.UnderWay || c.UnderWayPerAddress > 0 && u.from[from] >= c.UnderWayPerAddress {
		return false
	}
	if u.from == nil {
		u.from = map[admission.Address]int{}
	}
	u.all++
	u.from[from]++
	return true
}

func (u *underWay) end(from admission.Address) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all--
	if u.from[from]--; u.from[from] == 0 {
		delete(u.from, from)
	}
}

// readAhead reads a request's body before there is a place for its work, which who sends it slowly, or not at all, would
// otherwise hold. What goes wrong the handler hears of when it reads, and answers in its own way.
func readAhead(r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	body := r.Body
	text, err := io.ReadAll(body)
	r.Body = &ahead{bytes.NewReader(text), err, body}
}

// ahead is a body that was read.
type ahead struct {
	text *bytes.Reader
	err  error // what reading ended with; nil: the body did
	io.Closer
}

func (a *ahead) Read(p []byte) (int, error) {
	n, err := a.text.Read(p)
	if err == io.EOF && a.err != nil {
		err = a.err
	}
	return n, err
}
