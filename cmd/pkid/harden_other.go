//go:build !linux

package main

// harden has nothing to do: what it does is Linux's.
func harden() {}
