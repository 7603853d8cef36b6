package crl

import (
	"context"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRevocationIsServedWithin100ms(t *testing.T) {
	ca, m := newCA(t, "Issuing CA"), newMemory()
	for n := range int64(1000) {
		m.revoke(1000+n, 1)
	}
	p := newPublisher(t, publisherConfig(ca, m))
	running(t, p.Run)
	eventually(t, func() bool { _, ok := p.Current(testShard); return ok })

	var took []time.Duration
	for n := range int64(10) {
		m.revoke(1+n, 1)
		start := time.Now()
		p.Changed(testShard)
		eventually(t, func() bool {
			held, _ := p.Current(testShard)
			list, err := ParseAndVerify(held.DER.Bytes(), ca.cert, testURL, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			_, on := list.Lookup(big.NewInt(1 + n))
			return on
		})
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 100*time.Millisecond { // one may be unlucky on a busy machine
		t.Errorf("revocations took %s to be served", took)
	}
	eventually(t, func() bool { return p.Status()[0].PendingSince.IsZero() })
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for start := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("it did not come to pass within 5 s")
		}
	}
}

func TestWakeUpDuringARoundCausesAnother(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		c := publisherConfig(ca, m)
		signing, proceed := make(chan struct{}), make(chan struct{})
		c.Signer = signerFunc(func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
			signing <- struct{}{}
			<-proceed
			return ca.SignCRL(ctx, issuer, tbs)
		})
		p := newPublisher(t, c)
		running(t, p.Run)

		<-signing // the first list's revocations are read
		m.revoke(1, 1)
		p.Changed(testShard)
		time.Sleep(time.Second)
		if since := p.Status()[0].PendingSince; time.Since(since) != time.Second {
			t.Errorf("pending since %s", since)
		}
		proceed <- struct{}{}
		<-signing
		if since := p.Status()[0].PendingSince; since.IsZero() {
			t.Error("nothing pending, although a round without the revocation was all there was")
		}
		proceed <- struct{}{}
		synctest.Wait()
		held, _ := p.Current(testShard)
		if got := serials(t, ca, held); !slices.Equal(got, []int64{1}) {
			t.Errorf("%d on the list, want 1", got)
		}
		if since := p.Status()[0].PendingSince; !since.IsZero() {
			t.Errorf("still pending since %s", since)
		}
	})
}

func TestBurstOfRevocationsCoalesces(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		synctest.Wait()
		for n := range int64(1000) { // for a second
			m.revoke(1+n, 1)
			p.Changed(testShard)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(breath)
		synctest.Wait()
		held, _ := p.Current(testShard)
		if n := len(serials(t, ca, held)); n != 1000 {
			t.Errorf("%d on the list, want 1000", n)
		}
		if n := len(m.lists()); n < 10 || n > 60 {
			t.Errorf("%d lists for a second of revocations, want about one in %s", n, breath)
		}
		before := len(m.lists())
		p.Changed(testShard) // nothing new
		p.Changed(Shard{Issuer: "an issuer of long ago"})
		time.Sleep(time.Second)
		if n := len(m.lists()); n != before {
			t.Errorf("%d lists were signed for nothing", n-before)
		}
	})
}

func TestListIsRenewedAtHalfItsLifetime(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		start := time.Now()
		time.Sleep(24 * time.Hour)
		history := m.lists()
		if len(history) < 48 || len(history) > 50 {
			t.Errorf("%d lists in a day, want one in half an hour", len(history))
		}
		for i, s := range history[1:] {
			if gap := s.ThisUpdate.Sub(history[i].ThisUpdate); gap > 30*time.Minute+time.Second {
				t.Errorf("list %d came %s after the one before, at %s", i+1, gap, s.ThisUpdate.Sub(start))
			}
		}
	})
}

func TestFailedPublicationIsRetriedAndTold(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var down atomic.Bool
		c := publisherConfig(ca, m)
		var tries atomic.Int64
		c.Signer = signerFunc(func(ctx context.Context, issuer string, tbs [][]byte) ([]byte, error) {
			if tries.Add(1); down.Load() {
				return nil, errFault
			}
			return ca.SignCRL(ctx, issuer, tbs)
		})
		p := newPublisher(t, c)
		running(t, p.Run)
		time.Sleep(time.Second)

		down.Store(true)
		tries.Store(0)
		m.revoke(1, 1)
		p.Changed(testShard)
		time.Sleep(time.Minute)
		st := p.Status()[0]
		wantErr(t, st.Err, errFault, "a1")
		if time.Since(st.PendingSince) != time.Minute {
			t.Errorf("pending since %s", st.PendingSince)
		}
		if n := tries.Load(); n < 8 || n > 40 {
			t.Errorf("%d tries in a minute", n)
		}
		down.Store(false)
		time.Sleep(2 * maxBackoff)
		if st := p.Status()[0]; st.Err != nil || st.Entries != 1 || !st.PendingSince.IsZero() {
			t.Errorf("after recovery: %+v", st)
		}
	})
}

func TestRevocationWithoutWakeUpIsFoundBySweep(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		time.Sleep(time.Second)
		m.revoke(1, 1) // by a node that died before it could say so
		time.Sleep(sweep)
		synctest.Wait()
		if n := p.Status()[0].Entries; n != 1 {
			t.Errorf("%d on the list a minute later, want 1", n)
		}
	})
}

// A node that is told of another's list has it at once, and one that is told that it may have missed something finds it
// without waiting for the sweep.
func TestWhatOtherNodesTellOf(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		c := publisherConfig(ca, m)
		c.Follow = sweep // longer than this test
		p := newPublisher(t, c)
		running(t, p.Run)
		time.Sleep(time.Second)
		m.revoke(1, 1)
		theirs := publish(t, newPublisher(t, publisherConfig(ca, m)))
		p.Published(testShard)
		p.Published(Shard{Issuer: "an issuer of long ago"})
		synctest.Wait()
		if held, _ := p.Current(testShard); held.Number != theirs.Number {
			t.Errorf("serving %d, want the other node's %d", held.Number, theirs.Number)
		}
		m.revoke(2, 1)
		p.Recheck()
		synctest.Wait()
		if n := p.Status()[0].Entries; n != 2 {
			t.Errorf("%d on the list, want 2", n)
		}
	})
}

// A database that failed over to a standby which had not all of it counts its changes on from where that was: at the
// positions that a publisher has followed there are others now.
func TestStoreThatLostItsNewestChanges(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := newPublisher(t, publisherConfig(ca, m))
		running(t, p.Run)
		m.revoke(1, 1)
		m.revoke(2, 1)
		p.Changed(testShard)
		time.Sleep(time.Second)
		m.mu.Lock()
		m.log = m.log[:1]
		delete(m.revoked, string(serialBytes(2)))
		m.mu.Unlock()
		m.revoke(3, 1)
		p.Recheck()
		time.Sleep(time.Second)
		held, _ := p.Current(testShard)
		if got := serials(t, ca, held); !slices.Equal(got, []int64{1, 3}) {
			t.Errorf("on the list: %v; want 1 and 3", got)
		}
	})
}

func TestListOfAnotherNodeIsFollowed(t *testing.T) {
	ca := newCA(t, "Issuing CA")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		c := publisherConfig(ca, m)
		c.Follow = 250 * time.Millisecond
		p := newPublisher(t, c)
		running(t, p.Run)
		time.Sleep(time.Second)
		m.revoke(1, 1)
		theirs := publish(t, newPublisher(t, publisherConfig(ca, m)))
		time.Sleep(c.Follow)
		synctest.Wait()
		if held, _ := p.Current(testShard); held.Number != theirs.Number {
			t.Errorf("serving %d, want the other node's %d", held.Number, theirs.Number)
		}
	})
}
