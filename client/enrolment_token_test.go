package client

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func sampleToken() EnrolmentToken {
	t := EnrolmentToken{URL: "https://pki.example.com:8443"}
	t.Root[0], t.ID[0], t.Secret[0] = 1, 2, 3
	return t
}

func TestEnrolmentTokenRoundTrip(t *testing.T) {
	want := sampleToken()
	if got, err := ParseEnrolmentToken("  " + want.String() + "\n"); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEnrolmentTokenDamaged(t *testing.T) {
	good := sampleToken().String()
	plain := sampleToken()
	plain.URL = "http://pki.example.com"
	for name, text := range map[string]string{
		"empty": "", "prefix": enrolmentPrefix, "cut": good[:len(good)-1], "cut to half": good[:len(good)/2],
		"mistyped": strings.Replace(good, good[20:21], map[bool]string{true: "B", false: "A"}[good[20] == 'A'], 1),
		"twice":    good + good, "padded": good + "=", "broken line": good[:30] + "\n" + good[30:], "no prefix": good[6:],
		"plain http": plain.String(), "huge": enrolmentPrefix + strings.Repeat("A", 1<<20),
	} {
		if _, err := ParseEnrolmentToken(text); !errors.Is(err, ErrEnrolmentToken) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A token that somebody prints or logs without thinking keeps its secret.
func TestEnrolmentTokenIsPrintedWithoutItsSecret(t *testing.T) {
	token := sampleToken()
	for i := range token.Secret {
		token.Secret[i] = byte(0xa0 + i)
	}
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("enrolling", "token", token, "in", struct{ Token any }{token}, "pointer", &token)
	}
	printed := []string{log.String(), fmt.Errorf("enrolling with %w, %v", ErrEnrolmentToken, token).Error(), fmt.Sprint(token, &token), fmt.Sprintln(token)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed = append(printed, fmt.Sprintf(verb, token), fmt.Sprintf(verb, &token), fmt.Sprintf(verb, []any{token, struct{ T EnrolmentToken }{token}}))
	}
	whole, _ := strings.CutPrefix(token.String(), enrolmentPrefix)
	for _, text := range printed {
		for _, secret := range []string{whole[60:90], "a0a1a2", "160 161", "160,161", "0xa0", "oKGi"} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
				t.Errorf("%q is in %s", secret, text)
			}
		}
		if !strings.Contains(text, token.InvitationID()) {
			t.Errorf("it does not say which invitation: %s", text)
		}
	}
}

func FuzzEnrolmentToken(f *testing.F) {
	f.Add(sampleToken().String())
	f.Add("pkid1_AAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseEnrolmentToken(text)
		if err != nil {
			if !errors.Is(err, ErrEnrolmentToken) || token != (EnrolmentToken{}) {
				t.Fatalf("%q: %v with %+v", text, err, token)
			}
			return
		}
		again, err := ParseEnrolmentToken(token.String())
		if err != nil || again != token {
			t.Fatalf("%q: written again it reads as %+v, %v", text, again, err)
		}
	})
}
