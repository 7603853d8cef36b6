package tokenbind_test

import (
	"crypto/tls"
	"fmt"
	"log"
	"net/http"

	"github.com/pkid/pkid/tokenbind"
)

// A Go service that takes tokens only from those they were issued to, in a dozen lines.
func Example() {
	v, err := tokenbind.NewVerifier(tokenbind.Config{
		Issuer:   "https://pkid.example:8443",
		Audience: "https://api.example", // where clients reach this server, too; say BaseURL if it is not
	})
	if err != nil {
		log.Fatal(err)
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, _ := tokenbind.ClaimsFrom(r.Context())
		fmt.Fprintf(w, "hello %s\n", claims.ClientID)
	})
	server := http.Server{Addr: ":443", Handler: v.Handler(hello), TLSConfig: &tls.Config{ClientAuth: tls.RequestClientCert}}
	log.Fatal(server.ListenAndServeTLS("server.crt", "server.key"))
}
