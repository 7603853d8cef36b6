//go:build !windows

package secret

import "os"

// Exposed reports whether group or others have any right on a file.
func Exposed(info os.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }
