package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
)

// database is a PostgreSQL and the ways of the nodes to it.
type database struct {
	server  *pgtest.Server
	proxies []*pgtest.Proxy
}

func (d *database) Close() error {
	for _, p := range d.proxies {
		p.Close()
	}
	return d.server.Close()
}

// Postgres makes a CA of three nodes that share a PostgreSQL of their own, which each reaches through a proxy, and starts
// them.
func Postgres(ctx context.Context, binary, dir string) (_ *Cluster, err error) {
	const nodes = 3
	server, err := pgtest.NewServer()
	if err != nil {
		return nil, err
	}
	db := &database{server: server}
	c := &Cluster{Engine: "PostgreSQL", Hold: 2 * time.Second, Faults: []Fault{Kill, db.stop(), db.cut(), db.stall()}}
	c.Close = func() error {
		var errs []error
		for _, n := range c.Nodes {
			errs = append(errs, n.Close())
		}
		return errors.Join(append(errs, db.Close())...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	password, stores, err := db.open(dir, nodes)
	if err != nil {
		return nil, err
	}
	first := filepath.Join(dir, "node-1")
	if err := initialise(ctx, binary, first, "--store", stores[0], "--store-password", "file:"+password); err != nil {
		return nil, err
	}
	for i := range nodes {
		data := filepath.Join(dir, fmt.Sprintf("node-%d", i+1))
		if i > 0 {
			if err := join(first, data, stores[0], stores[i]); err != nil {
				return nil, err
			}
		}
		n, err := NewNode(fmt.Sprint(i+1), binary, data, filepath.Join(first, "admin"))
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
		if _, err := n.Start(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// open makes a database, a proxy to it for each node, and a file with the password.
func (d *database) open(dir string, nodes int) (password string, stores []string, err error) {
	direct, err := d.server.NewDatabase()
	if err != nil {
		return "", nil, err
	}
	for range nodes {
		p, err := pgtest.NewProxy(d.server.Addr())
		if err != nil {
			return "", nil, err
		}
		d.proxies = append(d.proxies, p)
		u, err := url.Parse(direct)
		if err != nil {
			return "", nil, errors.New("the database's URL is none") // err would show the password
		}
		password, _ = u.User.Password()
		u.User, u.Host = url.User(u.User.Username()), p.Addr()
		stores = append(stores, u.String())
	}
	file := filepath.Join(dir, "db-password")
	return file, stores, os.WriteFile(file, []byte(password), 0o600)
}

// join makes the data directory of another node of the first one's CA: all that the first one has but its addresses,
// and, since clients know the CA by one address, the URLs of the first.
func join(first, data, firstStore, store string) error {
	if err := os.CopyFS(data, os.DirFS(first)); err != nil {
		return err
	}
	cfg, err := config.Load(filepath.Join(first, config.File))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(first, config.File))
	if err != nil {
		return err
	}
	for _, addr := range []string{cfg.Listen.Public, cfg.Listen.MTLS, cfg.Listen.Status, cfg.Listen.Ops} {
		free, err := freeAddress()
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, fmt.Appendf(nil, "%q", addr), fmt.Appendf(nil, "%q", free))
	}
	text = bytes.ReplaceAll(text, []byte(firstStore), []byte(store))
	text = fmt.Appendf(text, "urls: {public: %q, mtls: %q, status: %q}\n", cfg.URLs.Public, cfg.URLs.MTLS, cfg.URLs.Status)
	root, err := os.OpenRoot(data)
	if err != nil {
		return err
	}
	return errors.Join(root.WriteFile(config.File, text, 0o600), private(root), root.Close())
}

// private takes away the rights of others, which the copy of a file has.
func private(dir *os.Root) error {
	return fs.WalkDir(dir.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return dir.Chmod(path, 0o600)
	})
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// whole waits until all nodes are ready, and returns how long that took.
func whole(ctx context.Context, c *Cluster) (time.Duration, error) {
	began := time.Now()
	for _, n := range c.Nodes {
		if err := n.Ready(ctx); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// hold leaves something broken for a while.
func (c *Cluster) hold(random *rand.Rand) { time.Sleep(time.Duration(random.Int64N(int64(c.Hold)))) }

func (d *database) stop() Fault {
	return Fault{"`pg_ctl stop -m immediate`, and a start", func(ctx context.Context, c *Cluster, random *rand.Rand) (time.Duration, error) {
		if err := d.server.Stop(); err != nil {
			return 0, err
		}
		c.hold(random)
		if err := d.server.Start(); err != nil {
			return 0, err
		}
		return whole(ctx, c)
	}}
}

func (d *database) cut() Fault {
	return Fault{"a node's connections to the database cut", func(ctx context.Context, c *Cluster, random *rand.Rand) (time.Duration, error) {
		p := d.proxies[random.IntN(len(d.proxies))]
		p.Cut()
		c.hold(random)
		p.Resume()
		return whole(ctx, c)
	}}
}

func (d *database) stall() Fault {
	return Fault{"a node's connections to the database stalled", func(ctx context.Context, c *Cluster, random *rand.Rand) (time.Duration, error) {
		p := d.proxies[random.IntN(len(d.proxies))]
		p.Stall()
		c.hold(random)
		p.Resume()
		return whole(ctx, c)
	}}
}
