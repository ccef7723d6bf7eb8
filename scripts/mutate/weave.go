package main

import (
	"bytes"
	"cmp"
	"slices"
)

// weave returns the source with every mutant in it, all of them switched off until one is asked for.
func weave(source []byte, mutants []mutant) []byte {
	type piece struct {
		at, other, order int
		opens            bool
		edit
	}
	var pieces []piece
	for i, m := range mutants {
		for _, e := range m.edits {
			pieces = append(pieces, piece{e.lo, e.hi, i, true, e})
			if !e.instead {
				pieces = append(pieces, piece{e.hi, e.lo, -i, false, e})
			}
		}
	}
	// At one place what closes comes first, the inner before the outer; then what opens, the outer before the inner.
	slices.SortStableFunc(pieces, func(a, b piece) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		if a.opens != b.opens {
			if a.opens {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.other, a.other), cmp.Compare(a.order, b.order))
	})
	var out bytes.Buffer
	done := 0
	for _, p := range pieces {
		out.Write(source[done:p.at])
		done = p.at
		switch {
		case p.instead:
			out.WriteString(p.before)
			done = p.hi
		case p.opens:
			out.WriteString(p.before)
		default:
			out.WriteString(p.behind)
		}
	}
	out.Write(source[done:])
	return out.Bytes()
}
