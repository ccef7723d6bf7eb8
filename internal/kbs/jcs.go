package kbs

import (
	"slices"
	"strconv"
	"unicode/utf16"
)

// value is JSON that is hashed: text, a small integer, or an object.
type value interface{ appendJCS(out []byte) []byte }

type (
	text   string
	number uint32 // below 2^53, where every writer of numbers agrees
	object map[string]value
)

func (t text) appendJCS(out []byte) []byte { return appendText(out, string(t)) }

func (n number) appendJCS(out []byte) []byte { return strconv.AppendUint(out, uint64(n), 10) }

// appendJCS writes the canonical form of RFC 8785: no space, members in the order
// of their names' UTF-16 units (section 3.2.3).
func (o object) appendJCS(out []byte) []byte {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	})
	out = append(out, '{')
	for i, name := range names {
		if i > 0 {
			out = append(out, ',')
		}
		out = o[name].appendJCS(append(appendText(out, name), ':'))
	}
	return append(out, '}')
}

// appendText writes a string as RFC 8785 section 3.2.2.2 wants it: escaped as
// little as JSON allows. encoding/json would escape <, > and &, and give the
// digest of something else.
func appendText(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\t':
			out = append(out, '\\', 't')
		case '\n':
			out = append(out, '\\', 'n')
		case '\f':
			out = append(out, '\\', 'f')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			if c < 0x20 {
				out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
				continue
			}
			out = append(out, c)
		}
	}
	return append(out, '"')
}
