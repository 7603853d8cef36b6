package crl

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// checkEntries checks what must hold of entries, and that they are the wanted ones.
func checkEntries(t *testing.T, e *entries, want map[uint64]revoked) {
	t.Helper()
	var all []revoked
	for _, serial := range slices.Sorted(maps.Keys(want)) {
		all = append(all, want[serial])
	}
	fresh := entriesOf(t, all)
	if !e.parts().Equal(fresh.parts()) || e.count != len(want) || e.size != fresh.size {
		t.Fatalf("%d entries of %d octets, want %d of %d, or others", e.count, e.size, len(want), fresh.size)
	}
	if read, err := parseEntries(e.parts().Bytes()); err != nil || !slices.Equal(read, all) {
		t.Fatalf("read back: %v", err)
	}
	for i, b := range e.blocks {
		r := entryReader{rest: b.der}
		r.next()
		n := 0
		for first := r.serial; r.whole != nil; r.next() {
			if n++; first != b.first {
				t.Fatalf("block %d begins with %x, not with %x", i, first, b.first)
			}
		}
		if n != b.count || len(b.der) > maxBlock+maxEntry || cap(b.der) > 2*maxBlock {
			t.Fatalf("block %d: %d entries, not %d, in %d octets of %d", i, n, b.count, len(b.der), cap(b.der))
		}
		if i > 0 && len(e.blocks[i-1].der)+len(b.der) <= blockSize {
			t.Fatalf("blocks %d and %d have %d octets together", i-1, i, len(e.blocks[i-1].der)+len(b.der))
		}
	}
}

// Whatever is done to entries, they say what entries say that are made at once; those before stay as they were.
func TestEntriesAfterEdits(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	e, want := &entries{}, map[uint64]revoked{}
	most := 0
	for step := range 80 {
		var edits []edit
		grow := step%40 < 25 // and shrink, so that blocks split and join
		for range random.IntN([]int{2, 50, 5000}[step%3]) {
			serial := random.Uint64N(20_000)
			if step%4 == 0 {
				serial = serial%500 + 7000 // all in one place
			}
			r := entryOf(t, binary.BigEndian.AppendUint64([]byte{1}, serial), random.IntN(7), time.Unix(random.Int64N(1<<32), 0))
			x := edit{revoked: r, released: random.IntN(10) == 0 == grow}
			if x.released {
				delete(want, serial)
			} else {
				want[serial] = r
			}
			edits = append(edits, x)
		}
		before := e.parts().Bytes()
		next, err := e.with(edits)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e.parts().Bytes(), before) {
			t.Fatal("the entries before have changed")
		}
		checkEntries(t, next, want)
		if again, err := next.with(edits); err != nil || again != next {
			t.Fatalf("the same edits again made other entries, or %v", err)
		}
		e = next
		most = max(most, len(e.blocks))
	}
	if most < 4 || len(want) == 0 {
		t.Errorf("%d blocks at most: this tests nothing", most)
	}
	var gone []edit
	for _, r := range want {
		gone = append(gone, edit{revoked: r, released: true})
	}
	if e, err := e.with(gone); err != nil || len(e.blocks) != 0 || e.size != 0 || e.count != 0 {
		t.Errorf("without any: %+v, %v", e, err)
	}
}

func TestChangeRewritesOneBlock(t *testing.T) {
	e := entriesOf(t, bigEntries(50_000))
	for _, i := range []int{0, 25_000, 49_999} {
		x := bigEntries(50_000)[i]
		x.reason = 4
		next, err := e.with([]edit{{revoked: x}})
		if err != nil {
			t.Fatal(err)
		}
		shared := 0
		for _, b := range next.blocks {
			if slices.Contains(e.blocks, b) {
				shared++
			}
		}
		if shared != len(e.blocks)-1 || len(next.blocks) != len(e.blocks) || len(e.blocks) < 10 {
			t.Errorf("entry %d: %d blocks, of which %d are shared with %d", i, len(next.blocks), shared, len(e.blocks))
		}
	}
}

// A full reading takes the blocks that are there, as far as it finds the same.
func TestRereadingSharesBlocks(t *testing.T) {
	all := bigEntries(50_000)
	old := entriesOf(t, all)
	reread := func(all []revoked) *entries {
		r := rereading{old: old.blocks}
		for i := range all {
			if err := r.add(&all[i]); err != nil {
				t.Fatal(err)
			}
		}
		return r.finish()
	}
	for what, tt := range map[string]struct {
		all  []revoked
		lost int // blocks of the old ones that are not there any more, at most
	}{
		"the same":        {all, 0},
		"one less":        {slices.Delete(slices.Clone(all), 30_000, 30_001), 1},
		"one more, first": {slices.Insert(slices.Clone(all), 0, entryOf(t, []byte{1}, 1, testNow)), 1},
		"one more, last":  {append(slices.Clone(all), entryOf(t, bytes.Repeat([]byte{0x7f}, 20), 1, testNow)), 1},
		"a part":          {all[10_000:20_000], len(old.blocks)},
		"nothing":         {nil, len(old.blocks)},
	} {
		got := reread(tt.all)
		if !got.parts().Equal(entriesOf(t, tt.all).parts()) || got.count != len(tt.all) {
			t.Errorf("%s: %d entries, want %d, or others", what, got.count, len(tt.all))
		}
		lost := 0
		for _, b := range old.blocks {
			if !slices.Contains(got.blocks, b) {
				lost++
			}
		}
		if lost > tt.lost {
			t.Errorf("%s: %d blocks were made anew, want %d", what, lost, tt.lost)
		}
	}
}

func TestEntryReader(t *testing.T) {
	all := oddEntries(t)
	sortEntries(all)
	r := entryReader{blocks: entriesOf(t, all).blocks}
	r.next()
	for i, want := range all {
		if r.whole == nil || r.serial != want.serial {
			t.Fatalf("entry %d: %x, want %x", i, r.serial, want.serial)
		}
		r.next()
	}
	if r.whole != nil {
		t.Error("no end")
	}
}

func TestDifference(t *testing.T) {
	entry := func(serial byte, reason int) revoked { return entryOf(t, []byte{serial}, reason, testNow) }
	a := entriesOf(t, []revoked{entry(1, 1), entry(2, 1), entry(5, 1), entry(0x80, 1)})
	b := entriesOf(t, []revoked{entry(2, 6), entry(3, 1), entry(4, 1), entry(5, 1), entry(0x81, 1), entry(0x82, 1)})
	for _, tt := range []struct {
		a, b                *entries
		lacks, extra, other int
	}{
		{a, a, 0, 0, 0},
		{a, b, 2, 4, 1},
		{a, &entries{}, 4, 0, 0},
		{&entries{}, b, 0, 6, 0},
		{&entries{}, &entries{}, 0, 0, 0},
	} {
		if lacks, extra, other := difference(tt.a, tt.b); lacks != tt.lacks || extra != tt.extra || other != tt.other {
			t.Errorf("%d, %d, %d; want %d, %d, %d", lacks, extra, other, tt.lacks, tt.extra, tt.other)
		}
	}
}

// A list of one entry takes memory for one, and not for a block: a CA may have thousands of short lists.
func TestShortListTakesLittleMemory(t *testing.T) {
	ca, m, now := newCA(t, "Issuing CA"), newMemory(), testNow
	c := deltaConfig(ca, m, &now)
	p := newPublisher(t, c)
	publish(t, p)
	m.revoke(1, 1)
	publish(t, p)
	changed := p.find(testShard).serving.Load()
	p = newPublisher(t, c)
	publish(t, p)
	for what, list := range map[string]DER{
		"a list of what changed": changed.DER, "its delta": changed.delta.Load().DER, "a list of all that is revoked": p.find(testShard).serving.Load().DER,
		"a compressed list": compress(DER{make([]byte, minGzip)}, func() bool { return true }),
	} {
		for i, part := range list {
			if cap(part) > 2*len(part)+1024 {
				t.Errorf("%s: part %d has %d octets and takes %d", what, i, len(part), cap(part))
			}
		}
	}
}
