package config

import (
	"strings"
	"testing"
)

func TestPINsStayOutOfTheConfiguration(t *testing.T) {
	const pin = "7391-pin"
	for _, uri := range []string{
		"pkcs11:token=a;object=b?pin-value=" + pin,
		"pkcs11:token=a;pin-value=" + pin + ";object=b",
		"yubikey:slot-id=9c;PIN-value=" + pin,
		"pkcs11:token=a;object=b?pin%2Dvalue=" + pin,
	} {
		text := "name: a\nhosts: [localhost]\nstore: bolt:a.db\npassphrase: env:A\ntokens: {keys: [{key: a, algorithm: ES256}]}\nissuer: {key: \"" + uri + "\"}\n"
		_, err := Parse([]byte(text), ".")
		if err == nil || !strings.Contains(err.Error(), "issuer.key") || !strings.Contains(err.Error(), "pin-source") || strings.Contains(err.Error(), pin) {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if err := CheckKey("issuer.key", "pkcs11:token=a;object=b?pin-source=file:/etc/pkid/pin"); err != nil {
		t.Error(err)
	}
	if err := CheckKey("issuer.key", "keys/pin-value.key"); err != nil {
		t.Errorf("a path: %v", err)
	}
}
