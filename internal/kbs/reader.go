package kbs

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
