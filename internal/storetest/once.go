package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/tokenbind"
)

var onceTests = map[string]func(*testing.T, *store){
	"UseOnce":               testUse,
	"UseSurvivesReopening":  testUseSurvives,
	"UseAgainAfterItsTime":  testUsePast,
	"UseWithAFarInstant":    testUseFar,
	"UseHasOneWinner":       testUseWinner,
	"PruneInSmallSteps":     testPruneSteps,
	"PruneKeepsWhatIsInUse": testPruneKeeps,
}

func use(t *testing.T, s *store, key byte, until time.Time, want error) {
	t.Helper()
	if err := s.Use(t.Context(), [32]byte{key}, until); !errors.Is(err, want) {
		t.Errorf("Use(%d, %s) = %v, want %v", key, until, err, want)
	}
}

func testUse(t *testing.T, s *store) {
	until := time.Now().Add(time.Hour)
	use(t, s, 1, until, nil)
	use(t, s, 1, until, tokenbind.ErrReplayed)
	use(t, s, 1, until.Add(time.Hour), tokenbind.ErrReplayed)
	use(t, s, 1, until.Add(-2*time.Hour), tokenbind.ErrReplayed)
	use(t, s, 2, until, nil)
}

func testUseSurvives(t *testing.T, s *store) {
	use(t, s, 1, time.Now().Add(time.Hour), nil)
	s.reopen(t)
	use(t, s, 1, time.Now().Add(time.Hour), tokenbind.ErrReplayed)
}

func testUsePast(t *testing.T, s *store) {
	use(t, s, 1, time.Now().Add(-time.Second), nil)
	use(t, s, 1, time.Now().Add(time.Hour), nil) // the instant of the first has passed
	use(t, s, 1, time.Now().Add(time.Hour), tokenbind.ErrReplayed)
	if n, err := s.Prune(t.Context(), time.Now(), ca.Retention{}, 10); n != (ca.Pruned{}) || err != nil {
		t.Errorf("Prune = %+v, %v; the key is in use again", n, err)
	}
	use(t, s, 1, time.Now().Add(time.Hour), tokenbind.ErrReplayed)
}

// testUseFar: the instant may come from a client's assertion, which can say anything.
func testUseFar(t *testing.T, s *store) {
	far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	use(t, s, 1, far, nil)
	use(t, s, 1, far, tokenbind.ErrReplayed)
}

func testUseWinner(t *testing.T, s *store) {
	for key := range byte(3) {
		errs := together(50, func(int) error { return s.Use(t.Context(), [32]byte{key}, time.Now().Add(time.Hour)) })
		winner(t, errs, func(err error) bool { return errors.Is(err, tokenbind.ErrReplayed) })
	}
}

func testPruneSteps(t *testing.T, s *store) {
	now := time.Now()
	for i := range byte(10) {
		use(t, s, i, now.Add(time.Duration(i+1)*time.Minute), nil)
	}
	for i, want := range []int{3, 3, 1, 0} { // seven of the ten are past
		if n, err := s.Prune(t.Context(), now.Add(7*time.Minute+time.Second), ca.Retention{}, 3); n != (ca.Pruned{Replays: want}) || err != nil {
			t.Fatalf("step %d: Prune = %+v, %v; want %d", i, n, err, want)
		}
	}
	use(t, s, 0, now.Add(time.Hour), nil)
	use(t, s, 9, now.Add(time.Hour), tokenbind.ErrReplayed)
}

func testPruneKeeps(t *testing.T, s *store) {
	until := time.Now().Add(time.Hour)
	use(t, s, 1, until, nil)
	revokeToken(t, s, "jti", 2*time.Hour)
	for _, now := range []time.Time{{}, time.Now(), until} {
		if n, err := s.Prune(t.Context(), now, ca.Retention{}, 100); n != (ca.Pruned{}) || err != nil {
			t.Errorf("Prune(%s) = %+v, %v; want nothing", now, n, err)
		}
	}
	use(t, s, 1, until, tokenbind.ErrReplayed)
	checkToken(t, s, "jti", true)
}
