package web

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/pkid/pkid/revocation"
)

// Listener names one of the daemon's listeners, or several of them.
type Listener uint8

// The listeners, as ARCHITECTURE describes them.
const (
	Public Listener = 1 << iota
	MTLS
	Status
	Ops

	both = Public | MTLS
)

func (l Listener) String() string {
	switch l {
	case Public:
		return "public"
	case MTLS:
		return "mtls"
	case Status:
		return "status"
	case Ops:
		return "ops"
	}
	return ""
}

// Access says who may use a route.
type Access string

// The kinds of access. Enrolment tokens are checked by package enroll and OAuth clients by the authorization
// server; the certificate of the other two is checked here, before the handler runs.
const (
	Anyone         Access = "anyone"
	EnrolmentToken Access = "enrolment token"
	OAuthClient    Access = "client"
	Certificate    Access = "certificate"   // any: the handler decides what it is good for
	Operator       Access = "operator"      // an active certificate of the profile "operator"
	TrustedProxy   Access = "trusted proxy" // one that may speak for clients; forwardauth knows which
)

// AnyMethod stands for every method there is. Such a route has all paths that begin with its own, up to a variable, as
// they were sent: they are another server's.
const AnyMethod = "*"

// everyMethod is what AnyMethod stands for where methods are listed.
var everyMethod = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// Route is one line of the table.
type Route struct {
	Method    string // GET answers HEAD too, and OAuth routes OPTIONS; or AnyMethod
	Path      string // as gorilla/mux reads it
	Name      string // unique; in logs and metrics
	Listeners Listener
	Access    Access
	Handler   func(http.ResponseWriter, *http.Request) error
}

// streaming names the routes whose answers may outlast requestTimeout. They bound each of their steps.
var streaming = []string{"certificates.list", "store", "revocations.stream"}

// requestTimeout bounds a request, from its first octet read to its answer.
const requestTimeout = 10 * time.Second

// bound ends a request's context in time. r is nil if no route was found.
func (r *Route) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if r != nil && slices.Contains(streaming, r.Name) {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// routes is every route of the daemon.
func (s *Server) routes() []Route {
	const (
		serial = "{serial:[^/]+}"
		id     = "{id:[^/]+}"
		issuer = "{issuer:[0-9a-f]+}"
		shard  = "{shard:[1-9][0-9]*}"
	)
	oauth := s.c.OAuth
	return []Route{
		{"GET", "/v1/ca", "ca", both, Anyone, s.getCA},
		{"GET", "/v1/openapi.json", "openapi", both, Anyone, s.getOpenAPI},
		{"POST", "/v1/invitations", "invitations.create", both, Operator, s.postInvitation},
		{"POST", "/v1/certificates", "certificates.issue", both, EnrolmentToken, s.postCertificate},
		{"POST", "/v1/certificates/renew", "certificates.renew", both, Certificate, s.renewCertificate},
		{"POST", "/v1/certificates/adopt", "certificates.adopt", both, Operator, s.adoptCertificate},
		{"GET", "/v1/certificates", "certificates.list", both, Operator, s.listCertificates},
		{"GET", "/v1/certificates/" + serial, "certificates.show", both, Operator, s.getCertificate},
		{"POST", "/v1/certificates/" + serial + "/revoke", "certificates.revoke", both, Operator, s.revokeCertificate},
		{"GET", "/v1/clients", "clients.list", both, Operator, s.listClients},
		{"POST", "/v1/clients", "clients.add", both, Operator, s.postClient},
		{"GET", "/v1/clients/" + id, "clients.show", both, Operator, s.getClient},
		{"PATCH", "/v1/clients/" + id, "clients.change", both, Operator, s.patchClient},
		{"GET", revocation.Path, "revocations.stream", both, Anyone, s.getRevocations},
		{"GET", "/v1/audit", "audit", both, Operator, s.getAudit},
		{"POST", "/v1/audit/archived", "audit.archived", both, Operator, s.postArchived},
		{"GET", "/v1/issuers", "rotation.issuers", both, Operator, s.listIssuers},
		{"POST", "/v1/issuers", "rotation.issuers.request", both, Operator, s.postIssuer},
		{"PUT", "/v1/issuers/" + id + "/certificate", "rotation.issuers.install", both, Operator, s.putIssuer},
		{"DELETE", "/v1/issuers/" + id, "rotation.issuers.drop", both, Operator, s.deleteIssuer},
		{"GET", "/v1/token-keys", "rotation.tokens", both, Operator, s.listTokenKeys},
		{"POST", "/v1/token-keys", "rotation.tokens.rotate", both, Operator, s.postTokenKey},
		{"DELETE", "/v1/token-keys/" + id, "rotation.tokens.drop", both, Operator, s.deleteTokenKey},
		{"POST", "/v1/explain", "explain", both, Operator, s.postExplain},
		{"GET", "/v1/store", "store", both, Operator, s.getSnapshot},

		{AnyMethod, "/v1/verify", "verify", both, TrustedProxy, plain(s.c.Verify.ServeHTTP)},
		{AnyMethod, "/v1/verify/{request:.*}", "verify.named", both, TrustedProxy, plain(s.c.Verify.ServeHTTP)},

		{"POST", "/oauth/token", "oauth.token", both, OAuthClient, plain(oauth.Token)},
		{"POST", "/oauth/introspect", "oauth.introspect", both, OAuthClient, plain(oauth.Introspect)},
		{"POST", "/oauth/revoke", "oauth.revoke", both, OAuthClient, plain(oauth.Revoke)},
		{"GET", "/oauth/jwks", "oauth.jwks", both, Anyone, plain(oauth.JWKS)},
		{"GET", "/.well-known/oauth-authorization-server", "oauth.metadata", both, Anyone, plain(oauth.Metadata)},
		{"GET", "/.well-known/openid-configuration", "oauth.metadata.openid", both, Anyone, plain(oauth.Metadata)},

		{"GET", "/", "console.welcome", both, Anyone, s.welcomePage},
		{"GET", "/assets/{file:[a-z.]+}", "console.assets", both, Anyone, s.asset},
		{"GET", "/console", "console.overview", both, Operator, s.overviewPage},
		{"GET", "/console/certificates", "console.certificates", both, Operator, s.certificatesPage},
		{"GET", "/console/certificates/" + serial, "console.certificate", both, Operator, s.certificatePage},
		{"POST", "/console/certificates/" + serial + "/revoke", "console.revoke", both, Operator, s.revokeForm},
		{"GET", "/console/clients", "console.clients", both, Operator, s.clientsPage},
		{"POST", "/console/clients/" + id + "/disable", "console.clients.disable", both, Operator, s.disableForm},
		{"POST", "/console/clients/" + id + "/enable", "console.clients.enable", both, Operator, s.enableForm},
		{"GET", "/console/audit", "console.audit", both, Operator, s.auditPage},

		{"GET", "/crl/root.crl", "crl.root", Status, Anyone, s.getRootCRL},
		{"GET", "/crl/" + issuer + ".crl", "crl", Status, Anyone, s.getCRL},
		{"GET", "/crl/" + issuer + "-delta.crl", "crl.delta", Status, Anyone, s.getDeltaCRL},
		{"GET", "/crl/" + issuer + "-" + shard + ".crl", "crl.shard", Status, Anyone, s.getCRL},
		{"GET", "/crl/" + issuer + "-" + shard + "-delta.crl", "crl.shard.delta", Status, Anyone, s.getDeltaCRL},
		{"POST", "/ocsp", "ocsp", Status, Anyone, s.postOCSP},
		{"GET", ocspPath + "{request:.+}", "ocsp.get", Status, Anyone, s.getOCSP},
		{"GET", "/issuers/root.crt", "issuers.root", Status, Anyone, s.getRootCertificate},
		{"GET", "/issuers/" + issuer + ".crt", "issuers", Status, Anyone, s.getIssuerCertificate},

		{"GET", "/metrics", "metrics", Ops, Anyone, s.getMetrics},
		{"GET", "/healthz", "healthz", Ops, Anyone, s.getHealth},
		{"GET", "/readyz", "readyz", Ops, Anyone, s.getReady},
	}
}

// plain takes a handler that writes its errors itself: the authorization server's, as OAuth wants them.
func plain(h http.HandlerFunc) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		h(w, r)
		return nil
	}
}

// methods are those that the route answers. Web pages may use the OAuth routes from another origin, so their
// preflight goes to the authorization server.
func (r *Route) methods() []string {
	if r.Method == AnyMethod {
		return slices.Clone(everyMethod) // the mux writes into it
	}
	methods := []string{r.Method}
	if r.Method == http.MethodGet {
		methods = append(methods, http.MethodHead)
	}
	if strings.HasPrefix(r.Name, "oauth.") {
		methods = append(methods, http.MethodOptions)
	}
	return methods
}

// router finds the route of a request.
type router struct {
	exact map[methodPath]*Route // those whose path has no variable
	begin map[string]*Route     // those of AnyMethod, by what a path begins with, or is if that is no slash
	mux   *mux.Router           // all of them
	named map[string]*Route
}

type methodPath struct{ method, path string }

// router puts a listener's part of the table into a mux, which is asked for matches and serves nothing.
// Each route asks for the path before the method: a route that takes the method of a request would otherwise
// make the mux forget that another takes its path, and the answer would be 404 instead of 405.
//
// The mux tries one route after the other, each with a regular expression. Paths without variables, which most
// requests ask for, are found before it is asked, as they are sent, which is how the mux compares them too; and so
// it tries those with variables first.
func (s *Server) router(l Listener) *router {
	out := &router{exact: map[methodPath]*Route{}, begin: map[string]*Route{}, named: map[string]*Route{}, mux: mux.NewRouter().UseEncodedPath().StrictSlash(false)}
	var variable, exact []*Route
	for i := range s.table {
		route := &s.table[i]
		switch {
		case route.Listeners&l == 0:
			continue
		case strings.Contains(route.Path, "{"):
			variable = append(variable, route)
		default:
			exact = append(exact, route)
			for _, method := range route.methods() {
				out.exact[methodPath{method, route.Path}] = route
			}
		}
		out.named[route.Name] = route
		if before, _, _ := strings.Cut(route.Path, "{"); route.Method == AnyMethod {
			out.begin[before] = route
		}
	}
	for _, route := range append(variable, exact...) {
		// Without a handler a route would not count for the mux.
		out.mux.Path(route.Path).Methods(route.methods()...).Name(route.Name).Handler(http.NotFoundHandler())
	}
	return out
}

// find returns the route of a request, and what its path has in place of variables.
func (t *router) find(r *http.Request) (*Route, map[string]string, error) {
	if route := t.exact[methodPath{r.Method, r.URL.EscapedPath()}]; route != nil {
		return route, nil, nil
	}
	path := r.URL.EscapedPath()
	for before, route := range t.begin {
		if path == before || strings.HasSuffix(before, "/") && strings.HasPrefix(path, before) {
			return route, nil, nil
		}
	}
	if ocsp := t.named["ocsp.get"] != nil && strings.HasPrefix(path, ocspPath); !ocsp && !clean(r.URL) {
		return nil, nil, refuse(badPath, "the path has an empty, . or .. segment, or a backslash")
	}
	var match mux.RouteMatch
	switch found := t.mux.Match(r, &match); {
	case found:
		return t.named[match.Route.GetName()], match.Vars, nil
	case errors.Is(match.MatchErr, mux.ErrMethodMismatch):
		return nil, nil, &methodError{allowed(t.mux, r)}
	default:
		return nil, nil, errNoRoute
	}
}

// strays looks, where no route was found, whether a person looks for a page that the console does not have, and
// sees to it that the answer is one: with the menu, for an operator.
func (s *Server) strays(r *http.Request, c *call, err error) error {
	none := errors.Is(err, errNoRoute)
	if !none && !as[*methodError](err) {
		return err
	}
	looks := r.Method == http.MethodGet || r.Method == http.MethodHead
	if c.listener&both == 0 || !looks || !strings.HasPrefix(r.URL.Path, "/console/") {
		return err
	}
	c.strays = true
	_, _ = s.operator(r, c) // whoever is none sees the same without the menu
	if none {
		return refuse(noRoute, "the console has no page %s", r.URL.Path)
	}
	return err
}

// allowed lists the methods that some route takes for the request's path (RFC 9110 section 15.5.6).
func allowed(router *mux.Router, r *http.Request) []string {
	var out []string
	for _, m := range everyMethod {
		probe := r.Clone(r.Context())
		probe.Method = m
		var match mux.RouteMatch
		if router.Match(probe, &match) && match.MatchErr == nil {
			out = append(out, m)
		}
	}
	return out
}
