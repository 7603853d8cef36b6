package stepca

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"sync"
	"time"

	"go.step.sm/crypto/kms/apiv1"
)

const (
	reconnectEvery = time.Second     // how often a device that is away is looked for
	closeTimeout   = 2 * time.Second // how long a connection that is given up may take to end
)

// device is a connection to a KMS, which may be lost and made again. All keys in a PKCS #11 token share one: the module
// has one state in the process, which only the end of the last connection resets.
type device struct {
	address address

	mu         sync.Mutex         // guards the rest; held while connecting
	manager    apiv1.KeyManager   // nil while there is no connection
	generation int                // of the connection
	failed     error              // of the last attempt to connect
	failedAt   time.Time          //
	barred     bool               // the device refused the PIN; to ask again could lock it
	ended      context.CancelFunc // ends what the manager does in the background
}

// devices are those that keys of this process are in. They stay until it ends, as the keys do.
var devices struct {
	sync.Mutex
	at map[string]*device
}

func deviceAt(a address) *device {
	devices.Lock()
	defer devices.Unlock()
	key := a.at + "\x00" + a.pin
	d := devices.at[key]
	if d == nil {
		if devices.at == nil {
			devices.at = map[string]*device{}
		}
		d = &device{address: a}
		devices.at[key] = d
	}
	return d
}

// connection returns the manager and which connection it is, and makes one if there is none.
func (d *device) connection() (apiv1.KeyManager, int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.manager != nil:
		return d.manager, d.generation, nil
	case d.barred:
		return nil, 0, fmt.Errorf("%w; it is not asked again, since a device locks itself after a few wrong PINs: mend the PIN and restart", d.failed)
	case d.failed != nil && time.Since(d.failedAt) < reconnectEvery:
		return nil, 0, d.failed
	}
	ctx, cancel := context.WithCancel(context.Background()) // the manager may keep it
	manager, err := d.address.connect(ctx)
	if err != nil {
		cancel()
		d.failed, d.failedAt = err, time.Now()
		if d.address.refused != nil && d.address.refused(err) {
			d.barred, d.failed = true, fmt.Errorf("%w: %w", ErrPIN, err)
		}
		return nil, 0, d.failed
	}
	d.manager, d.failed, d.ended = manager, nil, cancel
	d.generation++
	return manager, d.generation, nil
}

// drop gives a connection up, unless another took its place already.
func (d *device) drop(generation int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.manager == nil || d.generation != generation {
		return
	}
	manager, cancel := d.manager, d.ended
	d.manager = nil
	done := make(chan struct{})
	go func() { // it waits for what is under way, which may hang
		defer close(done)
		defer cancel()
		manager.Close() //nolint:errcheck // it is lost already
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
}

// use calls f with the connection, and once more with a new one if the first turns out to be lost.
func (d *device) use(f func(m apiv1.KeyManager, generation int) error) error {
	for retried := false; ; retried = true {
		manager, generation, err := d.connection()
		if err != nil {
			return err
		}
		err = f(manager, generation)
		if err == nil || d.address.lost == nil || !d.address.lost(err) {
			return err
		}
		d.drop(generation)
		if retried {
			return err
		}
	}
}

func (d *device) create(ctx context.Context, r *apiv1.CreateKeyRequest) error {
	return bounded(ctx, func() error {
		return d.use(func(m apiv1.KeyManager, _ int) error {
			_, err := m.CreateKey(r)
			return err
		})
	})
}

// createTimeout is for a device that makes an RSA key.
const createTimeout = 5 * time.Minute

// bounded waits for f, which knows no context, as long as a device may take to make or find a key.
func bounded(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the device: %w", ctx.Err())
	}
}

// handle is a key as one connection knows it.
type handle struct {
	crypto.Signer
	generation int
}

// keyInDevice signs with a key in a device, whichever connection there is.
type keyInDevice struct {
	device *device
	uri    string
	public crypto.PublicKey

	mu      sync.Mutex // guards current
	current handle
}

// newRemoteKey finds a key in a device.
func newRemoteKey(ctx context.Context, d *device, uri string) (crypto.Signer, error) {
	k := &keyInDevice{device: d, uri: uri}
	err := bounded(ctx, func() error {
		return d.use(func(m apiv1.KeyManager, generation int) error {
			_, err := k.find(m, generation)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("opening key in %s: %w", d.address.typ, err)
	}
	return newGate(k), nil
}

// find returns the key as the connection knows it.
func (k *keyInDevice) find(m apiv1.KeyManager, generation int) (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current.generation == generation && k.current.Signer != nil {
		return k.current.Signer, nil
	}
	signer, err := m.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: k.uri})
	if err != nil {
		return nil, err
	}
	if _, err := usable(signer, "in "+string(k.device.address.typ)); err != nil {
		return nil, err
	}
	if k.public == nil {
		k.public = signer.Public()
	}
	if pub, ok := k.public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(signer.Public()) {
		return nil, fmt.Errorf("%w: the device that came back has another key of this name", ErrKey)
	}
	k.current = handle{signer, generation}
	return signer, nil
}

// Public returns the public key.
func (k *keyInDevice) Public() crypto.PublicKey { return k.public }

// Sign signs, with a new connection if need be.
func (k *keyInDevice) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	err = k.device.use(func(m apiv1.KeyManager, generation int) error {
		signer, err := k.find(m, generation)
		if err == nil {
			signature, err = signer.Sign(rand, digest, opts)
		}
		return err
	})
	return signature, err
}
