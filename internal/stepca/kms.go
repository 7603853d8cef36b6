package stepca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"go.step.sm/crypto/kms"
	"go.step.sm/crypto/kms/apiv1"
	kmsuri "go.step.sm/crypto/kms/uri"

	"github.com/pkid/pkid/ca"
	"github.com/pkid/pkid/internal/secret"
)

// A driver is what pkid knows of a KMS beside what go.step.sm/crypto does.
type driver struct {
	// creates: keys can be made in it under a name of one's own choice.
	creates bool
	// lost reports an error after which only a new connection helps; nil: connections mend themselves.
	lost func(error) bool
	// refused reports an error that trying again makes worse, such as a wrong PIN.
	refused func(error) bool
	// build says how to have it in a build, if that needs more than its tag.
	build string
}

// drivers are the KMSs that URIs may name. The build tag of each is its name.
var drivers = map[apiv1.Type]driver{
	apiv1.AmazonKMS: {},
	apiv1.AzureKMS:  {},
	apiv1.CloudKMS:  {},
	apiv1.PKCS11:    {creates: true, build: "CGO_ENABLED=1 "}, // its errors: kms_pkcs11.go
	apiv1.TPMKMS:    {creates: true},
	apiv1.YubiKey:   {build: "CGO_ENABLED=1 "},
}

// address is a parsed key URI: where the key is, and how to get there.
type address struct {
	driver
	typ apiv1.Type
	uri string // names the key, without its PIN's source
	at  string // names the device, without the key: PKCS #11 keeps one state for all keys in it
	pin string // where the PIN is; empty: there is none
}

// parseKMS reads a key URI. It is not repeated in errors: beyond its scheme it may hold what should not be seen.
func parseKMS(uri string) (address, error) {
	scheme, _, _ := strings.Cut(uri, ":")
	a := address{typ: apiv1.Type(strings.ToLower(scheme))}
	_, registered := apiv1.LoadKeyManagerNewFunc(a.typ)
	var known bool
	if a.driver, known = drivers[a.typ]; !known && !registered {
		return a, fmt.Errorf("%w: %q is neither a file nor a key URI: want a path, or one of awskms:, azurekms:, cloudkms:, pkcs11:, tpmkms:, yubikey:", ErrKey, scheme+":")
	}
	u, err := kmsuri.Parse(uri)
	if err != nil {
		return a, fmt.Errorf("%w: not a well-formed %s URI", ErrKey, scheme)
	}
	if u.Has("pin-value") || u.Has("pin-prompt") {
		return a, fmt.Errorf("%w: %s URI with a pin-value or a pin-prompt: name where the PIN is with pin-source=file:/PATH, env:NAME or credential:NAME", ErrKey, scheme)
	}
	if !registered {
		return a, fmt.Errorf("%w: this pkid was built without %s; build it with `%sgo build -tags %s ./cmd/pkid`", ErrKey, a.typ, a.build, a.typ)
	}
	if a.pin, err = pinSource(u.Get("pin-source")); err != nil {
		return a, err
	}
	a.uri = without(uri, "pin-source")
	if a.at = a.uri; a.typ == apiv1.PKCS11 {
		a.at = without(a.uri, "id", "object")
	}
	return a, nil
}

// pinSource reads the pin-source of RFC 7512 section 2.4, a path or a file URI, and takes the other forms of
// internal/secret beside.
func pinSource(source string) (string, error) {
	if source == "" {
		return "", nil
	}
	if filepath.IsAbs(source) {
		source = "file:" + source
	}
	kind, name, err := secret.Split("pin-source", source)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	if kind == "file" && !filepath.IsAbs(name) {
		return "", fmt.Errorf("%w: pin-source: want an absolute path", ErrKey)
	}
	return source, nil
}

// without returns a key URI without some of its attributes, which stand between semicolons before the question mark and
// between ampersands after it. What is left keeps its form: not every KMS has attributes there.
func without(uri string, attributes ...string) string {
	path, query, _ := strings.Cut(uri, "?")
	scheme, path, _ := strings.Cut(path, ":")
	drop := func(text, separator string) string {
		parts := strings.Split(text, separator)
		return strings.Join(slices.DeleteFunc(parts, func(part string) bool {
			key, _, _ := strings.Cut(part, "=")
			key, err := url.QueryUnescape(key)
			return err == nil && slices.Contains(attributes, key)
		}), separator)
	}
	out := scheme + ":" + drop(path, ";")
	if query = drop(query, "&"); query != "" {
		out += "?" + query
	}
	return out
}

// connect opens the KMS.
func (a address) connect(ctx context.Context) (apiv1.KeyManager, error) {
	options := apiv1.Options{Type: a.typ, URI: a.uri}
	if a.pin != "" {
		pin, err := secret.Read("pin-source", a.pin, "")
		if err != nil {
			return nil, fmt.Errorf("%w in %s: %w", ErrKey, a.typ, err)
		}
		if len(pin) == 0 { // a device that is asked with an empty one would count it as a wrong one
			return nil, fmt.Errorf("%w in %s: pin-source: it is empty", ErrKey, a.typ)
		}
		options.Pin = string(pin)
	}
	manager, err := kms.New(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", a.typ, err)
	}
	return manager, nil
}

// openKMS opens a key outside the process.
func openKMS(ctx context.Context, uri string) (crypto.Signer, error) {
	a, err := parseKMS(uri)
	if err != nil {
		return nil, err
	}
	return newRemoteKey(ctx, deviceAt(a), a.uri)
}

// createKMS makes a key in a KMS. A key that is there already is an error.
func createKMS(ctx context.Context, uri string, kind ca.KeyType) (crypto.Signer, error) {
	a, err := parseKMS(uri)
	if err != nil {
		return nil, err
	}
	if !a.creates {
		return nil, fmt.Errorf("%w: pkid makes no keys in %s: make one with its own tools and say that it is there already (--existing-key)", ErrKey, a.typ)
	}
	if u, err := kmsuri.Parse(a.uri); a.typ == apiv1.PKCS11 && (err != nil || u.Get("id") == "" || u.Get("object") == "") {
		return nil, fmt.Errorf("%w: a new key in a PKCS #11 token needs an id, in hex, and an object, its name: pkcs11:...;id=01;object=issuer", ErrKey)
	}
	request := &apiv1.CreateKeyRequest{Name: a.uri}
	switch kind {
	case ca.P256:
		request.SignatureAlgorithm = apiv1.ECDSAWithSHA256
	case ca.P384:
		request.SignatureAlgorithm = apiv1.ECDSAWithSHA384
	case ca.P521:
		request.SignatureAlgorithm = apiv1.ECDSAWithSHA512
	case ca.RSA2048, ca.RSA3072, ca.RSA4096:
		request.SignatureAlgorithm = apiv1.SHA256WithRSA
		request.Bits = map[ca.KeyType]int{ca.RSA2048: 2048, ca.RSA3072: 3072, ca.RSA4096: 4096}[kind]
	default:
		return nil, fmt.Errorf("%w: a key of type %q cannot be made in %s", ErrKey, kind, a.typ)
	}
	d := deviceAt(a)
	if err := d.create(ctx, request); err != nil {
		if errors.Is(err, apiv1.AlreadyExistsError{}) {
			return nil, fmt.Errorf("%w: there is a key of that name in %s already: choose another id and object, or use it (--existing-key)", ErrKey, a.typ)
		}
		return nil, fmt.Errorf("making a key in %s: %w", a.typ, err)
	}
	return newRemoteKey(ctx, d, a.uri)
}
