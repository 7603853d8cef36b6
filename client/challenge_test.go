package client

import (
	"net/http"
	"testing"
)

func TestF09_UnknownChallengeParametersAreIgnored(t *testing.T) {
	for _, tt := range []struct{ challenge, want string }{
		{`DPoP error="use_dpop_nonce"`, useNonce},
		{`DPoP realm="x", colour="blue", algs="ES256 PS256", error="use_dpop_nonce", shape=round`, useNonce},
		{`Bearer error_uri="https://x/", error = invalid_token, error_description="expired"`, invalidToken},
		{`Bearer realm="x", DPoP algs="ES256", error="invalid_token"`, invalidToken},
		{`Bearer realm="x", my_error="use_dpop_nonce"`, ""},
		{`DPoP algs="ES256"`, ""},
	} {
		if got := errorOf(tt.challenge); got != tt.want {
			t.Errorf("%s: error %q, want %q", tt.challenge, got, tt.want)
		}
	}
}

func errorOf(challenges ...string) string {
	return challengeError(http.Header{"Www-Authenticate": challenges})
}

func TestChallengeError(t *testing.T) {
	for _, tt := range []struct {
		challenges []string
		want       string
	}{
		{[]string{`Bearer error_description="try error=\"use_dpop_nonce\", error=\"x\"", error="invalid_token"`}, invalidToken},
		{[]string{`Bearer realm="a, DPoP error=invalid_token"`}, ""},
		{[]string{`Bearer realm="a\\", error="invalid_token"`}, invalidToken},
		{[]string{`Bearer realm="it does not end, error="invalid_token`}, ""},
		{[]string{`Digest error="invalid_token", DPoP error="use_dpop_nonce"`}, useNonce},
		{[]string{`Negotiate YWJj/+==, DPoP error="use_dpop_nonce"`}, useNonce},
		{[]string{`Negotiate YWJj, bearer ERROR=invalid_token`}, invalidToken},
		{[]string{`Negotiate`, `dpop algs="ES256" , error="use_dpop_nonce"`}, useNonce},
		{[]string{`Bearer`, `DPoP`}, ""},
		{[]string{`Bearer error="invalid_token", error="use_dpop_nonce"`}, invalidToken},
		{[]string{`Bearer error=`, `Bearer error="`, `Bearer ,,, error="invalid_token"`}, invalidToken},
		{[]string{`error="invalid_token"`, `,`, ``, `=`, `"`, `\`}, ""},
		{nil, ""},
	} {
		if got := errorOf(tt.challenges...); got != tt.want {
			t.Errorf("%q: error %q, want %q", tt.challenges, got, tt.want)
		}
	}
}
