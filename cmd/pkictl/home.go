package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/client"
)

// operator returns the identity that acts for an operator. One that is past two thirds of its lifetime is
// renewed on the way, so that credentials in use do not expire.
func (a *app) operator(ctx context.Context) (*client.Identity, error) {
	dir, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	id, err := client.Load(dir)
	if errors.Is(err, client.ErrNoIdentity) {
		return nil, fmt.Errorf("no operator's credentials in %s: name their directory with --home or PKICTL_HOME "+
			"(`pkid quickstart` and `pkid init` write them to DIR/admin)", dir)
	}
	if err != nil {
		return nil, err
	}
	leaf := id.Certificate().Leaf
	if now := time.Now(); now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the operator's certificate in %s expired at %s: make new credentials with "+
			"`pkid operator --out DIR` where the CA runs", dir, leaf.NotAfter.Format(time.RFC3339))
	} else if now.Before(client.RenewalTime(leaf)) {
		return id, nil
	}
	if err := id.Renew(ctx, client.RenewOptions{}); err != nil {
		a.note("renewing the operator's certificate, which expires at %s: %v", leaf.NotAfter.Format(time.RFC3339), err)
	} else {
		a.note("renewed the operator's certificate until %s", id.Certificate().Leaf.NotAfter.Format(time.RFC3339))
	}
	return id, nil
}

// api returns the REST API as the operator may use it.
func (a *app) api(ctx context.Context) (*client.API, error) {
	id, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	return id.API(), nil
}

func (a *app) homeDir() (string, error) {
	if a.home != "" {
		return a.home, nil
	}
	local := filepath.Join("pkid-data", "admin")
	if _, err := os.Stat(local); err == nil {
		return local, nil
	}
	conf, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for the operator's credentials: %w", err)
	}
	return filepath.Join(conf, "pkid"), nil
}
