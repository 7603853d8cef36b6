package forwardauth

import (
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/pkid/pkid/tokenbind"
)

// TestDemandsAreAdded: the scopes of the configuration are demanded whatever a sub-request demands, and bad_request changes
// no other status.
func TestDemandsAreAdded(t *testing.T) {
	h := newHouse(t)
	read := h.mtlsToken(func(c map[string]any) { c["scope"] = "read" })
	for target, want := range map[string]int{
		"/v1/verify/billing":                                403,
		"/v1/verify/billing?scope=read":                     403,
		"/v1/verify/billing?scope=read&bad_request=401":     403,
		"/v1/verify/billing?scope=":                         403,
		"/v1/verify/billing/orders/17":                      403,
		"/v1/verify/orders?scope=read&scope=read%20read":    200,
		"/v1/verify/orders?scope=read&scope=pay":            403,
		"/v1/verify?audience=" + orders + "&scope=read+pay": 403,
	} {
		if got := h.ask("GET", target, "Authorization", "Bearer "+read, "Cert", "1").StatusCode; got != want {
			t.Errorf("%s: %d, want %d", target, got, want)
		}
	}
	h.Handler = h.For(undecided{})
	wants(t, h.ask("GET", "/v1/verify/orders?bad_request=401"), 503)
}

// TestF14_EnvoysClientSaysNothing: in the form that has the client's own request, what the client says of another one is
// dropped, and its query chooses nothing.
func TestF14_EnvoysClientSaysNothing(t *testing.T) {
	proxies, err := tokenbind.NewProxies(tokenbind.ProxiesConfig{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, func(c *Config) { c.Proxies = proxies })
	token := h.dpopToken()
	for _, name := range []string{"X-Original-Method", "X-Original-Uri", "X-Original-Url", "X-Forwarded-Method", "X-Forwarded-Uri"} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/v1/verify/orders/orders/17?audience="+billing+"&scope=pay", nil)
		r.RemoteAddr = "10.1.2.3:4567"
		r.Header.Set(name, "GET")
		r.Header.Add(name, "/evil")
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", h.proof("PUT", orders+"/orders/17", token))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if last := h.seen[len(h.seen)-1]; last.Original == nil || last.Original.Method != "PUT" || last.Original.URL.Path != "/orders/17" {
			t.Errorf("%s: %+v", name, last.Original)
		}
	}
}
