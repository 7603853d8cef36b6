package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/audit"
)

// document loads the OpenAPI document once, checks it, and makes the router that finds its operations.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{"application/x-ndjson", "text/csv", pemFile, pemChain, "application/pkcs10"} {
		openapi3filter.RegisterBodyDecoder(kind, openapi3filter.FileBodyDecoder)
	}
	return doc, doc.Validate(context.Background())
})

func apiPath(path string) bool {
	return strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/oauth/") || strings.HasPrefix(path, "/.well-known/")
}

// checkContract holds an exchange against the document: the response always, and the request where it was
// accepted, so that the document promises neither more nor less than what is served.
func checkContract(t testing.TB, sent request, req *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	doc := must[*openapi3.T](t)(document())
	if !apiPath(req.URL.Path) || req.Method == http.MethodHead || req.Method == http.MethodOptions {
		return
	}
	router := must[routers.Router](t)(gorillamux.NewRouter(doc))
	plain := req.Clone(t.Context())
	plain.URL = &url.URL{Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}
	plain.Body = io.NopCloser(strings.NewReader(sent.body))
	route, vars, err := router.FindRoute(plain)
	if err != nil {
		if resp.StatusCode < http.StatusBadRequest {
			t.Errorf("%s %s answers %d and is not in the document: %v", req.Method, req.URL, resp.StatusCode, err)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: plain, PathParams: vars, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if resp.StatusCode < http.StatusBadRequest {
		if err := openapi3filter.ValidateRequest(t.Context(), in); err != nil {
			t.Errorf("%s %s was accepted against the document: %v", req.Method, req.URL, err)
		}
	}
	err = openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in,
		Status:                 resp.StatusCode,
		Header:                 resp.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s: the answer (%d) is not as the document has it: %v", req.Method, req.URL, resp.StatusCode, err)
	}
}

var variable = regexp.MustCompile(`\{(\w+):[^}]*\}`)

// TestOpenAPI_RouteTable: what is in the table is in the document, and the reverse.
func TestOpenAPI_RouteTable(t *testing.T) {
	doc := must[*openapi3.T](t)(document())
	if !doc.IsOpenAPI31OrLater() {
		t.Errorf("version %s, want 3.1", doc.OpenAPI)
	}
	described := map[string]*openapi3.Operation{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			described[method+" "+path] = op
		}
	}
	security := map[Access][]string{
		Anyone: {}, TrustedProxy: {}, EnrolmentToken: {"enrolmentToken"}, Certificate: {"certificate"},
		Operator: {"operator"}, OAuthClient: {"clientBasic", "clientCertificate"},
	}
	for _, route := range newFixture(t).table {
		if route.Listeners&both == 0 || !apiPath(route.Path) {
			continue
		}
		method := route.Method
		if method == AnyMethod { // which the format cannot say
			method = http.MethodGet
		}
		key := method + " " + variable.ReplaceAllString(route.Path, "{$1}")
		op := described[key]
		delete(described, key)
		if op == nil {
			t.Errorf("%s is served and not described", key)
			continue
		}
		if op.OperationID != route.Name {
			t.Errorf("%s: operationId %q, want the route's name %q", key, op.OperationID, route.Name)
		}
		schemes := []string{}
		for _, requirement := range *op.Security {
			for name := range requirement {
				schemes = append(schemes, name)
			}
		}
		slices.Sort(schemes)
		if !slices.Equal(schemes, security[route.Access]) {
			t.Errorf("%s: security %v, want %v for access %q", key, schemes, security[route.Access], route.Access)
		}
	}
	for key := range described {
		t.Errorf("%s is described and not served", key)
	}
}

// TestOpenAPI_WireTypes: each schema has the members of its Go type, and requires those that are always sent.
func TestOpenAPI_WireTypes(t *testing.T) {
	doc := must[*openapi3.T](t)(document())
	asked := []string{"InvitationRequest", "ClientRecord", "CSR", "Revocation", "ClientPatch", "IssuerInstallation"} // bodies: what they require is not what Go sends
	for _, v := range []any{
		client.CA{},
		client.Issuer{},
		client.URLs{},
		client.Certificate{},
		client.Certificates{},
		client.CSR{},
		client.Revocation{},
		client.InvitationRequest{},
		client.Invitation{},
		client.ClientRecord{},
		client.ClientPatch{},
		client.ClientRecords{},
		client.Problem{},
		client.IssuerState{},
		client.IssuerStates{},
		client.IssuerRequest{},
		client.IssuerInstallation{},
		client.TokenKeyState{},
		client.TokenKeyStates{},
		audit.Entry{},
		auditAnswer{},
	} {
		typ := reflect.TypeOf(v)
		name := typ.Name()
		switch typ {
		case reflect.TypeFor[audit.Entry]():
			name = "AuditEntry"
		case reflect.TypeFor[auditAnswer]():
			name = "AuditEntries"
		}
		ref := doc.Components.Schemas[name]
		if ref == nil {
			t.Errorf("%s has no schema", name)
			continue
		}
		var members, always []string
		for field := range typ.Fields() {
			tag, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			members = append(members, tag)
			if options == "" {
				always = append(always, tag)
			}
		}
		var described []string
		for property := range ref.Value.Properties {
			described = append(described, property)
		}
		slices.Sort(members)
		slices.Sort(described)
		if !slices.Equal(members, described) {
			t.Errorf("%s: the schema has %v, the type %v", name, described, members)
		}
		if required := slices.Sorted(slices.Values(ref.Value.Required)); !slices.Contains(asked, name) && !slices.Equal(required, slices.Sorted(slices.Values(always))) {
			t.Errorf("%s: the schema requires %v, the type always sends %v", name, required, always)
		}
	}
}

func TestOpenAPI_Served(t *testing.T) {
	f := newFixture(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
	}
	f.do(request{url: f.public.URL + "/v1/openapi.json"}).want(t, http.StatusOK, &doc)
	if doc.OpenAPI != "3.1.0" || !json.Valid(openAPI) {
		t.Errorf("served version %q", doc.OpenAPI)
	}
}
