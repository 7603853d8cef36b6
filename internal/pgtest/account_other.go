//go:build !unix

package pgtest

import "os/exec"

// account is who runs the server. Here is no shell to watch over one.
type account struct{}

func serverAccount() (account, error) { return account{}, ErrMissing }

func (account) own(string) error { return nil }

func (account) become(*exec.Cmd) {}
