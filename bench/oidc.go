package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// nodeFiles are the peers of npm and the lockfile that says which versions they are.
//
//go:embed node/*.js node/*.json
var nodeFiles embed.FS

// nodeServer is a running oidc-provider.
type nodeServer struct {
	*process
	addr string
}

// nodeModules installs the peers of npm, once per run, and returns the directory.
func (b *bench) nodeModules(ctx context.Context) (string, error) {
	dir := filepath.Join(b.dir, "node")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	files, err := fs.Sub(nodeFiles, "node")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return "", err
	}
	_, err = output(ctx, dir, nil, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	return dir, err
}

func (b *bench) startNode(ctx context.Context, name string) (*nodeServer, error) {
	dir, err := b.nodeModules(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.ca.server(); err != nil {
		return nil, err
	}
	s := &nodeServer{}
	if s.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(b.ca.dir, name) }
	s.process, err = b.start(name, dir, []string{"NODE_ENV=production"}, "node", "server.js", port,
		in("server.crt"), in("server.key"), in("root.crt"), strconv.Itoa(connections))
	if err != nil {
		return nil, err
	}
	err = s.ready(ctx, time.Minute, func() error {
		return answers(ctx, "https://"+s.addr+"/.well-known/openid-configuration", clientTLS(b.ca.roots))
	})
	if err != nil {
		s.stop()
	}
	return s, err
}

// nodeVersion is the version of a package in the lockfile.
func nodeVersion(name string) string {
	text, err := nodeFiles.ReadFile("node/package-lock.json")
	if err != nil {
		return "unknown"
	}
	var lock struct {
		Packages map[string]struct {
			Version string `json:"version"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		return fmt.Sprintf("unknown: %v", err)
	}
	return lock.Packages["node_modules/"+name].Version
}
