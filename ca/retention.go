package ca

import "time"

// Retention says how long a store keeps what is over. Zero keeps for ever.
type Retention struct {
	Certificates time.Duration // after a certificate's NotAfter: the record and its revocation
	Invitations  time.Duration // after an invitation expired, spent or not
}
