package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// mustConfirm returns a usage error if nobody said yes and there is nobody to ask.
func (a *app) mustConfirm(yes bool, otherwise string) error {
	if in, ok := a.stdin.(*os.File); yes || ok && term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return usagef("%s", otherwise)
}

// confirm asks whether to do something.
func (a *app) confirm(what, otherwise string) error {
	fmt.Fprintf(a.stderr, "%s? [y/N] ", what)
	answer, err := bufio.NewReader(io.LimitReader(a.stdin, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))) {
		return errors.New(otherwise)
	}
	return nil
}
