package main

import (
	"runtime/debug"
	"slices"
)

// moduleVersions are those of the peers that this program was built with.
func moduleVersions() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	peers := []string{"github.com/go-jose/go-jose/v4", "github.com/golang-jwt/jwt/v5", "github.com/lestrrat-go/jwx/v3", "go.etcd.io/bbolt"}
	var out []string
	for _, m := range info.Deps {
		if slices.Contains(peers, m.Path) {
			out = append(out, m.Path+" "+m.Version)
		}
	}
	return out
}
