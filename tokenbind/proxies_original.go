package tokenbind

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// OriginalForm is by which headers proxies tell of the client's request.
type OriginalForm string

// The forms. Headers of the other form are not believed: they are the client's, and must not say anything else about
// scheme and host.
const (
	OriginalXForwarded OriginalForm = "x-forwarded" // X-Forwarded-For, -Proto, -Host and -Port
	OriginalForwarded  OriginalForm = "forwarded"   // Forwarded (RFC 7239)
	OriginalNone       OriginalForm = "none"        // by none
)

const (
	maxHops     = 64  // elements of a list of proxies
	maxHost     = 300 // octets of a host with a port
	maxAskedURL = 8 << 10
)

// certificateHeaders hand on certificates. Only a proxy may send one, in the form that it is known for.
var certificateHeaders = set(
	"Client-Cert", chainHeader, // RFC 9440
	"X-Forwarded-Client-Cert",                         // Envoy
	defaultHeader, "X-Client-Cert", "Ssl-Client-Cert", // nginx and its kin
	"X-Forwarded-Tls-Client-Cert", infoHeader, // Traefik
	"X-Arr-Clientcert",                                      // Azure
	"X-Amzn-Mtls-Clientcert", "X-Amzn-Mtls-Clientcert-Leaf", // AWS
)

// originalHeaders tell of the client's request.
var originalHeaders = set("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
	"X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-Uri", "X-Original-Url")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// hyphenated is a header's name as a server behind this one may see it: some take an underscore for a hyphen.
func hyphenated(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// reserved reports whether a header is a proxy's to send.
func reserved(name string) bool {
	name = hyphenated(name)
	return certificateHeaders[name] || originalHeaders[name]
}

// certificateHeader finds a header that hands on a certificate, other than those of a form.
func (p *Proxies) certificateHeader(h http.Header, own CertificateForm) (name string, found bool) {
	for name := range h {
		plain := hyphenated(name)
		if !certificateHeaders[plain] && (p == nil || p.header != plain) {
			continue
		}
		switch {
		case own != FormNone && name == p.header, own == FormRFC9440 && name == chainHeader, own == FormTraefik && name == infoHeader:
		default:
			return name, true
		}
	}
	return "", false
}

// notForCertificates are headers that mean something else, here or to every server, or that some servers take for others.
func notForCertificates(name string) bool {
	return strings.Contains(name, "_") || originalHeaders[hyphenated(name)] || slices.Contains([]string{"Authorization", "Dpop", "Host"}, name)
}

// single is the value of a header that may stand there once.
func single(h http.Header, name string) (string, error) {
	switch values := h[name]; len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%d %s headers, want one", len(values), name)
	}
}

// original is what proxies told of the client's request. What was not told is empty.
type original struct {
	proto, host string
	from        netip.Addr
}

// and adds what another header told, if they agree.
func (o original) and(also original) (original, error) {
	differ := func(a, b string) bool { return a != "" && b != "" && !strings.EqualFold(a, b) }
	if differ(o.proto, also.proto) || differ(o.host, also.host) {
		return original{}, errors.New("two headers, such as Forwarded and X-Forwarded-Host, tell of different requests: let the proxy remove " +
			"those that it does not set")
	}
	o.proto, o.host = cmp.Or(o.proto, also.proto), cmp.Or(o.host, also.host)
	return o, nil
}

func (p *Proxies) readOriginal(h http.Header) (original, error) {
	if p.conf.Original == OriginalNone {
		return original{}, nil
	}
	x, xFrom, err := readXForwarded(h)
	if err != nil {
		return original{}, err
	}
	f, fFrom, err := readForwarded(h)
	if err != nil {
		return original{}, err
	}
	if _, err := x.and(f); err != nil {
		return original{}, err
	}
	if p.conf.Original == OriginalForwarded {
		x, xFrom = f, fFrom
	}
	x.from = p.client(xFrom)
	return x, nil
}

// client is the last address of a list that is not a trusted proxy's: each proxy appends who it was called by, and what
// stands before may be anybody's invention. It is not valid if the list does not tell.
func (p *Proxies) client(from []string) (addr netip.Addr) {
	for _, text := range slices.Backward(from) {
		next, ok := parseNode(text)
		if !ok { // unknown, obfuscated (RFC 7239 section 6.3), or a path
			break
		}
		if addr = next; !p.TrustsAddress(addr) {
			break
		}
	}
	return addr
}

// parseNode reads an address with or without a port, and IPv6 with or without brackets.
func parseNode(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap().WithZone(""), err == nil
}

func readXForwarded(h http.Header) (o original, from []string, err error) {
	var port string
	for name, to := range map[string]*string{"X-Forwarded-Proto": &o.proto, "X-Forwarded-Host": &o.host, "X-Forwarded-Port": &port} {
		if *to, err = single(h, name); err != nil {
			return original{}, nil, err
		}
	}
	if o.proto, err = readProto(o.proto); err != nil {
		return original{}, nil, fmt.Errorf("X-Forwarded-Proto: %w", err)
	}
	if o.host, err = readHost(o.host); err != nil {
		return original{}, nil, fmt.Errorf("X-Forwarded-Host: %w", err)
	}
	if o.host, err = withPort(o.host, port, o.proto); err != nil {
		return original{}, nil, fmt.Errorf("X-Forwarded-Port: %w", err)
	}
	for _, line := range h["X-Forwarded-For"] { // a list may go on in a second line
		if len(line) > maxForwarded {
			return original{}, nil, fmt.Errorf("X-Forwarded-For has more than %d octets", maxForwarded)
		}
		for hop := range strings.SplitSeq(line, ",") {
			from = append(from, strings.Trim(hop, " \t"))
		}
	}
	return o, from[max(0, len(from)-maxHops):], nil
}

// readForwarded reads RFC 7239. One element may tell scheme and host, that of the proxy which the client has called.
func readForwarded(h http.Header) (o original, from []string, err error) {
	elements, err := parseElements(strings.Join(h["Forwarded"], ","))
	if err != nil {
		return original{}, nil, fmt.Errorf("Forwarded: %w", err)
	}
	for _, e := range elements {
		seen := map[string]bool{}
		for _, m := range e {
			if seen[m.name] {
				return original{}, nil, fmt.Errorf("Forwarded: %s twice in one element", m.name) // section 4
			}
			seen[m.name] = true
			switch {
			case m.name == "for":
				from = append(from, m.value)
			case m.name == "proto" && o.proto == "":
				o.proto, err = readProto(m.value)
			case m.name == "host" && o.host == "":
				o.host, err = readHost(m.value)
			case m.name == "proto" || m.name == "host":
				err = fmt.Errorf("%s in two elements, want one", m.name)
			}
			if err != nil {
				return original{}, nil, fmt.Errorf("Forwarded: %w", err)
			}
		}
	}
	return o, from, nil
}

func readProto(text string) (string, error) {
	switch strings.ToLower(text) {
	case "":
		return "", nil
	case "http", "ws":
		return "http", nil
	case "https", "wss":
		return "https", nil
	}
	return "", errors.New("want one of http and https")
}

func readHost(host string) (string, error) {
	if host == "" {
		return "", nil
	}
	u, err := url.Parse("https://" + host)
	if err != nil || len(host) > maxHost || u.Host != host || u.Hostname() == "" || strings.HasSuffix(host, ":") {
		return "", errors.New("not one host, with or without a port")
	}
	if _, err := normalHost(u); err != nil || strings.ContainsAny(host, ", ;") {
		return "", errors.New("not one host, with or without a port")
	}
	return host, nil
}

// withPort adds a port that was told apart from the host.
func withPort(host, port, proto string) (string, error) {
	if port == "" {
		return host, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '0' || port[0] == '+' {
		return "", errors.New("want one port")
	}
	if host == "" {
		return "", nil
	}
	usual := map[string]string{"https": "443", "http": "80"}[proto]
	u := url.URL{Host: host}
	switch has := cmp.Or(u.Port(), usual); {
	case u.Port() != "" && has != port:
		return "", fmt.Errorf("%s, where the host has %s", port, has)
	case u.Port() != "" || port == usual:
		return host, nil
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// member is one name=value, the name in lower case.
type member struct{ name, value string }

// parseElements reads elements between commas, each of members between semicolons, as RFC 7239 section 4 has them and
// Envoy's X-Forwarded-Client-Cert. A value may be a quoted string, in which a backslash precedes any character.
func parseElements(s string) (elements [][]member, err error) {
	if s == "" {
		return nil, nil
	}
	var e []member
	for {
		var m member
		if m, s, err = cutMember(strings.TrimLeft(s, " \t")); err != nil {
			return nil, err
		}
		e = append(e, m)
		s = strings.TrimLeft(s, " \t")
		if s != "" && s[0] == ';' {
			if s = s[1:]; strings.Trim(s, " \t") != "" && len(e) < maxHops {
				continue
			}
		}
		elements, e = append(elements, e), nil
		switch {
		case s == "":
			return elements, nil
		case s[0] != ',' || len(elements) == maxHops:
			return nil, errors.New("something else after a value, or too much")
		}
		s = s[1:]
	}
}

func cutMember(s string) (m member, rest string, err error) {
	i := strings.IndexAny(s, `=;,"`)
	if i <= 0 || s[i] != '=' || !token(s[:i]) {
		return member{}, "", errors.New("want name=value")
	}
	m.name, s = strings.ToLower(s[:i]), s[i+1:]
	if !strings.HasPrefix(s, `"`) {
		if i = strings.IndexAny(s, `;,"`); i < 0 {
			i = len(s)
		}
		m.value = strings.TrimRight(s[:i], " \t")
		return m, s[i:], nil
	}
	var b strings.Builder
	for i = 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			m.value = b.String()
			return m, s[i+1:], nil
		case '\\':
			i++
		}
		if i < len(s) {
			b.WriteByte(s[i])
		}
	}
	return member{}, "", errors.New("a quoted string without end")
}

// token of RFC 9110 section 5.6.2.
func token(s string) bool {
	for _, c := range []byte(s) {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// asked is the request that a proxy asks about.
type asked struct {
	method, uri string
	url         *url.URL // of uri
	original             // as an absolute URL tells it
}

// readAsked reads it from the headers of one family. The proxy sets all of one, so if there is something of the other,
// the client has sent that.
func readAsked(h http.Header) (a asked, err error) {
	headers := map[string]string{}
	for _, name := range []string{"X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-Uri", "X-Original-Url"} {
		value, err := single(h, name)
		if err != nil {
			return asked{}, err
		}
		if _, found := h[name]; found {
			headers[name] = value
		}
	}
	has := func(name string) bool { _, found := headers[name]; return found }
	fwd := has("X-Forwarded-Method") || has("X-Forwarded-Uri")
	orig := has("X-Original-Method") || has("X-Original-Uri") || has("X-Original-Url")
	switch {
	case fwd && orig:
		return asked{}, errors.New("both X-Forwarded-Method or -Uri and X-Original-*: let the proxy remove those that it does not set")
	case has("X-Original-Uri") && has("X-Original-Url"):
		return asked{}, errors.New("both X-Original-URI and X-Original-URL: let the proxy remove the one that it does not set")
	case fwd:
		a.method, a.uri = headers["X-Forwarded-Method"], headers["X-Forwarded-Uri"]
	case orig:
		a.method, a.uri = headers["X-Original-Method"], cmp.Or(headers["X-Original-Uri"], headers["X-Original-Url"])
	}
	if a.method == "" || a.uri == "" {
		return asked{}, errors.New("the proxy does not tell the client's request: let it set X-Forwarded-Method and X-Forwarded-Uri, " +
			"or X-Original-Method and X-Original-URI")
	}
	if has("X-Original-Url") {
		if err := a.split(); err != nil {
			return asked{}, fmt.Errorf("X-Original-URL: %w", err)
		}
	}
	if err := a.check(); err != nil {
		return asked{}, err
	}
	return a, nil
}

// split takes scheme and host off an absolute URL.
func (a *asked) split() (err error) {
	scheme, rest, absolute := strings.Cut(a.uri, "://")
	i := strings.IndexAny(rest+"/", "/?")
	if !absolute || scheme == "" || i == 0 {
		return errors.New("not an absolute URL")
	}
	a.uri = rest[i:]
	if !strings.HasPrefix(a.uri, "/") {
		a.uri = "/" + a.uri
	}
	if a.proto, err = readProto(scheme); err == nil {
		a.host, err = readHost(rest[:i])
	}
	return err
}

func (a *asked) check() (err error) {
	if !token(a.method) || len(a.method) > 32 {
		return errors.New("the method of the client's request is malformed")
	}
	if len(a.uri) > maxAskedURL || !strings.HasPrefix(a.uri, "/") {
		return fmt.Errorf("the URI of the client's request: want what follows the host, of at most %d octets", maxAskedURL)
	}
	if a.url, err = url.ParseRequestURI(a.uri); err != nil {
		return errors.New("the URI of the client's request is malformed")
	}
	return nil
}

// apply makes r, whose scheme and host are known, the request that was asked about.
func (a *asked) apply(r *http.Request) {
	a.url.Scheme, a.url.Host = r.URL.Scheme, r.Host
	r.Method, r.URL, r.RequestURI = a.method, a.url, a.uri
}
