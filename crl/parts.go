package crl

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// DER is an encoding in parts, to be read one after the other. A list and the one before it have most of their
// parts in common, so nobody may change what is in them.
type DER [][]byte

// Len returns how many octets there are.
func (d DER) Len() int {
	n := 0
	for _, part := range d {
		n += len(part)
	}
	return n
}

// Bytes returns all octets in one slice, copied if there are several parts.
func (d DER) Bytes() []byte {
	if len(d) == 1 {
		return d[0]
	}
	return slices.Concat(d...)
}

// Equal reports whether both are the same octets, wherever the parts end.
func (d DER) Equal(other DER) bool {
	if d.Len() != other.Len() {
		return false
	}
	var a, b []byte
	for i, j := 0, 0; ; {
		for ; len(a) == 0 && i < len(d); i++ {
			a = d[i]
		}
		for ; len(b) == 0 && j < len(other); j++ {
			b = other[j]
		}
		n := min(len(a), len(b))
		if n == 0 {
			return true // both are at their end
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false
		}
		a, b = a[n:], b[n:]
	}
}

// cut divides d after n octets, without copying them.
func (d DER) cut(n int) (front, rest DER) {
	for i, part := range d {
		if n < len(part) {
			front = append(slices.Clone(d[:i]), part[:n:n])
			return front, append(DER{part[n:]}, d[i+1:]...)
		}
		n -= len(part)
	}
	return d, nil
}

// peek returns the first octet; zero if there is none.
func (d DER) peek() byte {
	for _, part := range d {
		if len(part) > 0 {
			return part[0]
		}
	}
	return 0
}

// take takes one element that must have one of the tags, and returns its content and what follows it.
func (d DER) take(tags ...byte) (body, rest DER, ok bool) {
	start, _ := d.cut(headroom)
	tag, length, head, ok := parseHeader(start.Bytes())
	if !ok || !slices.Contains(tags, tag) || length > d.Len()-head {
		return nil, nil, false
	}
	whole, rest := d.cut(head + length)
	_, body = whole.cut(head)
	return body, rest, true
}

// WriteTo writes all parts, without copying them.
func (d DER) WriteTo(w io.Writer) (n int64, err error) { return d.writeFrom(w, 0, int64(d.Len())) }

// writeFrom writes size octets from an offset on.
func (d DER) writeFrom(w io.Writer, offset, size int64) (n int64, err error) {
	for _, part := range d {
		if offset >= int64(len(part)) {
			offset -= int64(len(part))
			continue
		}
		part = part[offset:]
		offset = 0
		if left := size - n; int64(len(part)) > left {
			part = part[:left]
		}
		if len(part) == 0 {
			break
		}
		m, err := w.Write(part)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Reader returns a reader of all octets.
func (d DER) Reader() io.ReadSeeker { return &partsReader{parts: d, size: int64(d.Len())} }

// partsReader reads a DER. It keeps the place where it is, so that reading on costs no search.
type partsReader struct {
	parts    DER
	size, at int64
	rest     []byte // of the part that at lies in
	next     int    // the part after that
}

func (r *partsReader) Read(p []byte) (n int, err error) {
	for ; len(r.rest) == 0; r.next++ {
		if r.next == len(r.parts) {
			return 0, io.EOF
		}
		r.rest = r.parts[r.next]
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	r.at += int64(n)
	return n, nil
}

func (r *partsReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || offset > r.size {
		return 0, errors.New("seek beyond the ends of a list")
	}
	r.at, r.rest, r.next = offset, nil, 0
	for r.next < len(r.parts) && offset >= int64(len(r.parts[r.next])) {
		offset -= int64(len(r.parts[r.next]))
		r.next++
	}
	if r.next < len(r.parts) {
		r.rest = r.parts[r.next][offset:]
		r.next++
	}
	return r.at, nil
}
