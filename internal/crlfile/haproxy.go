package crlfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

const (
	haproxyTime   = 15 * time.Second // for one command
	haproxyAnswer = 64 << 10
	haproxyShort  = 8 << 10 // what any tune.bufsize takes
	maxRefusal    = 300     // octets that are told of an answer
)

// ErrHAProxyTooLong: HAProxy takes no more over its socket than its tune.bufsize, 16384 octets unless it says otherwise.
var ErrHAProxyTooLong = errors.New("HAProxy closed the socket: the CRLs are longer than its tune.bufsize takes")

// HAProxy replaces a CRL file in the memory of a running HAProxy over its runtime socket, of level admin, since HAProxy
// 2.5. New connections are checked against it at once; open ones go on.
type HAProxy struct {
	Socket string // of `stats socket`
	Name   string // of the file, as HAProxy's configuration has it behind crl-file
	File   string // what is sent: a file in PEM
}

// NewHAProxy checks that the name can be said in a command.
func NewHAProxy(socket, name, file string) (*HAProxy, error) {
	if strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`;\"'#`, c) }) || name == "" {
		return nil, fmt.Errorf("%q cannot be named in a command to HAProxy", name)
	}
	return &HAProxy{socket, name, file}, nil
}

// Replace is a Hook. Either HAProxy has the whole new file afterwards, or it goes on with the old one.
func (h *HAProxy) Replace(ctx context.Context) error {
	content, err := os.ReadFile(h.File)
	if err != nil {
		return err
	}
	// An empty line ends what is sent, and what came behind it would be a command: the file may be another's to write.
	answer, err := h.say(ctx, "set ssl crl-file "+h.Name+" <<\n"+strings.Join(linesOf(string(content)), "\n")+"\n\n")
	if err != nil {
		return err
	}
	if !strings.Contains(answer, "transaction created") && !strings.Contains(answer, "transaction updated") {
		return refusedBy(answer)
	}
	if answer, err = h.say(ctx, "commit ssl crl-file "+h.Name+"\n"); err == nil && !strings.Contains(answer, "Success!") {
		err = refusedBy(answer)
	}
	if err != nil { // what is half done would be in the way of whoever comes next
		_, undone := h.say(context.WithoutCancel(ctx), "abort ssl crl-file "+h.Name+"\n")
		return errors.Join(err, undone)
	}
	return nil
}

// say sends one command, and returns what HAProxy answers until it closes the connection.
func (h *HAProxy) say(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, haproxyTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.Socket)
	if err != nil {
		return "", fmt.Errorf("connecting to HAProxy: %w", err)
	}
	defer conn.Close()
	end := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer end()
	_, sent := io.WriteString(conn, command)
	answer, err := io.ReadAll(io.LimitReader(conn, haproxyAnswer))
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("HAProxy does not answer: %w", ctx.Err())
	case len(answer) > 0: // it may have closed before it took everything
		return string(answer), nil
	case len(command) > haproxyShort: // HAProxy 2.6 says nothing
		return "", ErrHAProxyTooLong
	}
	return "", errors.Join(errors.New("HAProxy closed the socket without an answer"), sent, err)
}

// linesOf returns the lines that are not empty.
func linesOf(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' })
}

func refusedBy(answer string) error {
	lines := linesOf(answer)
	text := strings.Join(lines[:min(len(lines), 3)], "; ")
	text = text[:min(len(text), maxRefusal)]
	switch {
	case strings.Contains(answer, "too big for the buffer"): // HAProxy 2.8.10 and later
		return fmt.Errorf("%w: %s", ErrHAProxyTooLong, text)
	case strings.Contains(answer, "Permission denied"):
		text += " (the socket needs `level admin`)"
	case strings.Contains(answer, "Unknown command"):
		text = "it does not know the command: HAProxy 2.5 or later is needed"
	case strings.Contains(answer, "not referenced"):
		text += " (the name must be as HAProxy's configuration has it)"
	}
	return fmt.Errorf("HAProxy refused: %s", text)
}
