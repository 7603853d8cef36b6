package stepimport

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

type boltEngine struct{ *bolt.DB }

func openBolt(path string) (_ engine, err error) {
	defer damaged(&err)
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: stop it, and leave it stopped", ErrRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHome, err)
	}
	return boltEngine{db}, nil
}

func (e boltEngine) each(table string, do func(key, value []byte) error) (err error) {
	defer damaged(&err)
	return e.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte(table)); b != nil {
			return b.ForEach(do)
		}
		return nil
	})
}

func (e boltEngine) get(table, key string) (value []byte, err error) {
	defer damaged(&err)
	err = e.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte(table)); b != nil {
			value = bytes.Clone(b.Get([]byte(key)))
		}
		return nil
	})
	return value, err
}

// damaged turns a panic of an engine, which meets a file that is not as it was written, into an error.
func damaged(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: its database is damaged: %v", ErrHome, r)
	}
}
