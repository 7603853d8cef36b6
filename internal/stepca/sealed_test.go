package stepca_test

import (
	"errors"
	"testing"

	"github.com/pkid/pkid/internal/stepca"
)

// Whoever may ask for a key names no library, file or service of the machine that its administrator has not named.
func TestCheckDevice(t *testing.T) {
	const configured = "pkcs11:module-path=/usr/lib/hsm.so;token=pkid;id=01;object=issuer?pin-source=file:/etc/pkid/pin"
	for uri, ok := range map[string]bool{
		"pkcs11:module-path=/usr/lib/hsm.so;token=pkid;id=02;object=next?pin-source=file:/etc/pkid/pin": true,
		"pkcs11:module-path=/usr/lib/hsm.so;token=other;id=02;object=next":                              true,
		"pkcs11:module-path=/tmp/evil.so;token=pkid;id=02;object=next?pin-source=file:/etc/pkid/pin":    false,
		"pkcs11:token=pkid;id=02;object=next?module-path=/tmp/evil.so":                                  false,
		"pkcs11:module-path=/usr/lib/hsm.so;token=pkid;id=02?pin-source=file:/etc/passwd":               false,
		"pkcs11:module-path=/usr/lib/hsm.so;id=02?module-path=/tmp/evil.so":                             true, // the first one counts, there as here
		"cloudkms:projects/p/locations/l?credentials-file=/etc/passwd":                                  false,
		"tpmkms:name=next;device=/dev/sda":                                                              false,
		"tpmkms:name=next":                                                                              true,
		"awskms:key-id=x;region=y":                                                                      true,
	} {
		err := stepca.CheckDevice(uri, []string{"keys/issuer.key", configured})
		if (err == nil) != ok || err != nil && !errors.Is(err, stepca.ErrKey) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if err := stepca.CheckDevice(configured, []string{"keys/issuer.key"}); err == nil {
		t.Error("a library that nobody configured")
	}
}
