package stepimport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	badger1 "github.com/dgraph-io/badger"
	options1 "github.com/dgraph-io/badger/options"
	badger2 "github.com/dgraph-io/badger/v2"
	options2 "github.com/dgraph-io/badger/v2/options"
)

// step-ca's tables are prefixes of badger's keys: each part of a key, the table and the key in it, stands behind its
// length in two octets, little endian.
func part(s string) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, uint16(min(len(s), 1<<16-1))), s...)
}

// keyOf returns what stands behind the table in a badger key; nil for the row that says that the table exists.
func keyOf(table, key []byte) []byte {
	if len(key) < len(table)+2 {
		return nil
	}
	return key[len(table)+2:]
}

// item is what both versions of badger call so.
type item interface {
	Key() []byte
	Value(do func([]byte) error) error
}

// rows is an iterator of badger.
type rows[I item] interface {
	Seek(key []byte)
	ValidForPrefix(prefix []byte) bool
	Next()
	Item() I
	Close()
}

func walk[I item](r rows[I], table string, do func(key, value []byte) error) error {
	defer r.Close()
	prefix := part(table)
	for r.Seek(prefix); r.ValidForPrefix(prefix); r.Next() {
		i := r.Item()
		key := keyOf(prefix, i.Key())
		if key == nil {
			continue
		}
		if err := i.Value(func(value []byte) error { return do(key, value) }); err != nil {
			return err
		}
	}
	return nil
}

// opened says what an error of badger means, which has the same texts in both versions.
func opened(err error) error {
	switch text := err.Error(); {
	case errors.Is(err, syscall.EWOULDBLOCK), strings.Contains(text, "Another process is using this Badger database"), strings.Contains(text, "directory lock"):
		return fmt.Errorf("%w: stop it, and leave it stopped", ErrRunning)
	case strings.Contains(text, badger2.ErrReplayNeeded.Error()), strings.Contains(text, badger2.ErrTruncateNeeded.Error()):
		return fmt.Errorf("%w: step-ca was killed before it had closed its database: start it once more, and stop it with SIGTERM", ErrHome)
	default:
		return fmt.Errorf("%w: %w", ErrHome, err)
	}
}

type badger2Engine struct{ *badger2.DB }

func openBadger2(dir, values string) (_ engine, err error) {
	defer damaged(&err)
	o := badger2.DefaultOptions(dir).WithReadOnly(true).WithLogger(nil).WithValueLogLoadingMode(options2.FileIO)
	if values != "" {
		o = o.WithValueDir(values)
	}
	db, err := badger2.Open(o)
	if err != nil {
		return nil, opened(err)
	}
	return badger2Engine{db}, nil
}

func (e badger2Engine) each(table string, do func(key, value []byte) error) (err error) {
	defer damaged(&err)
	return e.View(func(tx *badger2.Txn) error {
		return walk[*badger2.Item](tx.NewIterator(badger2.DefaultIteratorOptions), table, do)
	})
}

func (e badger2Engine) get(table, key string) (value []byte, err error) {
	defer damaged(&err)
	err = e.View(func(tx *badger2.Txn) error {
		i, err := tx.Get(append(part(table), part(key)...))
		if err != nil {
			return err
		}
		value, err = i.ValueCopy(nil)
		return err
	})
	if errors.Is(err, badger2.ErrKeyNotFound) {
		return nil, nil
	}
	return value, err
}

type badger1Engine struct{ *badger1.DB }

func openBadger1(dir, values string) (_ engine, err error) {
	defer damaged(&err)
	o := badger1.DefaultOptions(dir).WithReadOnly(true).WithLogger(nil).WithValueLogLoadingMode(options1.FileIO)
	if values != "" {
		o = o.WithValueDir(values)
	}
	db, err := badger1.Open(o)
	if err != nil {
		return nil, opened(err)
	}
	return badger1Engine{db}, nil
}

func (e badger1Engine) each(table string, do func(key, value []byte) error) (err error) {
	defer damaged(&err)
	return e.View(func(tx *badger1.Txn) error {
		return walk[*badger1.Item](tx.NewIterator(badger1.DefaultIteratorOptions), table, do)
	})
}

func (e badger1Engine) get(table, key string) (value []byte, err error) {
	defer damaged(&err)
	err = e.View(func(tx *badger1.Txn) error {
		i, err := tx.Get(append(part(table), part(key)...))
		if err != nil {
			return err
		}
		value, err = i.ValueCopy(nil)
		return err
	})
	if errors.Is(err, badger1.ErrKeyNotFound) {
		return nil, nil
	}
	return value, err
}
