package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/thumbprint"
)

// scopeList is a repeatable flag of scopes. One flag may hold several, separated by spaces as in OAuth; none at
// all is an empty list. A scope may have a comma in it (RFC 6749 section 3.3), but nobody who types one means that.
type scopeList []string

func (l *scopeList) Set(text string) error {
	if strings.Contains(text, ",") {
		return errors.New("a comma does not separate scopes: repeat the flag")
	}
	*l = append(*l, strings.Fields(text)...)
	if *l == nil {
		*l = scopeList{}
	}
	return nil
}

func (l *scopeList) String() string { return strings.Join(*l, " ") }
func (l *scopeList) Type() string   { return "scope" }

func (a *app) clientSetCommand() *cobra.Command {
	var scopes, addScopes scopeList
	var resources, addResources []string
	var dpop, introspect, bearer bool
	var policy clientPolicy
	cmd := &cobra.Command{
		Use: "set ID", Short: "change what a client may do", Args: exactly("ID"),
		Long: "Change what a client may do. What no flag names stays as it is. Tokens that it has already keep what they\n" +
			"were given until they expire.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := policy.check(); err != nil {
				return err
			}
			changed := cmd.Flags().Changed
			ifSet := func(flag string, value *bool) *bool {
				if !changed(flag) {
					return nil
				}
				return value
			}
			p := client.ClientPatch{
				DPoP: ifSet("dpop", &dpop), Introspect: ifSet("introspect", &introspect), Bearer: ifSet("insecure-bearer", &bearer),
			}
			policy.patch(&p, changed)
			for _, name := range []string{"scope", "resource"} {
				if changed(name) && changed("add-"+name) {
					return usagef("--%s sets them all, --add-%s adds to them: use one", name, name)
				}
			}
			if changed("scope") {
				p.Scopes = (*[]string)(&scopes)
			}
			if changed("resource") {
				resources = slices.DeleteFunc(resources, func(r string) bool { return r == "" })
				p.Resources = &resources
			}
			if p == (client.ClientPatch{}) && len(addScopes)+len(addResources) == 0 {
				return usagef("name what to change, such as --add-scope read")
			}
			api, err := a.api(cmd.Context())
			if err != nil {
				return err
			}
			if len(addScopes)+len(addResources) > 0 {
				c, err := api.Client(cmd.Context(), args[0])
				if err != nil {
					return doing(err, "looking up client %s", args[0])
				}
				p.Scopes, p.Resources = extended(p.Scopes, c.Scopes, addScopes), extended(p.Resources, c.Resources, addResources)
			}
			c, err := api.PatchClient(cmd.Context(), args[0], p)
			if err != nil {
				return doing(err, "changing client %s", args[0])
			}
			return a.printClient(c)
		},
	}
	f := cmd.Flags()
	f.Var(&scopes, "scope", `scope that it may ask for, instead of those it has; repeatable, "" for none`)
	f.Var(&addScopes, "add-scope", "one more scope that it may ask for; repeatable")
	f.StringArrayVar(&resources, "resource", nil, `resource that it may ask for, instead of those it has; repeatable, "" for none`)
	f.StringArrayVar(&addResources, "add-resource", nil, "one more resource that it may ask for; repeatable")
	f.BoolVar(&dpop, "dpop", false, "only tokens that are bound to a DPoP key; --dpop=false: not")
	policy.flags(cmd)
	f.BoolVar(&introspect, "introspect", false, "may introspect any token; --introspect=false: not")
	f.BoolVar(&bearer, "insecure-bearer", false, "may get tokens that are bound to nothing; --insecure-bearer=false: not")
	a.jsonFlag(cmd)
	return cmd
}

// extended returns what a member of a patch becomes if more is added to what the client has.
func extended(member *[]string, has, more []string) *[]string {
	if len(more) == 0 {
		return member
	}
	for _, m := range more {
		if !slices.Contains(has, m) {
			has = append(has, m)
		}
	}
	return &has
}

// keyFields tells the keys of a JWK set apart: type, thumbprint (RFC 7638) and kid of each.
func keyFields(jwks json.RawMessage) (fields []field) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); len(jwks) > 0 && err != nil {
		return []field{{"jwks", "not a JWK set: " + err.Error()}}
	}
	for _, jwk := range set.Keys {
		kty, _ := jwk["kty"].(string)
		text := kty + " " + jwkThumbprint(kty, jwk)
		if kid, ok := jwk["kid"].(string); ok {
			text += " kid " + kid
		}
		fields = append(fields, field{"key", text})
	}
	return fields
}

// jwkThumbprint hashes the members of a JWK that RFC 7638 section 3.2 and RFC 8037 section 2 require, in
// lexicographic order, which is how encoding/json writes a map.
func jwkThumbprint(kty string, jwk map[string]any) string {
	members := map[string][]string{"EC": {"crv", "kty", "x", "y"}, "RSA": {"e", "kty", "n"}, "OKP": {"crv", "kty", "x"}}[kty]
	required := map[string]string{}
	for _, name := range members {
		required[name], _ = jwk[name].(string)
	}
	if len(required) == 0 {
		return "(of a type without thumbprint)"
	}
	text, _ := json.Marshal(required) // strings: always encodable
	return thumbprint.Key(sha256.Sum256(text)).String()
}
