package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// defaultRotateEvery is a quarter of a year. A key that signs tokens of minutes needs to live no longer than it takes
	// to notice that nobody remembers how to replace it, and what nobody has to do is done.
	defaultRotateEvery = 2160 * time.Hour
	// minRotateEvery leaves room for the time that a key is published before it signs and after.
	minRotateEvery = 24 * time.Hour
)

// inDevice reports whether one of the keys is in a device or service. The daemon makes no keys there.
func (t *Tokens) inDevice() bool {
	return slices.ContainsFunc(t.Keys, func(k TokenKey) bool {
		return isURI(k.Key) && !strings.HasPrefix(k.Key, "file:") && !strings.HasPrefix(k.Key, "softkms:")
	})
}

func (t *Tokens) completeRotation() {
	if t.RotateEvery == nil {
		every := defaultRotateEvery
		if t.inDevice() {
			every = 0
		}
		t.RotateEvery = &every
	}
}

func (t *Tokens) validateRotation() error {
	switch every := *t.RotateEvery; {
	case every != 0 && every < minRotateEvery:
		return fmt.Errorf("tokens.rotate_every: want 0 or at least %s, not %s", minRotateEvery, every)
	case every != 0 && t.inDevice():
		return errors.New("tokens.rotate_every: a key in a device is replaced by hand: leave this out, or set it to 0")
	}
	return nil
}

// StoreIsShared reports whether several nodes may use the store at once.
func (c *Config) StoreIsShared() bool { return !strings.HasPrefix(c.Store, "bolt:") }
