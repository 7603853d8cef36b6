package integration

import (
	"fmt"
	"syscall"
	"testing"
)

// smallDisk mounts a disk in memory until the test ends. That takes root, and the right to mount, which a container
// mostly lacks: no package can be installed to help, so that the test skips with CI=true too.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Skipf("mounting a small disk: %v (needs root with CAP_SYS_ADMIN)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
