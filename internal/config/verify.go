package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
)

// ResourceServer is one that reverse proxies ask for: whether a client's request to it may pass.
type ResourceServer struct {
	// Name is what a sub-request calls it by, in the path /v1/verify/NAME: lower-case letters, digits and hyphens. Envoy,
	// which sends the client's path after it, needs one. Default: none; it is called by its audience.
	Name string `yaml:"name,omitempty"`
	// Audience is its identifier, which a token must name in aud: an https URL, most often.
	Audience string `yaml:"audience"`
	// BaseURL is the public URL up to where the request's path begins, as DPoP proofs name it (htu), such as
	// https://api.example.com. Default: the origin of audience.
	BaseURL string `yaml:"base_url,omitempty"`
	// Scopes that each token must have, whatever a sub-request demands beside them.
	Scopes []string `yaml:"scopes,omitempty"`
	// RequireNonce demands a nonce of ours in every DPoP proof (RFC 9449 section 9).
	RequireNonce bool `yaml:"require_nonce,omitempty"`
	// NoDPoP refuses tokens that are bound to a DPoP key, where all clients have certificates.
	NoDPoP bool `yaml:"no_dpop,omitempty"`
	// InsecureAllowBearer takes tokens that are bound to nothing: whoever gets hold of one can use it.
	InsecureAllowBearer bool `yaml:"insecure_allow_bearer,omitempty"`
}

// maxResourceServers bounds the list: each keeps what it knows of tokens.
const maxResourceServers = 100

var resourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// CheckResourceServers names what is wrong with a list of that key.
func CheckResourceServers(key string, list []ResourceServer) error {
	if len(list) > maxResourceServers {
		return fmt.Errorf("%s: %d resource servers, at most %d are taken", key, len(list), maxResourceServers)
	}
	seen := map[string]bool{}
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		if s.Name != "" && !resourceName.MatchString(s.Name) {
			return fmt.Errorf("%s.name: want lower-case letters, digits and hyphens, 63 at most, not %q", at, s.Name)
		}
		if s.Audience == "" {
			return fmt.Errorf("%s.audience: name the audience that tokens for this server have", at)
		}
		for member, id := range map[string]string{"name": s.Name, "audience": s.Audience} {
			if id != "" && seen[member+id] {
				return fmt.Errorf("%s.%s: %q is there twice", at, member, id)
			}
			seen[member+id] = true
		}
		if err := s.checkBase(); err != nil {
			return fmt.Errorf("%s.base_url: %w", at, err)
		}
	}
	return nil
}

func (s *ResourceServer) checkBase() error {
	if s.NoDPoP {
		return nil
	}
	raw := s.BaseURL
	if raw == "" {
		raw = s.Audience
	}
	u, err := url.Parse(raw)
	switch {
	case err == nil && u.Scheme == "https" && u.Host != "":
		return nil
	case s.BaseURL == "":
		return errors.New("the audience is no https URL: set base_url to the server's public URL, which DPoP proofs name, or no_dpop")
	case err != nil || u.Scheme != "http" || u.Host == "":
		return fmt.Errorf("want the server's public URL, such as https://api.example.com, not %q", raw)
	}
	return nil
}
