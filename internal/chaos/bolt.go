package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// Bolt makes a CA with a store in a file below dir, and starts it.
func Bolt(ctx context.Context, binary, dir string) (*Cluster, error) {
	data := filepath.Join(dir, "pkid-data")
	if err := initialise(ctx, binary, data); err != nil {
		return nil, err
	}
	n, err := NewNode("1", binary, data, filepath.Join(data, "admin"))
	if err != nil {
		return nil, err
	}
	if _, err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return &Cluster{Engine: "bbolt", Nodes: []*Node{n}, Faults: []Fault{Kill}, Close: n.Close}, nil
}

// initialise runs pkid init on free ports.
func initialise(ctx context.Context, binary, data string, more ...string) error {
	const anyPort = "127.0.0.1:0"
	args := append([]string{"init", "--data", data, "--public", anyPort, "--mtls", anyPort, "--status", anyPort, "--ops", anyPort}, more...)
	if out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput(); err != nil { //nolint:gosec // G204: the program under test
		return fmt.Errorf("pkid init: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
