package grpcauth_test

import (
	"context"
	"crypto/tls"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/grpcauth"
	"github.com/pkid/pkid/tokenbind"
)

// A server that lets calls in with a token and whatever the token is bound to.
func ExampleUnaryServer() {
	id, err := client.Load("orders") // from pkictl enroll; its profile is server
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer: id.Info().URLs.Public, Audience: "https://orders.example", HTTPClient: id.HTTPClient(),
	})
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:     tls.VersionTLS12,
			ClientAuth:     tls.RequestClientCert, // any, or none: the verifier decides
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
		})),
		grpc.UnaryInterceptor(grpcauth.UnaryServer(verifier)),
		grpc.StreamInterceptor(grpcauth.StreamServer(verifier)),
	)
	_ = server // register services, and serve
}

// A client whose certificate, tokens and connections are renewed together.
func ExampleNewConn() {
	id, err := client.Load("app")
	if err != nil {
		log.Fatal(err)
	}
	source, err := client.NewTokenSource(client.TokenConfig{Identity: id, Resource: "https://orders.example"})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpcauth.NewConn("https://orders.example", source)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		log.Print(err)
	}
}
