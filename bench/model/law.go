package model

import (
	"cmp"
	"fmt"
	"slices"
)

// Law says how a cost grows.
type Law struct {
	Series string
	What   string
	Of     string // what is counted: certificates or revoked
	Flat   bool   // f(n) = a; otherwise f(n) = a + b n
	Unit   Unit
	Why    string
}

// The two things that are counted.
const (
	Certificates = "certificates"
	Revoked      = "revoked"
)

// Laws are all that the model rests on.
var Laws = []Law{
	{StoreOctets, "size of the store", Certificates, false, Octets, "each certificate is written once, with what finds it and its audit entry, into pages that stay full"},
	{IssueTime, "time for each certificate issued, 32 at once", Certificates, true, Seconds, "serial numbers grow with time, so a new record goes to the end of the tree, whatever lies before it"},
	{AnswerTime, "start to the first answer", Certificates, true, Seconds, "opening the store reads a few pages, whatever its size"},
	{ListOctets, "size of the full CRL", Revoked, false, Octets, "an entry is a serial number, a date and a reason"},
	{RoundTime, "a new full CRL after one more revocation", Revoked, false, Seconds, "the list is hashed as a whole before it is signed; the rest is a commit and a signature"},
	{ListTime, "start to the full CRL being served", Revoked, false, Seconds, "the list is read and checked as a whole"},
	{Resident, "memory of the daemon with that list", Revoked, false, Octets, "the list is served from memory, and its entries are held to make the next one"},
}

// Fit is a law with its constants.
type Fit struct{ A, B float64 }

// At is what the law says for a size.
func (f Fit) At(n float64) float64 { return f.A + f.B*n }

// fit finds the constants with the least sum of squares of relative errors, so that small sizes count as much as
// large ones. No cost is negative, and none shrinks with size.
func (l Law) fit(points []Point) (Fit, error) {
	if len(points) == 0 || (!l.Flat && len(points) < 2) {
		return Fit{}, fmt.Errorf("%s: %d measurements are too few", l.Series, len(points))
	}
	// The sums of 1, n, n*n, and of these times the value, each weighted with 1/value^2.
	var s, sn, snn, sy, sny float64
	for _, p := range points {
		if p.Value <= 0 {
			return Fit{}, fmt.Errorf("%s: a measurement of %g", l.Series, p.Value)
		}
		w := 1 / (p.Value * p.Value)
		s, sn, snn = s+w, sn+w*p.Size, snn+w*p.Size*p.Size
		sy, sny = sy+w*p.Value, sny+w*p.Size*p.Value
	}
	f := Fit{A: sy / s}
	if d := s*snn - sn*sn; !l.Flat && d > 0 {
		f = Fit{A: (snn*sy - sn*sny) / d, B: (s*sny - sn*sy) / d}
	}
	switch {
	case f.B < 0:
		f = Fit{A: sy / s}
	case f.A < 0:
		f = Fit{B: sny / snn}
	}
	return f, nil
}

// Check compares a law with a size that was left out of the fit.
type Check struct {
	Law
	Size                float64
	Predicted, Measured float64
}

// Off is how far the prediction lies from the measurement, as a share of that.
func (c Check) Off() float64 {
	off := (c.Predicted - c.Measured) / c.Measured
	return max(off, -off)
}

// points are a series in order of size.
func (d *Data) points(l Law) []Point {
	out := slices.Clone(d.Series[l.Series])
	slices.SortFunc(out, func(a, b Point) int { return cmp.Compare(a.Size, b.Size) })
	return out
}

// Check fits the law to all sizes but the largest, and predicts that one: it is the farthest from the others, as
// what the model is for lies beyond all of them.
func (d *Data) Check(l Law) (Check, error) {
	points := d.points(l)
	if len(points) < 3 {
		return Check{}, fmt.Errorf("%s: %d sizes are too few to leave one out", l.Series, len(points))
	}
	last := points[len(points)-1]
	f, err := l.fit(points[:len(points)-1])
	return Check{Law: l, Size: last.Size, Predicted: f.At(last.Size), Measured: last.Value}, err
}

// Fit fits the law to all sizes.
func (d *Data) Fit(l Law) (Fit, error) { return l.fit(d.points(l)) }

// law returns one of Laws.
func law(series string) Law {
	return Laws[slices.IndexFunc(Laws, func(l Law) bool { return l.Series == series })]
}
