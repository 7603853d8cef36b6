package ca

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels of Authority. What a caller can mend is in the text; web maps each to a status.
var (
	// ErrCSR: the request is malformed, too large, or its signature does not prove possession of its key.
	ErrCSR = errors.New("bad certificate request")
	// ErrKey: the profile does not allow this kind or size of key.
	ErrKey = errors.New("key not allowed")
	// ErrNames: the names are malformed or the profile's policy forbids them.
	ErrNames = errors.New("names not allowed")
	// ErrLifetime: the profile does not allow this lifetime.
	ErrLifetime = errors.New("lifetime not allowed")
	// ErrProfile: no such profile.
	ErrProfile = errors.New("no such profile")
	// ErrNotActive: the certificate to be renewed is revoked, held or expired.
	ErrNotActive = errors.New("certificate is not active")
	// ErrReason: the reason does not fit, such as a release of what is not held.
	ErrReason = errors.New("reason not allowed")
	// ErrIssuer: the certificate is of an issuing CA that is not known here. A revocation of it would be kept here
	// and published by nobody.
	ErrIssuer = errors.New("certificate is of an issuing CA that is not known here")
	// ErrSignerAway: the issuing key is in a device or a service that does not answer, or has more waiting than it
	// should. Nothing was signed; to try again later may succeed.
	ErrSignerAway = errors.New("the issuing key does not answer")
	// ErrMismatch: what came back from the signer is not what was decided. Nothing leaves the process.
	ErrMismatch = errors.New("signed certificate differs from what was decided")
)

// AlreadyRevokedError reports a revocation that stands already. Nothing was changed.
type AlreadyRevokedError struct {
	Serial Serial
	Revocation
}

func (e *AlreadyRevokedError) Error() string {
	return fmt.Sprintf("certificate %s was already revoked at %s (%s)", e.Serial, e.At.Format(time.RFC3339), e.Reason)
}

// LineageError reports that a certificate is revoked, and that the rest of its lineage may not be: it could not be
// told what there is, or revoking it ended early. To revoke again with Lineage goes on from there.
type LineageError struct {
	Serial Serial
	Also   []Serial // of the lineage, revoked before the failure
	Err    error
}

func (e *LineageError) Error() string {
	return fmt.Sprintf("certificate %s is revoked, and %d others of its lineage; there may be more, so revoke it again with its lineage: %v",
		e.Serial, len(e.Also), e.Err)
}

func (e *LineageError) Unwrap() error { return e.Err }
