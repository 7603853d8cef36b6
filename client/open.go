package client

import (
	"context"
	"errors"
)

// Open returns the identity in dir, and enrols first if there is none: what an application does that is started with an
// enrolment token once, and again and again with the same command. A token is not looked at where there is an identity;
// without either, the error is ErrNoIdentity. RenewLoop keeps the identity from expiring.
func Open(ctx context.Context, dir, token string, opts EnrollOptions) (*Identity, error) {
	id, err := Load(dir)
	if !errors.Is(err, ErrNoIdentity) || token == "" {
		return id, err
	}
	parsed, err := ParseEnrolmentToken(token)
	if err != nil {
		return nil, err
	}
	opts.Dir = dir
	return Enroll(ctx, parsed, opts)
}
