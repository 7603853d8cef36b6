//go:build awskms

package stepca

import _ "go.step.sm/crypto/kms/awskms" // keys with awskms: URIs
