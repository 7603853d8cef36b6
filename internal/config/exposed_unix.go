//go:build !windows

package config

import "os"

// exposed reports whether group or others have any right on the file.
func exposed(info os.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }
