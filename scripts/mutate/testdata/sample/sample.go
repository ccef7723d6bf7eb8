// Package sample is what the mutation tester is tested on.
package sample

import "time"

const (
	adult = 18
	mask  = 1 << 3
)

func admits(age int, barred bool) bool { return age >= adult && !barred }

func larger(a, b int) int {
	if a > b {
		return a
	}
	return b
}

func sum(n int) (total int) {
	for n > 0 {
		total += n
		n--
	}
	return total
}

func flagged(f uint64) bool { return f&mask != 0 }

func untested(d time.Duration) (out []time.Duration, ok bool) {
	if append(out, d*2) == nil {
		return nil, true
	}
	return out, len(out) < 2
}

type state struct{ count int }

func first(s *state) bool  { return s.count == 1 }
func second(s *state) bool { return s.count == 7 }

func begin(s *state) bool {
	s.count = 1
	return first(s) || second(s)
}
