package kbs

import (
	"encoding/base64"
	"errors"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string of at most limit bytes after decoding. Half a surrogate
// pair is refused, where encoding/json would put another character in its place:
// the text may be hashed.
func (r *reader) text(limit int) (string, error) {
	if err := r.expect('"'); err != nil {
		return "", err
	}
	start := r.i
	for r.i < len(r.data) && plain(r.data[r.i]) {
		r.i++
	}
	if r.i < len(r.data) && r.data[r.i] == '"' { // no escape, all ASCII: the common case
		if r.i-start > limit {
			return "", errLong
		}
		s := string(r.data[start:r.i])
		r.i++
		return s, nil
	}
	out := append([]byte(nil), r.data[start:r.i]...)
	for r.i < len(r.data) {
		if len(out) > limit {
			return "", errLong
		}
		switch c := r.data[r.i]; {
		case c == '"':
			r.i++
			return string(out), nil
		case c == '\\':
			x, err := r.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, x)
		case c < 0x20:
			return "", errSyntax
		case c < utf8.RuneSelf:
			out = append(out, c)
			r.i++
		default:
			x, n := utf8.DecodeRune(r.data[r.i:])
			if x == utf8.RuneError && n < 2 {
				return "", errUnicode
			}
			out = append(out, r.data[r.i:r.i+n]...)
			r.i += n
		}
	}
	return "", errSyntax
}

func plain(c byte) bool { return c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' }

func (r *reader) escape() (rune, error) {
	r.i++
	if r.i == len(r.data) {
		return 0, errSyntax
	}
	c := r.data[r.i]
	r.i++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
	default:
		return 0, errSyntax
	}
	x, err := r.hex4()
	if err != nil || !utf16.IsSurrogate(x) {
		return x, err
	}
	if r.literal(`\u`) != nil {
		return 0, errUnicode
	}
	low, err := r.hex4()
	if err != nil {
		return 0, err
	}
	if x = utf16.DecodeRune(x, low); x == utf8.RuneError {
		return 0, errUnicode
	}
	return x, nil
}

func (r *reader) hex4() (x rune, err error) {
	if len(r.data)-r.i < 4 {
		return 0, errSyntax
	}
	for range 4 {
		c := r.data[r.i]
		r.i++
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errSyntax
		}
		x = x<<4 | rune(c)
	}
	return x, nil
}

// uint reads a non-negative integer written as such: no sign, fraction, exponent
// or leading zero, none of which the protocol's own encoder writes.
func (r *reader) uint(limit uint64) (uint64, error) {
	r.space()
	start := r.i
	var v uint64
	for r.i < len(r.data) && r.data[r.i] >= '0' && r.data[r.i] <= '9' {
		d := uint64(r.data[r.i] - '0')
		if v > (math.MaxUint64-d)/10 {
			return 0, errInteger
		}
		v = v*10 + d
		r.i++
	}
	switch {
	case r.i == start, r.i-start > 1 && r.data[start] == '0', v > limit:
		return 0, errInteger
	case r.i < len(r.data) && (r.data[r.i] == '.' || r.data[r.i] == 'e' || r.data[r.i] == 'E'):
		return 0, errInteger
	}
	return v, nil
}

// base64 reads text in enc, in its one canonical form, of at most limit bytes
// after decoding.
func (r *reader) base64(enc *base64.Encoding, limit int) ([]byte, error) {
	s, err := r.text(enc.EncodedLen(limit))
	if err != nil {
		return nil, err
	}
	out, err := decode64(enc, s)
	if len(out) > limit {
		return nil, errLong
	}
	return out, err
}

// decode64 refuses what the standard decoder tolerates: line breaks inside, and
// padding bits that are not zero.
func decode64(enc *base64.Encoding, s string) ([]byte, error) {
	out, err := enc.Strict().DecodeString(s)
	if err != nil || enc.EncodedLen(len(out)) != len(s) {
		return nil, errors.New("not base64 in its canonical form")
	}
	return out, nil
}

// number consumes a number of RFC 8259's grammar; its value is nobody's business.
func (r *reader) number() error {
	digits := func() int {
		start := r.i
		for r.i < len(r.data) && r.data[r.i] >= '0' && r.data[r.i] <= '9' {
			r.i++
		}
		return r.i - start
	}
	at := func(set string) bool {
		for j := range len(set) {
			if r.i < len(r.data) && r.data[r.i] == set[j] {
				r.i++
				return true
			}
		}
		return false
	}
	at("-")
	start := r.i
	n := digits()
	if n == 0 || n > 1 && r.data[start] == '0' {
		return errSyntax
	}
	if at(".") && digits() == 0 {
		return errSyntax
	}
	if at("eE") {
		at("+-")
		if digits() == 0 {
			return errSyntax
		}
	}
	return nil
}
