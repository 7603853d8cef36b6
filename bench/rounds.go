package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// contender is one of those that do the same work. round prepares, and then measures, one round.
type contender struct {
	name  string
	round func(context.Context) (sample, error)
}

// series is what a contender measured in all rounds.
type series struct {
	name    string
	samples []sample
}

// results are those of all contenders.
type results []*series

// named returns a contender's; it took part.
func (r results) named(name string) *series {
	return r[slices.IndexFunc(r, func(s *series) bool { return s.name == name })]
}

// over is how many times the rate of another contender one has.
func (r results) over(name, other string) float64 {
	return r.named(name).rate() / r.named(other).rate()
}

// fastest returns the one with the highest rate, of those that took part.
func (r results) fastest(names ...string) *series {
	var all []*series
	for _, name := range names {
		all = append(all, r.named(name))
	}
	return slices.MaxFunc(all, func(a, b *series) int { return cmp.Compare(a.rate(), b.rate()) })
}

// alternate runs the rounds. Each begins with another contender, and every other one goes backwards, so that
// none always follows the same other.
func alternate(ctx context.Context, work string, rounds int, all []contender) (results, error) {
	settle()
	out := make(results, len(all))
	for i, c := range all {
		out[i] = &series{name: c.name}
	}
	for r := range rounds {
		for k := range all {
			i := (r/2 + k) % len(all)
			if r%2 == 1 {
				i = len(all) - 1 - i
			}
			s, err := all[i].round(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", work, all[i].name, err)
			}
			out[i].samples = append(out[i].samples, s)
		}
	}
	for _, s := range out {
		log.Printf("  %-28s %-22s %9.0f/s  p50 %-8s p99 %-8s cpu %s", work, s.name, s.rate(), tidy(s.p50()), tidy(s.p99()), tidy(s.cpu()))
	}
	return out, nil
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func of[T any](s *series, f func(sample) T) []T {
	var out []T
	for _, v := range s.samples {
		out = append(out, f(v))
	}
	return out
}

func (s *series) rates() []float64 { return of(s, func(v sample) float64 { return v.rate }) }
func (s *series) rate() float64    { return median(s.rates()) }
func (s *series) p50() time.Duration {
	return median(of(s, func(v sample) time.Duration { return v.p50 }))
}

func (s *series) p99() time.Duration {
	return median(of(s, func(v sample) time.Duration { return v.p99 }))
}

func (s *series) cpu() time.Duration {
	return median(of(s, func(v sample) time.Duration { return v.cpu }))
}

// tidy rounds a duration for people.
func tidy(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d >= time.Microsecond:
		return d.Round(100 * time.Nanosecond)
	default:
		return d
	}
}

// parallel calls f for 0 to n-1 on all cores, and returns an error of one of the calls.
func parallel(n int, f func(i int) error) error {
	var group errgroup.Group
	workers := runtime.NumCPU()
	for w := range workers {
		group.Go(func() error {
			for i := w; i < n; i += workers {
				if err := f(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (s *series) allocs() float64 { return median(of(s, func(v sample) float64 { return v.allocs })) }

// each is the time of one.
func (s *series) each() time.Duration { return time.Duration(float64(time.Second) / s.rate()) }
