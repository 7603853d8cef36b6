package main

import "syscall"

// harden keeps the keys in this process's memory out of core files, and other processes of the same user from reading
// it (prctl(2), PR_SET_DUMPABLE). It is done before any key is opened; where it is refused pkid runs as it did.
func harden() {
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})            //nolint:errcheck // lowering one's own limit cannot fail
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0) //nolint:errcheck // as above
}
