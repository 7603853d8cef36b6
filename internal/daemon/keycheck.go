package daemon

import (
	"context"
	"errors"

	"github.com/pkid/pkid/internal/rollover"
	"github.com/pkid/pkid/internal/stepca"
	"github.com/pkid/pkid/web"
)

// keyChecks are the checks of /readyz for keys in devices; keys in memory are always well.
func (d *Daemon) keyChecks() []web.Check {
	return []web.Check{{Name: "issuing key", Run: d.checkIssuingKey}, {Name: "token key", Run: d.checkTokenKeys}}
}

func (d *Daemon) checkIssuingKey(ctx context.Context) error {
	var err error
	for _, i := range *d.known.Load() {
		if i.State == rollover.Requested || i.State == rollover.Ended {
			continue
		}
		if key, ok := i.Signer.(interface{ Check(context.Context) error }); ok {
			err = errors.Join(err, key.Check(ctx))
		}
	}
	return err
}

func (d *Daemon) checkTokenKeys(ctx context.Context) error {
	var err error
	for _, key := range d.tokenKeys {
		err = errors.Join(err, stepca.Check(ctx, key))
	}
	return err
}
