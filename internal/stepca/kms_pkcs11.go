//go:build pkcs11

package stepca

import _ "go.step.sm/crypto/kms/pkcs11" // keys with pkcs11: URIs
