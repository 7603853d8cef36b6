//go:build yubikey && cgo

package stepca

import _ "go.step.sm/crypto/kms/yubikey" // keys with yubikey: URIs; building it takes PC/SC's headers
