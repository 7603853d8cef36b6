// Package grpcauth carries sender-constrained access tokens over gRPC: interceptors for servers, and a connection for
// clients.
//
// A call is to a token what an HTTP request is: its method is POST, and its URL, in a DPoP proof's htu, is the server's
// public URL with the call's full name as path, such as https://api.example/shop.Orders/List. Token and proof come in the
// metadata "authorization" and "dpop", challenges and nonces go back in the trailers "www-authenticate" and "dpop-nonce".
package grpcauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pkid/pkid/tokenbind"
)

// UnaryServer returns an interceptor that lets through calls which v accepts, with the claims in their context
// (tokenbind.ClaimsFrom). It refuses others with Unauthenticated, PermissionDenied, InvalidArgument or Unavailable. The
// server's TLS must ask for a client certificate and take any, as tls.RequestClientCert does.
func UnaryServer(v *tokenbind.Verifier) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		a := attempt{v: v, r: requestOf(ctx, info.FullMethod)}
		claims, err := a.admit(ctx)
		if err != nil {
			return nil, err
		}
		return handle(tokenbind.WithClaims(ctx, claims), req)
	}
}

// StreamServer is UnaryServer for streams. A stream ends with its token: no message is received or sent after the token
// or its certificate has expired or was revoked, or the client was disabled.
func StreamServer(v *tokenbind.Verifier) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		a := attempt{v: v, r: requestOf(stream.Context(), info.FullMethod)}
		claims, err := a.admit(stream.Context())
		if err != nil {
			return err
		}
		ctx, cancel := context.WithDeadlineCause(tokenbind.WithClaims(stream.Context(), claims), claims.ExpiresAt, errExpired)
		defer cancel()
		err = handle(srv, &boundStream{stream, ctx, a, claims})
		late := errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
		if late && errors.Is(context.Cause(ctx), errExpired) {
			return status.Error(codes.Unauthenticated, errExpired.Error())
		}
		return err
	}
}

var errExpired = errors.New("the stream's access token has expired")

// boundStream is a stream that ends with its token.
type boundStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // a ServerStream has one
	a      attempt
	claims *tokenbind.Claims
}

// Context ends when the token expires.
func (s *boundStream) Context() context.Context { return s.ctx }

// RecvMsg returns no message that came after the token's end.
func (s *boundStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.stands()
}

// SendMsg sends nothing after the token's end.
func (s *boundStream) SendMsg(m any) error {
	if err := s.stands(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *boundStream) stands() error {
	if err := s.a.v.Stands(s.a.r, s.claims); err != nil {
		return s.a.refuse(s.ServerStream.Context(), err)
	}
	return nil
}

// attempt is a call that asks to be let in.
type attempt struct {
	v *tokenbind.Verifier
	r *http.Request
}

func (a attempt) admit(ctx context.Context) (*tokenbind.Claims, error) {
	w := answer{header: http.Header{}}
	claims, err := a.v.Admit(&w, a.r)
	if err != nil {
		return nil, w.refusal(ctx, err)
	}
	if nonce := w.header.Get("DPoP-Nonce"); nonce != "" {
		return claims, grpc.SetTrailer(ctx, metadata.Pairs("dpop-nonce", nonce))
	}
	return claims, nil
}

func (a attempt) refuse(ctx context.Context, err error) error {
	w := answer{header: http.Header{}}
	a.v.Refuse(&w, a.r, err)
	return w.refusal(ctx, err)
}

// answer keeps what a verifier would answer to an HTTP request.
type answer struct {
	header http.Header
	status int
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(b []byte) (int, error) { return len(b), nil }

// refusal turns the answer into gRPC's: the challenges and a nonce as trailers, and a status.
func (w *answer) refusal(ctx context.Context, err error) error {
	trailer := metadata.MD{}
	for _, name := range []string{"WWW-Authenticate", "DPoP-Nonce"} {
		if values := w.header.Values(name); len(values) > 0 {
			trailer.Append(name, values...)
		}
	}
	if err := grpc.SetTrailer(ctx, trailer); err != nil {
		return status.Error(codes.Internal, "the call could not be refused with its challenge")
	}
	text := "the call could not be checked"
	if refused, ok := errors.AsType[*tokenbind.Error](err); ok {
		text = refused.Error() + " (refusal " + refused.ID + ")"
	}
	return status.Error(code(w.status), text)
}

func code(status int) codes.Code {
	switch status {
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	default:
		return codes.Internal
	}
}

// requestOf is the HTTP request that a call is.
func requestOf(ctx context.Context, fullMethod string) *http.Request {
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: fullMethod}, RequestURI: fullMethod,
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{}, Body: http.NoBody,
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		switch {
		case name == ":authority" && len(values) == 1:
			r.Host = values[0]
		case !strings.HasPrefix(name, ":"):
			r.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			r.TLS = &info.State
		}
	}
	return r.WithContext(ctx)
}
