// Package model carries what the bench measured on to sizes that no machine here holds: it fits simple laws to
// the figures of one run, checks each law against a size that it left out, and works out from them what a larger
// installation needs.
package model

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

// Data is what a run of the bench measured. benchmarks.json holds it.
type Data struct {
	Date    string             `json:"date"`
	Machine string             `json:"machine"`
	Cores   int                `json:"cores"`
	Whole   bool               `json:"whole"` // not a short run, and nothing left out
	Series  map[string][]Point `json:"series"`
	Costs   map[string]float64 `json:"costs"` // seconds, for each; see the Cost constants
}

// Point is a measurement at one size.
type Point struct {
	Size  float64 `json:"size"`
	Value float64 `json:"value"`
}

// The series that a run measures: what grows with the number of certificates in the store, and what with the
// number of entries on the CRL. Octets and seconds.
const (
	StoreOctets = "store_octets"  // of the store's file
	IssueTime   = "issue_seconds" // from one issuance to the next, 32 at once, client and server together
	AnswerTime  = "start_seconds" // from the start of the daemon to its first answer

	ListOctets = "list_octets"
	RoundTime  = "list_round_seconds" // from a durable revocation to the new list, durable and checked
	ListTime   = "list_start_seconds" // from the start of the daemon to the list being served
	Resident   = "list_daemon_octets" // anonymous memory of the daemon then
)

// What one of each costs a core. Of the first five, the server's share alone.
const (
	CostIssue      = "issue"
	CostToken      = "token"      // bound to a client certificate
	CostProofToken = "dpop_token" // bound to a DPoP key
	CostIntrospect = "introspect"
	CostPoll       = "poll" // of a CRL that has not changed
	CostVerify     = "verify"
	CostVerifySeen = "verify_seen"
	CostVerifyDPoP = "verify_dpop"

	CostIssueNode = "issue_on_postgres"        // the share of a node on PostgreSQL
	RateNode      = "issue_on_postgres_each"   // from one issuance to the next, 32 at once: one node, the database beside it
	RateNodes     = "issue_on_postgres_each_3" // the same with three nodes, all on that machine
)

// Add appends a measurement.
func (d *Data) Add(series string, size int, value float64) {
	if d.Series == nil {
		d.Series = map[string][]Point{}
	}
	d.Series[series] = append(d.Series[series], Point{float64(size), value})
}

// Cost keeps what one of something costs, in seconds.
func (d *Data) Cost(name string, seconds float64) {
	if d.Costs == nil {
		d.Costs = map[string]float64{}
	}
	d.Costs[name] = seconds
}

// Write writes d as JSON, rounded to what the measurements are worth.
func (d *Data) Write(w io.Writer) error {
	out := *d
	out.Series, out.Costs = map[string][]Point{}, map[string]float64{}
	for name, points := range d.Series {
		for _, p := range points {
			out.Series[name] = append(out.Series[name], Point{p.Size, round(p.Value)})
		}
	}
	for name, v := range d.Costs {
		out.Costs[name] = round(v)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// round keeps four digits.
func round(x float64) float64 {
	if x == 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(x)))-3)
	if unit < 1 {
		inverse := math.Round(1 / unit)
		return math.Round(x*inverse) / inverse
	}
	return math.Round(x/unit) * unit
}

// Read reads what Write wrote.
func Read(path string) (*Data, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var d Data
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &d, nil
}
