package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/crl"
)

// verdict is the result of crl check.
type verdict struct {
	Status   string    `json:"status"` // good, revoked, held or unknown
	Since    time.Time `json:"revoked_at,omitzero"`
	Reason   string    `json:"revocation_reason,omitempty"`
	CRL      uint64    `json:"crl_number,omitempty"` // of the list that names it
	NotAfter time.Time `json:"not_after"`
	Why      string    `json:"error,omitempty"` // with unknown
}

func (a *app) crlCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check FILE|-", Short: "say whether a certificate was revoked, as a server's checker sees it", Args: exactly("FILE|-"),
		Long: "Say whether a certificate was revoked or is on hold, as a server's checker sees it.\n" +
			"The exit code is 0 if it is good, 1 if it is revoked or on hold, 2 if there is no certificate to check or no\n" +
			"CA to ask, and 3 if its status is unknown, because the CA does not answer or did not issue it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cert, err := readCertificate(args[0], a.stdin)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			id, err := a.trusted()
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			v := checkRevocation(cmd.Context(), id, cert)
			if a.json {
				err = a.printJSON(v)
			} else {
				_, err = fmt.Fprintln(a.stdout, v)
			}
			return errors.Join(err, v.exit())
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func checkRevocation(ctx context.Context, id *client.Identity, cert *x509.Certificate) verdict {
	v := verdict{Status: "good", NotAfter: cert.NotAfter}
	checker, err := statusChecker(ctx, id)
	if err == nil {
		err = checker.Check(ctx, cert)
	}
	if r, ok := errors.AsType[*crl.RevokedError](err); ok {
		v.Status, v.Since, v.Reason, v.CRL = "revoked", r.At, crl.ReasonName(r.Reason), r.CRLNumber
		if v.Reason == "certificateHold" {
			v.Status = "held"
		}
	} else if err != nil {
		v.Status, v.Why = "unknown", err.Error()
	}
	return v
}

func (v verdict) String() string {
	switch {
	case v.Status == "revoked":
		return fmt.Sprintf("revoked since %s (%s, CRL %d)", stamp(v.Since), v.Reason, v.CRL)
	case v.Status == "held":
		return fmt.Sprintf("on hold since %s (CRL %d)", stamp(v.Since), v.CRL)
	case v.Status == "unknown":
		return "unknown"
	case time.Now().After(v.NotAfter):
		return fmt.Sprintf("not revoked (it expired at %s)", stamp(v.NotAfter))
	}
	return "not revoked"
}

// exit is the verdict as pkictl's end.
func (v verdict) exit() error {
	switch v.Status {
	case "good":
		return nil
	case "unknown":
		return &exitError{exitUnknown, v.Why}
	}
	return &exitError{code: exitFailed}
}
