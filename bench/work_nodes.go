package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkid/pkid/bench/model"
	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/pgtest"
)

// The contenders in issuance on PostgreSQL.
const (
	oneNode    = "pkid, PostgreSQL"
	threeNodes = "pkid, PostgreSQL, 3 nodes"
)

// nodes measures issuance where everything is kept in PostgreSQL, on this machine and with its defaults: commits are synced
// to disk before they are acknowledged (synchronous_commit).
func (b *bench) nodes(ctx context.Context) (err error) {
	server, err := pgtest.NewServer()
	if errors.Is(err, pgtest.ErrMissing) && !b.peers {
		log.Printf("left out: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	database, err := server.NewDatabase()
	if err != nil {
		return err
	}
	a := newAuthorities(b)
	defer a.stop()
	if a.pkid, err = b.startOnPostgres(ctx, database); err != nil {
		return err
	}
	all := []*pkidServer{a.pkid}
	for _, name := range []string{"node-2", "node-3"} {
		n, err := b.startSibling(ctx, name, a.pkid)
		if err != nil {
			return err
		}
		defer n.stop()
		all = append(all, n)
	}
	if b.peers {
		if a.badger, err = b.startStep(ctx, "nodes-step-badger", "badgerv2", stepOptions{}); err != nil {
			return err
		}
		if a.bbolt, err = b.startStep(ctx, "nodes-step-bbolt", "bbolt", stepOptions{}); err != nil {
			return err
		}
	}
	return a.measureNodes(ctx, all)
}

func (a *authorities) measureNodes(ctx context.Context, all []*pkidServer) error {
	got, err := alternate(ctx, "issue on PostgreSQL", a.b.sizes.rounds, append([]contender{
		{oneNode, func(ctx context.Context) (sample, error) { return a.issueOn(ctx, all[:1]) }},
		{threeNodes, func(ctx context.Context) (sample, error) { return a.issueOn(ctx, all) }},
	}, a.stepIssuers(32)...))
	if err != nil {
		return err
	}
	r := &a.b.report
	if a.b.peers {
		step := got.fastest(onBadger, onBbolt)
		r.record("issue/postgres", got.over(oneNode, step.name), fmt.Sprintf("%s; three nodes on this machine %s of one", step.name, ratio(got.over(threeNodes, oneNode))))
	}
	r.data.Cost(model.CostIssueNode, got.named(oneNode).cpu().Seconds())
	r.data.Cost(model.RateNode, 1/got.named(oneNode).rate())
	r.data.Cost(model.RateNodes, 1/got.named(threeNodes).rate())
	r.rates("Issuing, 32 at once, on PostgreSQL", "As above, with everything kept in a PostgreSQL on this machine, which syncs each commit to disk. Nodes "+
		"share the database and nothing else; all of them, the database and the clients share the cores of this machine here. The CPU is that of pkid's processes, without the database's.", got)
	return nil
}

// issueOn redeems invitations at all nodes at once.
func (a *authorities) issueOn(ctx context.Context, all []*pkidServer) (sample, error) {
	requests, err := a.pkid.invite(ctx, a.supply(a.pkid.name))
	if err != nil {
		return sample{}, err
	}
	var conns []*conn
	defer func() { closeAll(conns) }()
	tlsConfig := clientTLS(a.pkid.operator.Roots())
	for i, n := range all {
		more, err := dialAll(ctx, n.public, 32*(i+1)/len(all)-32*i/len(all), func(int) *tls.Config { return tlsConfig })
		if err != nil {
			return sample{}, err
		}
		conns = append(conns, more...)
	}
	before, err := spent(all)
	if err != nil {
		return sample{}, err
	}
	s, err := measure(a.pkid.process, func() (sample, error) {
		return drive(ctx, conns, a.b.sizes.round, 201, once(requests), nil)
	})
	if err != nil {
		return s, err
	}
	after, err := spent(all)
	s.cpu = (after - before) / time.Duration(max(s.requests, 1))
	a.last[a.pkid.name] = s.requests
	return s, err
}

// spent is the CPU time that processes have used up.
func spent(all []*pkidServer) (sum time.Duration, err error) {
	for _, s := range all {
		one, err := s.cpu()
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// startOnPostgres makes a CA that keeps everything in a database, and serves it.
func (b *bench) startOnPostgres(ctx context.Context, database string) (*pkidServer, error) {
	bin, err := b.pkidBinary(ctx)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(database)
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	file := filepath.Join(b.dir, "database-password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "node-1")
	const free = "127.0.0.1:0"
	if _, err := output(ctx, b.dir, nil, bin, "init", "--data", dir, "--public", free, "--mtls", free, "--status", free, "--ops", free,
		"--store", u.String(), "--store-password", "file:"+file); err != nil {
		return nil, err
	}
	return b.servePKID(ctx, "node-1", dir)
}

// startSibling serves another node of a CA: with its configuration and keys, and addresses of its own.
func (b *bench) startSibling(ctx context.Context, name string, first *pkidServer) (*pkidServer, error) {
	dir := filepath.Join(b.dir, name)
	if _, err := output(ctx, b.dir, nil, "cp", "-a", first.dir, dir); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, config.File)
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	conf := string(text)
	for _, addr := range []string{cfg.Listen.Public, cfg.Listen.MTLS, cfg.Listen.Status, cfg.Listen.Ops} {
		own, err := freeAddress()
		if err != nil {
			return nil, err
		}
		conf = strings.ReplaceAll(conf, `"`+addr+`"`, `"`+own+`"`)
	}
	conf += fmt.Sprintf("urls: {public: %q, mtls: %q, status: %q}\n", cfg.URLs.Public, cfg.URLs.MTLS, cfg.URLs.Status)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil { //nolint:gosec // G703: the bench's own temporary directory
		return nil, err
	}
	own, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	s := &pkidServer{dir: dir, operator: first.operator, public: own.Listen.Public, mtls: own.Listen.MTLS, status: own.Listen.Status}
	if s.process, err = b.start(name, b.dir, nil, b.pkid, "serve", "--data", dir); err != nil {
		return nil, err
	}
	err = s.ready(ctx, time.Minute, func() error { return answers(ctx, "https://"+s.public+"/v1/ca", clientTLS(s.operator.Roots())) })
	if err != nil {
		s.stop()
	}
	return s, err
}
