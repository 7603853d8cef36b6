//go:build cloudkms

package stepca

import _ "go.step.sm/crypto/kms/cloudkms" // keys with cloudkms: URIs
