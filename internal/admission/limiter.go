package admission

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/pkid/pkid/internal/recent"
)

// maxLimited is how many keys a Limiter remembers: about 10 MB. What is forgotten begins anew, so a stranger with more
// addresses than this escapes the limit of one; that is what gates are for.
const maxLimited = 1 << 16

// Limiter gives each key an allowance for a minute, which may be used up at once and comes back evenly. The nil Limiter
// allows everything.
type Limiter[K comparable] struct {
	limit rate.Limit
	burst int
	used  atomic.Bool // by anybody yet
	kept  *recent.Cache[K, *rate.Limiter]
}

// NewLimiter makes a limiter of so many in a minute; nil if that is 0.
func NewLimiter[K comparable](perMinute int) *Limiter[K] {
	if perMinute == 0 {
		return nil
	}
	return &Limiter[K]{limit: rate.Limit(perMinute) / 60, burst: perMinute, kept: recent.New[K, *rate.Limiter](maxLimited)}
}

// Take uses up one of the key's allowance. If there is none left it returns when there will be.
func (l *Limiter[K]) Take(key K, now time.Time) (after time.Duration, ok bool) {
	if l == nil {
		return 0, true
	}
	l.used.Store(true)
	bucket, known := l.kept.Get(key)
	if !known {
		bucket = rate.NewLimiter(l.limit, l.burst)
		l.kept.Put(key, bucket)
	}
	if bucket.AllowN(now, 1) {
		return 0, true
	}
	return l.until(bucket.TokensAt(now)), false
}

// Left reports whether the key has something left, and if not when it will, without using any of it.
func (l *Limiter[K]) Left(key K, now time.Time) (after time.Duration, ok bool) {
	if l == nil || !l.used.Load() {
		return 0, true
	}
	bucket, known := l.kept.Get(key)
	if !known {
		return 0, true
	}
	tokens := bucket.TokensAt(now)
	if tokens >= 1 {
		return 0, true
	}
	return l.until(tokens), false
}

// until is how long it takes to come from so many tokens to one.
func (l *Limiter[K]) until(tokens float64) time.Duration {
	return max(time.Duration((1-tokens)/float64(l.limit)*float64(time.Second)), time.Second)
}

// Address is what counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that a site gives to one of
// its networks, in which anybody has as many addresses as they like. The zero Address stands for what is none.
type Address struct{ prefix netip.Prefix }

// AddressOf reads the address of a peer, with or without a port.
func AddressOf(text string) Address {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return Address{}
		}
		ip = withPort.Addr()
	}
	return addressOf(ip)
}

func addressOf(ip netip.Addr) Address {
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // of a valid address and length
	return Address{prefix}
}

func peerOf(addr net.Addr) Address {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		if ip, ok := netip.AddrFromSlice(tcp.IP); ok {
			return addressOf(ip)
		}
	}
	return AddressOf(addr.String())
}
