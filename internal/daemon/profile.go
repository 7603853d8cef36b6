package daemon

import (
	"context"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/tokenbind/authserver"
)

// maxNamed is how many clients one start names in the log.
const maxNamed = 20

// reviewClients tells of the clients that were registered before the configured profile, which has no room for them: the
// token endpoint refuses each.
func (d *Daemon) reviewClients(ctx context.Context) {
	profile := authserver.Profile(d.cfg.Profile)
	if profile == "" {
		return
	}
	refused, after := 0, ""
	for {
		clients, err := d.clients.List(ctx, after, 1000)
		if err != nil {
			if ctx.Err() == nil {
				d.log.Error("looking for clients that the profile refuses", "profile", profile, "err", err)
			}
			return
		}
		for _, c := range clients {
			if err := profile.Check(c); err != nil {
				if refused++; refused <= maxNamed {
					d.log.Warn("a client is refused under the profile", "client_id", c.ID, "profile", profile, "reason", err)
				}
			}
			after = c.ID
		}
		if len(clients) == 0 {
			break
		}
	}
	if refused > maxNamed {
		d.log.Warn("more clients are refused under the profile than are named here", "profile", profile, "clients", refused)
	}
}

// ProfileNote is what an operator should know of a configuration's profile that the configuration alone does not show, or
// nothing.
func ProfileNote(cfg *config.Config) string {
	if cfg.Profile == "" {
		return ""
	}
	return "profile " + cfg.Profile + ": clients that authenticate with a secret, or have insecure_bearer, are refused from the start on; " +
		"`pkictl client list` shows them, and the log names them"
}
