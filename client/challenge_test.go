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
		resp := &http.Response{Header: http.Header{"Www-Authenticate": {tt.challenge}}}
		if got := challengeError(resp); got != tt.want {
			t.Errorf("%s: error %q, want %q", tt.challenge, got, tt.want)
		}
	}
}
