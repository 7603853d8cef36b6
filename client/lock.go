package client

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	lockPoll     = 20 * time.Millisecond
	lockPatience = time.Minute // more than another's enrolment or renewal takes
)

// errLocked reports a lock that another process, or another part of this one, holds.
var errLocked = errors.New("locked")

// lockDir keeps others from changing the identity in dir until unlock is called or the process ends. It waits
// for who does so now: until ctx ends and, so that a process that is stuck does not stop all others for good,
// for lockPatience at the most.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	name := filepath.Join(dir, lockName)
	for deadline := time.Now().Add(lockPatience); ; {
		unlock, err := tryLock(name)
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another process has been changing %s for more than %v: end it, and try again", dir, lockPatience)
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, fmt.Errorf("waiting for another process that is changing %s: %w", dir, err)
		}
	}
}
