// Package extauthz is the gRPC form of Envoy's external authorization (envoy.service.auth.v3), in front of the same
// resource servers as forwardauth's HTTP form: Envoy tells the client's request, and is answered with the headers that say
// who the client is, or with the refusal that the client is to get.
//
// Envoy's filter names the resource server in context_extensions: "server" is its name, "audience" its audience, "scope"
// what is demanded beside its own scopes. It has to have include_peer_certificate set, or no client proves a certificate.
package extauthz

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/pkid/pkid/forwardauth"
	"github.com/pkid/pkid/tokenbind"
)

// maxCertificate bounds the certificate that Envoy tells, in octets as sent.
const maxCertificate = 32 << 10

// Service answers for a forwardauth.Handler. It is safe for concurrent use.
type Service struct {
	authv3.UnimplementedAuthorizationServer

	handler *forwardauth.Handler
	trusts  func(*http.Request) (bool, error)
}

// New returns the service. trusts says whether a call's own connection, as RemoteAddr and TLS of a request without
// headers, is a proxy's, as tokenbind.Proxies.Trusts does. All others are refused, and so is everybody while it cannot tell.
func New(h *forwardauth.Handler, trusts func(*http.Request) (bool, error)) *Service {
	return &Service{handler: h, trusts: trusts}
}

// Register makes the service one of a gRPC server's.
func (s *Service) Register(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, s) }

// Tap is for grpc.InTapHandle: it refuses strangers before anything of what they send is kept.
func (s *Service) Tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	return ctx, s.admit(ctx)
}

// admit is an error for a caller that is no trusted proxy.
func (s *Service) admit(ctx context.Context) error {
	switch trusted, err := s.trusts(connection(ctx)); {
	case err != nil:
		return grpcstatus.Error(codes.Unavailable, "whether a trusted proxy asks cannot be told at the moment")
	case !trusted:
		return grpcstatus.Error(codes.PermissionDenied, "only a trusted proxy may ask for another's request")
	}
	return nil
}

// Check answers for one request of a client. Its error is for a caller that is no trusted proxy.
func (s *Service) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	sub := &http.Request{Method: http.MethodGet, URL: s.asked(in), Header: http.Header{}, Body: http.NoBody}
	w := answer{header: http.Header{}}
	s.handler.For(receiver{in}).ServeHTTP(&w, sub.WithContext(ctx))
	return w.response(), nil
}

// asked is the sub-request that HTTP would have: the proxy's configuration says which resource server is meant.
func (s *Service) asked(in *authv3.CheckRequest) *url.URL {
	extensions := in.GetAttributes().GetContextExtensions()
	u := &url.URL{Path: s.handler.Prefix()}
	query := url.Values{}
	for name, value := range extensions {
		if name == "server" {
			u.Path += "/" + value
		} else {
			query.Set(name, value) // what is not known is refused there
		}
	}
	u.RawQuery = query.Encode()
	return u
}

// connection is the call's own, as a request.
func connection(ctx context.Context) *http.Request {
	r := &http.Request{Header: http.Header{}}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			r.TLS = &info.State
		}
	}
	return r.WithContext(ctx)
}

// receiver knows the client's request from Envoy itself, so that no header counts.
type receiver struct{ in *authv3.CheckRequest }

// ReceiveCheck is forwardauth.Receiver.
func (o receiver) ReceiveCheck(sub *http.Request) (*http.Request, error) {
	attributes := o.in.GetAttributes()
	told := attributes.GetRequest().GetHttp()
	u, err := url.ParseRequestURI(told.GetPath())
	if told.GetMethod() == "" || err != nil {
		return nil, fmt.Errorf("%w: Envoy tells no method and path of the client's request", tokenbind.ErrForwarded)
	}
	chain, err := readCertificate(attributes.GetSource().GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("%w: source.certificate: %w", tokenbind.ErrForwarded, err)
	}
	out := sub.Clone(sub.Context())
	out.Method, out.URL, out.RequestURI, out.Host = told.GetMethod(), u, told.GetPath(), told.GetHost()
	out.URL.Scheme, out.URL.Host = told.GetScheme(), told.GetHost()
	out.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chain}
	out.RemoteAddr = address(attributes.GetSource().GetAddress())
	add := func(name, value string) {
		// Envoy writes or removes this one itself, and what it says of the certificate stands in the attributes.
		if !strings.HasPrefix(name, ":") && !strings.EqualFold(name, "X-Forwarded-Client-Cert") {
			out.Header.Add(name, value)
		}
	}
	for name, value := range told.GetHeaders() {
		add(name, value)
	}
	for _, h := range told.GetHeaderMap().GetHeaders() { // with encode_raw_headers, instead of the others
		add(h.GetKey(), h.GetValue()+string(h.GetRawValue()))
	}
	return out, nil
}

// readCertificate reads the certificate that the client proved to Envoy: in PEM, percent-encoded. There is none if it is
// empty.
func readCertificate(text string) ([]*x509.Certificate, error) {
	switch {
	case text == "":
		return nil, nil
	case len(text) > maxCertificate:
		return nil, fmt.Errorf("more than %d octets", maxCertificate)
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return nil, errors.New("not percent-encoded")
	}
	block, rest := pem.Decode([]byte(plain))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{cert}, nil
}

func address(a *corev3.Address) string {
	s := a.GetSocketAddress()
	return net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
}

// answer keeps what a Handler answers.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(b []byte) (int, error) { return w.body.Write(b) }

// response tells Envoy to let the client's request through with the identity headers, or to refuse it.
func (w *answer) response() *authv3.CheckResponse {
	if w.status != http.StatusOK {
		return &authv3.CheckResponse{
			Status: &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status:  &typev3.HttpStatus{Code: typev3.StatusCode(w.status)},
				Headers: options(w.header),
				Body:    w.body.String(),
			}},
		}
	}
	identity, nonce := http.Header{}, http.Header{}
	for _, name := range forwardauth.Headers() {
		identity[name] = w.header[name]
	}
	// The API's answer stays as it is, unless it brings a nonce: then it is not to be cached (RFC 9449 section 8.2).
	if next := w.header[nonceHeader]; len(next) > 0 {
		nonce[nonceHeader], nonce["Cache-Control"] = next, []string{"no-store"}
	}
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:              options(identity),
			ResponseHeadersToAdd: options(nonce),
		}},
	}
}

const nonceHeader = "Dpop-Nonce" // in the form that http.Header has it

// options are headers that replace what there is of the same name.
func options(h http.Header) (all []*corev3.HeaderValueOption) {
	for name, values := range h {
		all = append(all, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: strings.ToLower(name), Value: strings.Join(values, ", ")},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return all
}
