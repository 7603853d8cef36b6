package migrate

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pkid/pkid/crl"
)

// Digest stands for a set of rows, whatever their order: the sum of their SHA-256, modulo 2^256. It tells what a copy
// lost or changed; it is not meant to withstand who chooses the rows.
type Digest struct {
	Rows uint64
	sum  [4]uint64 // the lowest first
}

func (d Digest) String() string {
	var b [32]byte
	for i, word := range d.sum {
		binary.BigEndian.PutUint64(b[24-8*i:], word)
	}
	return hex.EncodeToString(b[:])
}

// add takes in one more row.
func (d *Digest) add(row any) {
	h := sha256.New()
	write(h, reflect.ValueOf(row))
	sum := h.Sum(nil)
	carry := uint64(0)
	for i := range d.sum {
		d.sum[i], carry = bits.Add64(d.sum[i], binary.BigEndian.Uint64(sum[24-8*i:]), carry)
	}
	d.Rows++
}

// write hashes a value member by member, so that none can be forgotten, each with its length where that may differ. What
// means the same is written alike: a slice that is empty or nil, an instant in any time zone, a CRL in any parts.
func write(h hash.Hash, v reflect.Value) {
	switch x := v.Interface().(type) {
	case time.Time:
		number(h, uint64(x.Unix()))
		number(h, uint64(x.Nanosecond()))
		return
	case crl.DER:
		text(h, string(x.Bytes()))
		return
	case encoding.BinaryMarshaler: // netip.Addr
		b, err := x.MarshalBinary()
		if err != nil {
			panic(fmt.Sprintf("migrate: %T is always encodable: %v", x, err))
		}
		text(h, string(b))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			write(h, field)
		}
	case reflect.Pointer:
		if v.IsNil() {
			number(h, 0)
			return
		}
		number(h, 1)
		write(h, v.Elem())
	case reflect.Slice, reflect.Array:
		number(h, uint64(v.Len()))
		if v.Type().Elem().Kind() == reflect.Uint8 {
			octets := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(octets), v)
			h.Write(octets)
			return
		}
		for i := range v.Len() {
			write(h, v.Index(i))
		}
	case reflect.Map:
		number(h, uint64(v.Len()))
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			text(h, key.String())
			write(h, v.MapIndex(key))
		}
	case reflect.String:
		text(h, v.String())
	case reflect.Bool:
		if v.Bool() {
			number(h, 1)
		} else {
			number(h, 0)
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		number(h, v.Uint())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		number(h, uint64(v.Int()))
	default:
		panic(fmt.Sprintf("migrate: a row with a %s", v.Type()))
	}
}

func number(h hash.Hash, n uint64) {
	var b [8]byte
	h.Write(binary.BigEndian.AppendUint64(b[:0], n))
}

func text(h hash.Hash, s string) {
	number(h, uint64(len(s)))
	h.Write([]byte(s))
}
