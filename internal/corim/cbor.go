package corim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Bounds of every piece of CBOR, nested ones in byte strings included.
const (
	maxDepth = 16
	maxItems = 1 << 16
)

// Major types of CBOR (RFC 8949 §3.1).
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
	majorOther = 7 // false, true, null, undefined and floats, none of which is used here
)

// item is one data item. It points into the bytes that it was read from.
type item struct {
	major byte
	n     uint64 // value, or number of the tag
	text  []byte // of byte and text strings
	list  []item // of an array; keys and values by turns of a map; what a tag is put on
	raw   []byte // the item's own encoding
}

// decode reads exactly one item.
func decode(b []byte) (item, error) {
	p := parser{rest: b, left: maxItems}
	it, err := p.item(maxDepth)
	if err == nil && len(p.rest) > 0 {
		err = errors.New("something follows the item")
	}
	if err != nil {
		return item{}, fmt.Errorf("reading CBOR: %w", err)
	}
	return it, nil
}

type parser struct {
	rest []byte
	left int // how many more items there may be
}

func (p *parser) item(depth int) (item, error) {
	if p.left--; p.left < 0 || depth == 0 {
		return item{}, errors.New("too many items, or too deep")
	}
	start := p.rest
	it, err := p.head()
	if err != nil {
		return item{}, err
	}
	switch it.major {
	case majorBytes, majorText:
		if it.n > uint64(len(p.rest)) {
			return item{}, errors.New("a string ends after the end")
		}
		it.text, p.rest = p.rest[:it.n], p.rest[it.n:]
		if it.major == majorText && !utf8.Valid(it.text) {
			return item{}, errors.New("text that is not UTF-8")
		}
	case majorArray, majorMap, majorTag:
		count := it.n
		if it.major == majorTag {
			count = 1
		}
		// Every item has a byte at least, so a list cannot be announced longer than what is there.
		if count > uint64(len(p.rest)) {
			return item{}, errors.New("a list ends after the end")
		}
		if it.major == majorMap {
			count *= 2
		}
		for range count {
			member, err := p.item(depth - 1)
			if err != nil {
				return item{}, err
			}
			it.list = append(it.list, member)
		}
		if it.major == majorMap {
			if err := it.keys(); err != nil {
				return item{}, err
			}
		}
	}
	it.raw = start[:len(start)-len(p.rest)]
	return it, nil
}

// head reads major type and argument, which has to be in its shortest form.
func (p *parser) head() (item, error) {
	b, err := p.take(1)
	if err != nil {
		return item{}, err
	}
	it, info := item{major: b[0] >> 5}, b[0]&31
	if info < 24 {
		it.n = uint64(info)
		if it.major == majorOther && (info < 20 || info > 23) {
			return item{}, errors.New("a simple value that means nothing")
		}
		return it, nil
	}
	if info > 27 || it.major == majorOther && info == 24 {
		return item{}, errors.New("an open length, or a reserved form")
	}
	if b, err = p.take(1 << (info - 24)); err != nil {
		return item{}, err
	}
	var wide [8]byte
	copy(wide[8-len(b):], b)
	it.n = binary.BigEndian.Uint64(wide[:])
	least := [4]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
	if it.major != majorOther && it.n < least {
		return item{}, errors.New("a number or length in a longer form than it needs")
	}
	return it, nil
}

func (p *parser) take(n int) ([]byte, error) {
	if n > len(p.rest) {
		return nil, errors.New("it ends too early")
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b, nil
}

// keys makes sure that each key is a number or text and there once. A number has one encoding, so that its bytes stand for it.
func (it item) keys() error {
	seen := make(map[string]bool, len(it.list)/2)
	for i := 0; i < len(it.list); i += 2 {
		k := it.list[i]
		if k.major != majorUint && k.major != majorNint && k.major != majorText {
			return errors.New("a map's key is neither number nor text")
		}
		if seen[string(k.raw)] {
			return errors.New("a map has a key twice")
		}
		seen[string(k.raw)] = true
	}
	return nil
}

// get finds the value of a number among a map's keys; nothing is found in what is no map.
func (it item) get(key uint64) (item, bool) {
	if it.major != majorMap {
		return item{}, false
	}
	for i := 0; i < len(it.list); i += 2 {
		if it.list[i].major == majorUint && it.list[i].n == key {
			return it.list[i+1], true
		}
	}
	return item{}, false
}

// untag returns what the tag is put on.
func (it item) untag(number uint64) (item, bool) {
	if it.major != majorTag || it.n != number {
		return item{}, false
	}
	return it.list[0], true
}

// int64 is the value of a signed number.
func (it item) int64() (int64, bool) {
	if it.major > majorNint || it.n > 1<<62 {
		return 0, false
	}
	if it.major == majorNint {
		return -1 - int64(it.n), true
	}
	return int64(it.n), true
}
