package model

import (
	"math"
	"strconv"
	"strings"
)

// Unit says how a measure is written for people.
type Unit int

// The units of measures.
const (
	Number  Unit = iota
	Times        // a ratio
	Seconds      // of time
	Octets       // of memory, disk or network
	Share        // of a whole, as percent
)

type step struct {
	from   float64 // the least that is written so
	one    float64
	suffix string
}

// steps of each unit, from the largest.
var steps = map[Unit][]step{
	Number:  {{0, 1, ""}},
	Times:   {{0, 1, "x"}},
	Share:   {{0, 0.01, "%"}},
	Seconds: {{1, 1, " s"}, {1e-3, 1e-3, " ms"}, {1e-6, 1e-6, " µs"}, {0, 1e-9, " ns"}},
	Octets:  {{1e15, 1e15, " PB"}, {1e12, 1e12, " TB"}, {1e9, 1e9, " GB"}, {1e6, 1e6, " MB"}, {1e3, 1e3, " kB"}, {0, 1, " octets"}},
}

// Text writes x with so many digits, or as many as its whole part has.
func (u Unit) Text(x float64, digits int) string {
	all := steps[u]
	s := all[len(all)-1]
	for _, t := range all {
		if math.Abs(x) >= t.from {
			s = t
			break
		}
	}
	return number(x/s.one, digits) + s.suffix
}

// number writes x with so many digits, and a comma after thousands.
func number(x float64, digits int) string {
	places := 0
	if math.Abs(x) < 1e-6 {
		x = 0
	} else {
		places = max(0, digits-1-int(math.Floor(math.Log10(math.Abs(x)))))
	}
	text := strconv.FormatFloat(x, 'f', places, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	whole, rest, _ := strings.Cut(text, ".")
	sign := strings.TrimRight(whole, "0123456789")
	return sign + grouped(whole[len(sign):]) + strings.TrimSuffix("."+rest, ".")
}

// grouped sets a comma after thousands.
func grouped(digits string) string {
	var out []byte
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out = append(out, ',')
		}
		out = append(out, digits[i])
	}
	return string(out)
}

// Count writes a whole number.
func Count(n int) string { return number(float64(n), 1) }
