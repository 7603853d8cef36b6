package main

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
)

func TestSheets(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := client.Certificate{
		Serial: strings.Repeat("a", 32), ClientID: "robot-1", Profile: "client", Status: "active",
		NotBefore: at, NotAfter: at.Add(time.Hour), IssuedAt: at, Names: []string{"robot-1", "a.example"},
	}
	for format, want := range map[string]string{
		"table": "SERIAL                            CLIENT                PROFILE    STATUS    EXPIRES               NAMES\n" +
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  robot-1               client     active    2026-01-02T04:04:05Z  robot-1 a.example\n",
		"csv": "serial,client_id,profile,status,not_before,not_after,issued_at,revoked_at,revocation_reason,renews,issuer,x5t#S256,names\n" +
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,robot-1,client,active,2026-01-02T03:04:05Z,2026-01-02T04:04:05Z,2026-01-02T03:04:05Z,,,,,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA,robot-1 a.example\n",
	} {
		var out bytes.Buffer
		s, err := newSheet(format, &out)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.row(c); err != nil {
			t.Fatal(err)
		}
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s:\n%s\nwant:\n%s", format, out.String(), want)
		}
	}
}

func TestCSVIsHarmlessToSpreadsheets(t *testing.T) {
	var out bytes.Buffer
	s, err := newSheet("csv", &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.row(client.Certificate{ClientID: `=HYPERLINK("https://evil.example")`}); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || rows[1][1] != `'=HYPERLINK("https://evil.example")` {
		t.Errorf("%q, %v", rows, err)
	}
}

func TestPrintableKeepsTheTerminalSafe(t *testing.T) {
	if got := printable("a\x1b[31mb\u202ec\x9bd é"); got != "a\uFFFD[31mb\uFFFDc\uFFFDd é" {
		t.Errorf("got %q", got)
	}
}

func TestParseWhen(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"": {}, "72h": now.Add(72 * time.Hour), "7d": now.AddDate(0, 0, 7), "2027-01-01T00:00:00Z": time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		"2027-01-01": time.Date(2027, 1, 1, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseWhen(in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"soon", "-1h", "-2d", "7days", "7d8"} {
		if _, err := parseWhen(in, now); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestC06_ExactlyOneSubject(t *testing.T) {
	for name, c := range map[string]struct {
		record client.ClientRecord
		ok     bool
	}{
		"none":              {client.ClientRecord{Auth: "tls_client_auth"}, false},
		"one":               {client.ClientRecord{Auth: "tls_client_auth", SANDNS: "a.example"}, true},
		"two":               {client.ClientRecord{Auth: "tls_client_auth", SANDNS: "a.example", SubjectDN: "CN=a"}, false},
		"with another auth": {client.ClientRecord{Auth: "private_key_jwt", SANDNS: "a.example"}, false},
	} {
		if err := checkClient(&c.record); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
