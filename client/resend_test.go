package client

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

// net/http repeats a GET by itself when its connection ends before the answer. The server has used up the proof
// by then; the request is sent once more with a fresh one.
func TestG01_ProofThatTheTransportSentTwice(t *testing.T) {
	f, s := withDPoP(t)
	var mu sync.Mutex
	seen, n := map[string]bool{}, 0
	rs := f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		proof := r.Header.Get("DPoP")
		if seen[proof] {
			w.Header().Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		seen[proof] = true
		if n++; n == 2 {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}
	}))
	for i := range 3 {
		if got := f.do(s, must(http.NewRequestWithContext(t.Context(), http.MethodGet, rs.URL+"/x", nil))); got != http.StatusOK {
			t.Errorf("request %d: %d", i, got)
		}
	}
}

func TestTokenThatNeverExpiresIsKept(t *testing.T) {
	s := &TokenSource{c: TokenConfig{Now: time.Now}}
	for _, seconds := range []string{"9300000000", "18446744074", "9223372036854775807"} {
		token, err := s.accept([]byte(`{"access_token":"a","token_type":"Bearer","expires_in":`+seconds+`}`), time.Now())
		if err != nil || time.Until(token.expiry) < time.Hour {
			t.Errorf("expires_in %s: %+v, %v", seconds, token, err)
		}
	}
}
