package main

import (
	"fmt"
	"io"

	"github.com/pkid/pkid/internal/config"
	"github.com/pkid/pkid/internal/daemon"
)

func printCreated(w io.Writer, cfg *config.Config) error {
	fingerprint, err := daemon.RootFingerprint(cfg)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "root fingerprint (SHA-256)  %s\n%s", fingerprint, custody(cfg))
	return err
}

// custody says where the secrets are and what to do with them.
func custody(cfg *config.Config) string {
	return fmt.Sprintf(`operator's credentials      %s
%spassphrase of the keys      %s
`, abs(cfg.Path("admin")), rootKeyLine(cfg), cfg.PassphraseText())
}

// printQuickstart is what a new user sees first: who the CA is, where it answers, what to paste next.
func printQuickstart(w io.Writer, d *daemon.Daemon, cfg *config.Config, dir string, created bool) {
	pkictl := "pkictl"
	if fromSource() {
		pkictl = "go run ./cmd/pkictl"
	}
	home := ""
	if dir != defaultData {
		home = " --home " + abs(cfg.Path("admin"))
	}
	verb := "serving"
	if created {
		verb = "created"
	}
	urls := d.URLs()
	fmt.Fprintf(w, `
%s %s

root fingerprint (SHA-256)  %s
REST, OAuth, console        %s
the same over mTLS          %s
CRLs, plain HTTP            %s
metrics, health             http://%s
%s
Next, in another terminal:

  %s demo%s
  %s invite%s hello | %s enroll - --out ./hello
  %s token --dir ./hello

`, verb, abs(dir), d.Fingerprint(), urls.Public, urls.MTLS, urls.Status, cfg.Listen.Ops, custody(cfg),
		pkictl, home, pkictl, home, pkictl, pkictl)
}
