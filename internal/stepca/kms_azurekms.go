//go:build azurekms

package stepca

import _ "go.step.sm/crypto/kms/azurekms" // keys with azurekms: URIs
