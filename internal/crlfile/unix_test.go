//go:build unix

package crlfile

import (
	"io/fs"
	"syscall"
	"testing"
)

func ownerOf(t *testing.T, info fs.FileInfo) [2]uint32 {
	t.Helper()
	st := info.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}
}
