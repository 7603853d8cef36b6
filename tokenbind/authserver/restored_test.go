package authserver

import (
	"testing"
	"time"

	"github.com/pkid/pkid/tokenbind"
)

// What became of tokens, clients and certificates between the backup and the restore is unknown, so nothing from
// before it counts; what is issued from then on does.
func TestIntrospection_TokensFromBeforeARestoreAreDead(t *testing.T) {
	p, client := dpopHouse(t)
	ask := p.resourceServer()
	before, _ := mustIssue(t, p.token(nil, client, header("DPoP", p.proof(""))))
	mustBeActive(t, ask(before), true)

	p.clock.advance(300 * time.Millisecond) // within the second that the token says
	p.config.Restored = p.clock.now()
	p.restart(time.Time{}, tokenbind.NewMemoryReplay(1000, p.clock.now))
	mustBeActive(t, ask(before), false)
	after, _ := mustIssue(t, p.token(nil, client, header("DPoP", p.proof(""))))
	mustBeActive(t, ask(after), true)

	record, err := p.Server.c.Registry.Get(t.Context(), "rs")
	if err != nil {
		t.Fatal(err)
	}
	record.TokensNotBefore = p.clock.now().Add(time.Minute)
	if got := p.tokensNotBefore(record); !got.Equal(record.TokensNotBefore) {
		t.Errorf("a client that was disabled after the restore: tokens count from %s", got)
	}
}
