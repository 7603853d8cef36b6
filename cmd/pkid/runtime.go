package main

import (
	"os"
	"runtime"
)

// spareHeap is garbage that may gather beyond what Go allows by itself, which is as much as is in use: with the few
// megabytes that a daemon has in use it would collect dozens of times a second, for a tenth of its processor time.
const spareHeap = 16 << 20

// tuneRuntime sets what Go cannot know of this program. GOGC and GOMAXPROCS, where they are set, are the operator's word.
// It returns memory to keep until the end: the collector counts it as in use, and since nobody writes to it, it takes no
// room.
//
// A commit waits for the disk twice, in system calls that keep their place among the GOMAXPROCS for as long as the
// scheduler takes to notice; on two cores, one of two. One place more keeps the cores busy meanwhile.
func tuneRuntime() (ballast []byte) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
	if os.Getenv("GOGC") == "" {
		ballast = make([]byte, spareHeap)
	}
	return ballast
}
