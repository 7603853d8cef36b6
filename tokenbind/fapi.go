package tokenbind

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// FAPIAlgorithms are those of the FAPI 2.0 Security Profile, section 5.4.1.
func FAPIAlgorithms() []string { return []string{"ES256", "EdDSA", "PS256"} }

// CipherSuites are those that BCP 195 recommends for TLS 1.2 (RFC 9325 section 4.2), and all that FAPI 2.0 section 5.2.2
// allows there. Put them into the tls.Config of a server or client together with a MinVersion of TLS 1.2; the suites of
// TLS 1.3 are all good, and not chosen by it.
func CipherSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	}
}

// fapiTolerance is how far ahead the iat and nbf of a JWT must be taken (FAPI 2.0 section 5.3.2.1 item 13).
const fapiTolerance = 10 * time.Second

// checkFAPI refuses what FAPI 2.0 does not allow.
func (c *Config) checkFAPI() error {
	if !c.FAPI2 {
		return nil
	}
	switch {
	case c.AllowBearer:
		return errors.New("FAPI2 takes no tokens that are bound to nothing: leave AllowBearer out (FAPI 2.0 section 5.3.4)")
	case c.Tokens == nil || c.Revocation == nil:
		return errors.New("FAPI2 wants the revocation status of each token and certificate: set Tokens and Revocation (FAPI 2.0 section 5.3.4)")
	case c.Tolerance < fapiTolerance:
		return fmt.Errorf("FAPI2 wants a Tolerance of %v at least, not %v (FAPI 2.0 section 5.3.2.1)", fapiTolerance, c.Tolerance)
	case c.InsecureIssuerHTTP || c.InsecureHostFromRequest:
		return errors.New("FAPI2 goes neither with InsecureIssuerHTTP nor with InsecureHostFromRequest (FAPI 2.0 section 5.2.1)")
	}
	for _, u := range append([]string{c.BaseURL}, c.BaseURLs...) {
		if u != "" && !strings.HasPrefix(strings.ToLower(u), "https://") {
			return fmt.Errorf("FAPI2 wants an https BaseURL, not %q (FAPI 2.0 section 5.2.1)", u)
		}
	}
	for _, alg := range c.Algorithms {
		if !slices.Contains(FAPIAlgorithms(), alg) {
			return fmt.Errorf("FAPI2 takes %v, not %s (FAPI 2.0 section 5.4.1)", FAPIAlgorithms(), alg)
		}
	}
	return nil
}
