//go:build tpmkms

package stepca

import _ "go.step.sm/crypto/kms/tpmkms" // keys with tpmkms: URIs
