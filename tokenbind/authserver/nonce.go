package authserver

import "encoding/json"

// Nonce says whether a client's DPoP proofs must carry a nonce of the token endpoint's (RFC 9449 section 8). It is
// stored as true, false or nothing at all.
type Nonce string

// What a client's record may say.
const (
	NonceDefault  Nonce = ""         // as Config.RequireNonce has it for all
	NonceRequired Nonce = "required" // always
	NonceOptional Nonce = "optional" // never, for a client that cannot answer when it is asked for one
)

// MarshalJSON writes what UnmarshalJSON reads.
func (n Nonce) MarshalJSON() ([]byte, error) { return json.Marshal(n == NonceRequired) }

// UnmarshalJSON reads a boolean, as which the member began.
func (n *Nonce) UnmarshalJSON(raw []byte) error {
	var required bool
	if err := json.Unmarshal(raw, &required); err != nil {
		return err
	}
	if *n = NonceOptional; required {
		*n = NonceRequired
	}
	return nil
}

func (n Nonce) validate() error {
	switch n {
	case NonceDefault, NonceRequired, NonceOptional:
		return nil
	}
	return invalid("dpop_nonce %.32q: want %s, %s, or nothing for what the server asks of all", string(n), NonceRequired, NonceOptional)
}

// demandsNonce reports whether the client's proofs must carry a nonce.
func (s *Server) demandsNonce(client *Client) bool {
	return client.Nonce == NonceRequired || s.c.RequireNonce && client.Nonce != NonceOptional
}
