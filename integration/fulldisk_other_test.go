//go:build !linux

package integration

import "testing"

func smallDisk(t *testing.T, _ int) string {
	t.Helper()
	t.Skip("mounting a small disk is written for Linux alone")
	return ""
}
