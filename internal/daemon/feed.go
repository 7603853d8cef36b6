package daemon

import (
	"github.com/pkid/pkid/internal/feed"
)

// newFeed makes what tells resource servers of revocations.
func (d *Daemon) newFeed() *feed.Feed {
	return feed.New(feed.Config{
		Log: d.store, Records: d.store, Logger: d.log,
		IssuerKeyID: func(id string) []byte {
			issuer, known := d.authority.FindIssuer(id)
			if !known {
				return nil
			}
			return issuer.Signer.Certificate().SubjectKeyId
		},
	})
}
