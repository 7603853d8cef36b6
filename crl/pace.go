package crl

import (
	"context"
	"math/big"
	"math/rand/v2"
	"time"
)

// Pace changes how often Run asks for newer lists, from now on: every interval, if that is longer than
// CheckerConfig.Interval, and otherwise as that says. If it becomes shorter by it, Run asks at once. It is for who hears
// of revocations in another way as well, such as revocation.Follower: while that works, the polls are for what it missed.
func (k *Checker) Pace(interval time.Duration) {
	if was := k.pace.Swap(int64(interval)); int64(max(interval, k.interval)) < was {
		k.wake()
	}
}

// wake has Run poll now.
func (k *Checker) wake() {
	select {
	case k.paced <- struct{}{}:
	default:
	}
}

// rest waits between two polls, give or take a tenth.
func (k *Checker) rest(ctx context.Context) {
	interval := max(time.Duration(k.pace.Load()), k.interval)
	t := time.NewTimer(interval - interval/10 + rand.N(max(interval/5, 1)))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-k.paced:
	case <-t.C:
	}
}

// Lists reports whether a list at hand has a certificate, by the subject key identifier of its issuer and its serial
// number: Check refuses that certificate from now on without being told in another way. It fetches nothing.
func (k *Checker) Lists(issuerKeyID []byte, serial *big.Int) bool {
	if serial.Sign() <= 0 || serial.BitLen() > 8*maxSerial {
		return false
	}
	for _, s := range k.known() {
		if list := s.list.Load(); list != nil && string(s.issuer.SubjectKeyId) == string(issuerKeyID) {
			if _, found := list.find(serial); found {
				return true
			}
		}
	}
	return false
}
