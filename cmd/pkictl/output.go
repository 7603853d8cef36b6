package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pkid/pkid/client"
)

// printJSON writes a result as indented JSON.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// field is a line of a result for a person; one without value is left out.
type field struct{ name, value string }

func (a *app) printFields(fields ...field) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f.value != "" {
			fmt.Fprintf(w, "%s\t%s\n", f.name, printable(f.value))
		}
	}
	return w.Flush()
}

// sheet writes rows as they come.
type sheet interface {
	row(c client.Certificate) error
	end() error
}

var formats = []string{"table", "ndjson", "csv"}

func newSheet(format string, w io.Writer) (sheet, error) {
	switch format {
	case "table":
		return &table{w: w}, nil
	case "ndjson":
		return ndjson{json.NewEncoder(w)}, nil
	case "csv":
		s := csvSheet{csv.NewWriter(w)}
		return s, s.w.Write(client.CSVHeader())
	default:
		return nil, usagef("unknown format %q: use %s", format, strings.Join(formats, ", "))
	}
}

// table has columns of fixed width, because rows are shown before the last one is known. A longer value
// pushes its row to the right and is never cut.
type table struct {
	w      io.Writer
	headed bool
}

const tableRow = "%-32s  %-20s  %-9s  %-8s  %-20s  %s\n"

func (t *table) row(c client.Certificate) error {
	if !t.headed {
		t.headed = true
		fmt.Fprintf(t.w, tableRow, "SERIAL", "CLIENT", "PROFILE", "STATUS", "EXPIRES", "NAMES")
	}
	_, err := fmt.Fprintf(t.w, tableRow, c.Serial, printable(c.ClientID), printable(c.Profile), c.Status,
		c.NotAfter.UTC().Format(time.RFC3339), printable(strings.Join(c.Names, " ")))
	return err
}

func (t *table) end() error { return nil }

type ndjson struct{ enc *json.Encoder }

func (s ndjson) row(c client.Certificate) error { return s.enc.Encode(c) }
func (s ndjson) end() error                     { return nil }

type csvSheet struct{ w *csv.Writer }

func (s csvSheet) row(c client.Certificate) error { return s.w.Write(c.CSVRow()) }

func (s csvSheet) end() error {
	s.w.Flush()
	return s.w.Error()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// printable keeps what others chose as names, or what a server answered, from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}
