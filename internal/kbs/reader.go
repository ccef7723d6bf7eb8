package kbs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxDepth is twice what any message of the protocol needs.
	maxDepth = 16
	// maxMembers of one object; a report has 29.
	maxMembers = 64
	// maxName of a member, in bytes.
	maxName = 64
)

// Errors of the reader name no input: it may be evidence, and it was chosen by a
// stranger.
var (
	errSyntax   = errors.New("not JSON")
	errDepth    = errors.New("nested too deeply")
	errTwice    = errors.New("a name is given twice")
	errMembers  = errors.New("too many members")
	errTrailing = errors.New("something follows the end")
	errUnicode  = errors.New("text is not Unicode")
	errLong     = errors.New("longer than its limit")
	errInteger  = errors.New("not an integer of its width")
)

// reader pulls typed values out of JSON, left to right, in one pass. It holds no
// tree, so its memory is that of the values asked for.
type reader struct {
	data  []byte
	i     int
	depth int
}

// read runs f over the one value that body holds.
func read(body []byte, f func(r *reader) error) error {
	r := &reader{data: body}
	if err := f(r); err != nil {
		return err
	}
	r.space()
	if r.i != len(r.data) {
		return errTrailing
	}
	return nil
}

func (r *reader) space() {
	for r.i < len(r.data) {
		switch r.data[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

// peek gives the first byte of the next token, 0 at the end.
func (r *reader) peek() byte {
	r.space()
	if r.i == len(r.data) {
		return 0
	}
	return r.data[r.i]
}

func (r *reader) expect(c byte) error {
	if r.peek() != c {
		return errSyntax
	}
	r.i++
	return nil
}

func (r *reader) literal(word string) error {
	if len(r.data)-r.i < len(word) || string(r.data[r.i:r.i+len(word)]) != word {
		return errSyntax
	}
	r.i += len(word)
	return nil
}

// null consumes a null, if there is one.
func (r *reader) null() (bool, error) {
	if r.peek() != 'n' {
		return false, nil
	}
	return true, r.literal("null")
}

// object calls member for each name; member must consume the value.
func (r *reader) object(member func(name string) error) error {
	if err := r.expect('{'); err != nil {
		return err
	}
	if r.depth++; r.depth > maxDepth {
		return errDepth
	}
	var seen []string
	for first := true; ; first = false {
		if r.peek() == '}' && first {
			break
		}
		name, err := r.text(maxName)
		if err != nil {
			return err
		}
		for _, s := range seen {
			if s == name {
				return errTwice
			}
		}
		if len(seen) == maxMembers {
			return errMembers
		}
		seen = append(seen, name)
		if err := r.expect(':'); err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
		if r.peek() != ',' {
			break
		}
		r.i++
	}
	r.depth--
	return r.expect('}')
}

// array calls element for each value, at most limit times.
func (r *reader) array(limit int, element func(i int) error) error {
	if err := r.expect('['); err != nil {
		return err
	}
	if r.depth++; r.depth > maxDepth {
		return errDepth
	}
	for i := 0; ; i++ {
		if r.peek() == ']' && i == 0 {
			break
		}
		if i == limit {
			return errLong
		}
		if err := element(i); err != nil {
			return err
		}
		if r.peek() != ',' {
			break
		}
		r.i++
	}
	r.depth--
	return r.expect(']')
}

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

// byteList reads an array of integers below 256, of at most limit of them.
func (r *reader) byteList(limit int) ([]byte, error) {
	var out []byte
	err := r.array(limit, func(int) error {
		b, err := r.uint(math.MaxUint8)
		out = append(out, byte(b))
		return err
	})
	return out, err
}

// fill reads an array of exactly len(dst) bytes into dst.
func (r *reader) fill(dst []byte) error {
	n := 0
	err := r.array(len(dst), func(i int) error {
		b, err := r.uint(math.MaxUint8)
		dst[i], n = byte(b), i+1
		return err
	})
	if err == nil && n != len(dst) {
		return fmt.Errorf("%d bytes where %d belong", n, len(dst))
	}
	return err
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

// skip consumes any one value, by the same rules as a value that is wanted.
func (r *reader) skip() error {
	switch c := r.peek(); {
	case c == '{':
		return r.object(func(string) error { return r.skip() })
	case c == '[':
		return r.array(math.MaxInt, func(int) error { return r.skip() })
	case c == '"':
		_, err := r.text(math.MaxInt)
		return err
	case c == 'n':
		return r.literal("null")
	case c == 't':
		return r.literal("true")
	case c == 'f':
		return r.literal("false")
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	}
	return errSyntax
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

// raw gives the bytes of the next value, which skip has gone over.
func (r *reader) raw() (json.RawMessage, error) {
	r.space()
	start := r.i
	if err := r.skip(); err != nil {
		return nil, err
	}
	return json.RawMessage(r.data[start:r.i:r.i]), nil
}

// member is one line of the description of an object.
type member struct {
	name string
	// optional members may be missing or null.
	optional bool
	read     func() error
}

// members reads an object by its description and says how many members it had
// that the description does not name. strict refuses those.
func (r *reader) members(strict bool, table []member) (unknown int, err error) {
	var seen uint64
	err = r.object(func(name string) error {
		for i, m := range table {
			if m.name != name {
				continue
			}
			seen |= 1 << i
			if m.optional {
				if null, err := r.null(); null || err != nil {
					return err
				}
			}
			if err := m.read(); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			return nil
		}
		if unknown++; strict {
			return errors.New("a member is not known here")
		}
		return r.skip()
	})
	if err != nil {
		return 0, err
	}
	for i, m := range table {
		if seen&(1<<i) == 0 && !m.optional {
			return 0, fmt.Errorf("%s is missing", m.name)
		}
	}
	return unknown, nil
}
