package daemon

import (
	"testing"
	"time"

	"github.com/pkid/pkid/internal/admission"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/web"
)

// Each limit of the configuration reaches who keeps it.
func TestLimitsReachTheirKeepers(t *testing.T) {
	failures := 9
	l := config.Limits{
		Connections: 1, ConnectionsPerAddress: 2, NewConnections: 3, Requests: 4, Wait: time.Second,
		CertificatesPerAddress: 5, CertificatesPerClient: 6, TokensPerAddress: 7, TokensPerClient: 8, FailuresPerAddress: &failures,
	}
	if got, want := connections(l), (admission.Connections{Most: 1, PerAddress: 2, New: 3}); got != want {
		t.Errorf("connections: %+v, want %+v", got, want)
	}
	want := web.LimitsConfig{
		UnderWay: 1, UnderWayPerAddress: 2, AtOnce: 4, Wait: time.Second,
		CertificatesPerAddress: 5, CertificatesPerClient: 6, TokensPerAddress: 7, TokensPerClient: 8, FailuresPerAddress: 9,
	}
	if got := requests(l); got != want {
		t.Errorf("requests: %+v, want %+v", got, want)
	}
}
