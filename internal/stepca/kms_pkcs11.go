//go:build pkcs11 && cgo

package stepca

import (
	"errors"
	"slices"

	"github.com/miekg/pkcs11"
	"go.step.sm/crypto/kms/apiv1"
	_ "go.step.sm/crypto/kms/pkcs11" // keys with pkcs11: URIs
)

// What a module returns once its device was pulled, reset, or forgot who logged in. Modules differ, so errors that say
// nothing are among them.
var lostErrors = []pkcs11.Error{
	pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
	pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, //nolint:misspell // the standard spells it so
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
}

var refusedErrors = []pkcs11.Error{
	pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED,
}

func init() {
	d := drivers[apiv1.PKCS11]
	d.lost, d.refused = isPKCS11(lostErrors), isPKCS11(refusedErrors)
	drivers[apiv1.PKCS11] = d
}

func isPKCS11(codes []pkcs11.Error) func(error) bool {
	return func(err error) bool {
		code, ok := errors.AsType[pkcs11.Error](err)
		return ok && slices.Contains(codes, code)
	}
}
