package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pkitest"
)

// The README's service, run as it is, answers its clients with both kinds of token and refuses a revoked one.
func TestExampleOrders(t *testing.T) {
	t.Parallel()
	s := pkitest.Start(t, pkitest.Options{})
	sh := newShell(t, s)
	orders := s.Enrol(t, client.InvitationRequest{ClientID: "orders", Profile: "server", SANs: []string{"localhost"}})
	addr := pkitest.FreeAddress(t)
	url := "https://localhost:" + addr[strings.LastIndex(addr, ":")+1:]
	shop := s.Enrol(t, client.InvitationRequest{ClientID: "shop", Resources: []string{url}})

	bin := filepath.Join(t.TempDir(), "orders")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../examples/go/orders").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Env = append(os.Environ(), "ORDERS_IDENTITY="+orders.Dir(), "ORDERS_ADDR="+addr, "ORDERS_URL="+url)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	call := func(flag string) (string, error) {
		return sh.try(fmt.Sprintf("pkictl call --dir %s --resource %s %s GET %s/", shop.Dir(), url, flag, url))
	}
	for _, flag := range []string{"", "--dpop", "--dpop"} {
		pkitest.Eventually(t, 10*time.Second, func() error {
			got, err := call(flag)
			if err == nil && got != "the orders of shop" {
				err = fmt.Errorf("it answers %q", got)
			}
			return err
		})
	}
	token := sh.run(fmt.Sprintf("pkictl token --dir %s --resource %s | grep -o '\"access_token\": *\"[^\"]*\"' | cut -d'\"' -f4", shop.Dir(), url))
	sh.run("pkictl revoke " + filepath.Join(shop.Dir(), "client.crt") + " --yes")
	pkitest.Eventually(t, 5*time.Second, func() error {
		got := sh.run(fmt.Sprintf("curl -sS --cacert %[1]s/root.crt --cert %[1]s/client.crt --key %[1]s/client.key -H 'Authorization: Bearer %[2]s' -w '%%{http_code}' %[3]s/", shop.Dir(), token, url))
		if !strings.HasSuffix(got, "401") || !strings.Contains(got, "revoked") {
			return fmt.Errorf("after the revocation: %s", got)
		}
		return nil
	})
}
