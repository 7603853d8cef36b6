package crl

import (
	"compress/gzip"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	minGzip  = 1 << 10     // octets: a list that is shorter is not worth it
	calmGzip = time.Second // a list that is replaced sooner is not worth it either
)

// gzipped returns the compressed form of a list, or nil and asks for it.
func (s *publication) gzipped(held *served) DER {
	if done := held.gzipped.Load(); done != nil {
		return *done
	}
	if held.DER.Len() >= minGzip {
		select {
		case s.compress <- held:
		default: // another request waits already, for this one or for one that is gone soon
		}
	}
	return nil
}

// compressAsked compresses lists that somebody asked for until ctx ends, one at a time, each once, and only those that
// stay.
func (p *Publisher) compressAsked(ctx context.Context, s *publication) {
	for {
		var held *served
		select {
		case <-ctx.Done():
			return
		case held = <-s.compress:
		}
		newest := func() bool {
			full := s.serving.Load()
			return ctx.Err() == nil && (full == held || full.delta.Load() == held)
		}
		if held.gzipped.Load() != nil || !newest() || !sleep(ctx, calmGzip) || !newest() {
			continue
		}
		if done := compress(held.DER, newest); done != nil {
			held.gzipped.Store(&done)
		}
	}
}

// compress returns nil if it is told not to go on. The octets of serial numbers are random, so the fastest level gets
// nearly all there is to get.
func compress(list DER, goOn func() bool) DER {
	var out blocksOf
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil // there is such a level
	}
	for _, part := range list {
		if !goOn() {
			return nil
		}
		_, _ = z.Write(part) // memory takes everything
	}
	_ = z.Close()
	last := len(out) - 1
	out[last] = fitted(out[last])
	return DER(out)
}

// blocksOf collects what is written, without moving what it has when it grows.
type blocksOf DER

func (b *blocksOf) Write(p []byte) (int, error) {
	rest := p
	for len(rest) > 0 {
		last := len(*b) - 1
		if last < 0 || len((*b)[last]) == cap((*b)[last]) {
			*b = append(*b, make([]byte, 0, blockSize))
			last++
		}
		n := min(len(rest), cap((*b)[last])-len((*b)[last]))
		(*b)[last] = append((*b)[last], rest[:n]...)
		rest = rest[n:]
	}
	return len(p), nil
}

// wantsGzip reports whether a client takes gzip, likes it no less than the list as it is (RFC 9110 section 12.5.3), and
// wants no range.
func wantsGzip(r *http.Request) bool {
	if r.Header.Get("Range") != "" {
		return false
	}
	compressed, other, identity := -1.0, 0.0, 0.0
	for _, value := range r.Header.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(value, ",") {
			coding, params, _ := strings.Cut(item, ";")
			q := quality(params)
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "gzip", "x-gzip":
				compressed = q
			case "*":
				other = q
			case "identity":
				identity = q
			}
		}
	}
	if compressed < 0 {
		compressed = other
	}
	return compressed > 0 && compressed >= identity
}

// quality reads a q parameter. What cannot be read is a no.
func quality(params string) float64 {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1
	}
	value, ok := strings.CutPrefix(strings.ToLower(params), "q=")
	q, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}
