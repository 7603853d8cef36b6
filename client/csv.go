package client

import (
	"slices"
	"strings"
	"time"
)

// CSVHeader returns the columns in which GET /v1/certificates?format=csv and pkictl list certificates.
func CSVHeader() []string {
	return []string{
		"serial", "client_id", "profile", "status", "not_before", "not_after", "issued_at",
		"revoked_at", "revocation_reason", "renews", "issuer", "x5t#S256", "names",
	}
}

// CSVRow returns the cells under CSVHeader. Times are in RFC 3339 and UTC, names are separated by spaces, and
// the PEM is left out. No cell is a formula to a spreadsheet.
func (c *Certificate) CSVRow() []string {
	row := []string{
		c.Serial, c.ClientID, c.Profile, c.Status, csvTime(c.NotBefore), csvTime(c.NotAfter), csvTime(c.IssuedAt),
		csvTime(c.RevokedAt), c.RevocationReason, c.Renews, c.Issuer, c.Thumbprint.String(), strings.Join(c.Names, " "),
	}
	for i, cell := range row {
		row[i] = noFormula(cell)
	}
	return row
}

func csvTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// noFormula keeps a spreadsheet from taking a cell for a formula: names are chosen by others, and a formula
// can send what stands beside it to any host. The apostrophe is what spreadsheets use for it themselves.
func noFormula(cell string) string {
	if cell != "" && slices.Contains([]byte("=+-@\t\r\n"), cell[0]) {
		return "'" + cell
	}
	return cell
}
