package tokenbind

import (
	"crypto/x509"
	"net/url"
	"strings"
	"time"
)

// issuedBefore is how far a certificate's notBefore may lie before the instant at which it was made, because CAs
// allow for clocks that are behind.
const issuedBefore = time.Minute

// causeOfCertificate is the likely reason why a client shows another certificate than its token is bound to.
func causeOfCertificate(shown *x509.Certificate, token *Claims) string {
	const again = "get a new token over a connection that shows this certificate"
	switch made := shown.NotBefore.Add(issuedBefore); {
	case token.IssuedAt.IsZero():
		return "the token is bound to another certificate; after a renewal, " + again
	case made.Before(token.IssuedAt): // both are cut to whole seconds
		return "the token is bound to another certificate: the connection is older than the renewal, or the token is another client's; " + again
	case shown.Subject.CommonName != token.ClientID: // which a renewal keeps
		return "the certificate is younger than the token: it was renewed since, or the token is another client's; " + again
	default:
		return "the certificate was renewed after the token was issued: " + again
	}
}

// causeOfURL is the likely reason why a proof's htu, in its normal form, is not one of the URLs of the request.
func causeOfURL(htu string, wanted []string) string {
	const know = "query and fragment do not count; the server must know its public URL"
	seen, err := url.Parse(htu)
	if err != nil {
		return know
	}
	for _, w := range wanted {
		normal, err := NormalURL(w)
		if err != nil {
			continue
		}
		want, _ := url.Parse(normal)
		sameHost, samePath := seen.Host == want.Host, seen.Path == want.Path
		switch {
		case sameHost && samePath && seen.Scheme == "https": // but this server thinks of http
			return "TLS ends at a proxy before this server: tell it its public URL, or have it trust the proxy"
		case sameHost && samePath:
			return "the client made the proof for http and sent it to https: it must prove the URL that it sends to"
		case samePath:
			return "the client knows this server by another name, or a proxy changed the host: tell the server its public URL"
		case sameHost && (within(seen.Path, want.Path) || within(want.Path, seen.Path)):
			return "a proxy changed the path on its way: tell the server the public URL up to where its own paths begin"
		}
	}
	return know
}

// within reports whether path ends in the whole of part.
func within(path, part string) bool {
	return strings.Trim(part, "/") != "" && strings.HasSuffix(path, "/"+strings.TrimPrefix(part, "/"))
}
