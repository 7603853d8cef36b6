package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
)

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "show what a stolen token is worth, against a running daemon or a temporary one", Args: exactly(),
		Long: "Steal a bearer token, a certificate-bound token and a DPoP-bound token, use each, and revoke a certificate.\n" +
			"Each step shows the request, the answer and why. The exit code is 0 only if each came out as told.\n" +
			"Without a daemon that answers, a temporary one is started and removed.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context()) },
	}
}

// demo is what the acts share.
type demo struct {
	*printer
	ca   *client.Identity // the operator's
	api  *client.API
	dir  string // for the actors' keys
	tag  string // in the names of all that the demo makes
	rs   *resourceServer
	made []string // clients, to be disabled at the end
}

// act is a part of the story.
type act struct {
	title, text string
	play        func(context.Context, *demo) error
}

func (a *app) demo(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "pkid-demo-")
	if err != nil {
		return err
	}
	defer func() { err = both(err, os.RemoveAll(dir)) }()

	id := a.running(ctx)
	goesOn := id != nil
	if !goesOn {
		a.note("no daemon answers: starting a temporary one")
		daemon, err := startDaemon(ctx, dir)
		if err != nil {
			return fmt.Errorf("starting a temporary daemon: %w", err)
		}
		defer daemon.stop()
		id = daemon.operator
	}
	d := &demo{
		printer: newPrinter(a.stdout), ca: id, api: id.API(), dir: dir, tag: "demo-" + strings.ToLower(rand.Text()[:6]),
	}
	if goesOn {
		defer func() { err = both(err, d.tidy(context.WithoutCancel(ctx))) }()
	}
	if err := d.open(ctx); err != nil {
		return fmt.Errorf("setting the stage: %w", err)
	}
	defer d.rs.close()
	for i, act := range []act{bearerAct, certificateAct, dpopAct, revocationAct} {
		if err := d.act(i+1, act); err != nil {
			return err
		}
		if err := act.play(ctx, d); err != nil {
			return fmt.Errorf("act %d: %w", i+1, err)
		}
	}
	return d.end()
}

// both joins the demo's error with that of its end, which is told also to who does not listen to the demo.
func both(err, ending error) error {
	if ending != nil && readerLeft(err) {
		return ending
	}
	return errors.Join(err, ending)
}

// running returns the operator's identity if there is one and its daemon answers.
func (a *app) running(ctx context.Context) *client.Identity {
	id, err := a.operator(ctx)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := id.API().CA(ctx); err != nil {
		return nil
	}
	return id
}

// open starts the resource server that all acts call, with a certificate of the CA.
func (d *demo) open(ctx context.Context) error {
	id, err := d.enrol(ctx, client.InvitationRequest{ClientID: d.name("shop"), Profile: "server", SANs: []string{"localhost", "127.0.0.1"}})
	if err != nil {
		return err
	}
	d.rs, err = openResourceServer(ctx, d.ca, id)
	return err
}

func (d *demo) name(role string) string { return d.tag + "-" + role }

// enrol makes an actor with a certificate, as `pkictl invite` and `pkictl enroll` do.
func (d *demo) enrol(ctx context.Context, r client.InvitationRequest) (*client.Identity, error) {
	inv, err := d.api.Invite(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("inviting %s: %w", r.ClientID, err)
	}
	d.made = append(d.made, r.ClientID)
	token, err := client.ParseEnrolmentToken(inv.Token)
	if err != nil {
		return nil, err
	}
	return client.Enroll(ctx, token, client.EnrollOptions{Dir: filepath.Join(d.dir, r.ClientID)})
}

// register makes an actor with a secret, as `pkictl client add --auth client_secret_basic` does.
func (d *demo) register(ctx context.Context, c client.ClientRecord) (*client.ClientRecord, error) {
	c.Auth = "client_secret_basic"
	added, err := d.api.AddClient(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("adding client %s: %w", c.ID, err)
	}
	d.made = append(d.made, c.ID)
	return added, nil
}

// tidy disables what the demo made in a daemon that goes on: clients cannot be deleted, since certificates
// and the audit log name them.
func (d *demo) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var errs []error
	for _, id := range d.made {
		for c, err := range d.api.Certificates(ctx, client.CertificateFilter{Client: id, Status: "active"}) {
			if err == nil {
				_, err = d.api.Revoke(ctx, c.Serial, client.Revocation{Reason: "cessationOfOperation"})
			}
			errs = append(errs, err)
		}
		disabled := true
		_, err := d.api.PatchClient(ctx, id, client.ClientPatch{Disabled: &disabled})
		if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != 404 {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tidying up: %w", err)
	}
	return nil
}
