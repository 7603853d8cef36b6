package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkid/pkid/client"
)

// operator returns the identity that acts for an operator. One that is past two thirds of its lifetime is
// renewed on the way, so that credentials in use do not expire.
func (a *app) operator(ctx context.Context) (*client.Identity, error) {
	id, err := a.homeIdentity()
	if e, ok := errors.AsType[*noHomeError](err); ok {
		return nil, fmt.Errorf("no operator's credentials in %s: name their directory with --home or PKICTL_HOME "+
			"(`pkid quickstart` and `pkid init` write them to DIR/admin)", e.places())
	}
	if err != nil {
		return nil, err
	}
	leaf := id.Certificate().Leaf
	if now := time.Now(); now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the operator's certificate in %s expired at %s: make new credentials with "+
			"`pkid operator --out DIR` where the CA runs", id.Dir(), leaf.NotAfter.Format(time.RFC3339))
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

// trusted returns the identity in --home, an operator's or any other, whose root says whom to believe.
func (a *app) trusted() (*client.Identity, error) {
	id, err := a.homeIdentity()
	if e, ok := errors.AsType[*noHomeError](err); ok {
		return nil, fmt.Errorf("no identity in %s, whose CA would be the one to ask: name an enrolled directory with --home", e.places())
	}
	return id, err
}

// noHomeError reports that there is no identity where --home may be.
type noHomeError struct{ dirs []string }

func (e *noHomeError) places() string { return strings.Join(e.dirs, " or ") }
func (e *noHomeError) Error() string  { return "no identity in " + e.places() }

// homeIdentity loads the identity in --home, or in the first place that has one. The error is a *noHomeError
// if none has.
func (a *app) homeIdentity() (*client.Identity, error) {
	dirs := a.homeDirs()
	for _, dir := range dirs {
		id, err := client.Load(dir)
		if !errors.Is(err, client.ErrNoIdentity) {
			return id, err
		}
	}
	return nil, &noHomeError{dirs}
}

func (a *app) homeDirs() []string {
	if a.home != "" {
		return []string{a.home}
	}
	dirs := []string{filepath.Join("pkid-data", "admin")}
	if conf, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(conf, "pkid"))
	}
	return dirs
}
