package door

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
)

const (
	maxDepth = 4
	maxNames = 64
)

// ReadBody reads a request's body, which r bounds. declared is its Content-Length: it saves the room that io.ReadAll would
// try out, and is believed for as much as an ordinary request has.
func ReadBody(r io.Reader, declared int64) ([]byte, error) {
	var body bytes.Buffer
	body.Grow(int(min(max(declared, 0), ordinaryBody)) + bytes.MinRead)
	_, err := body.ReadFrom(r)
	return body.Bytes(), err
}

const ordinaryBody = 16 << 10

type checked interface{ check() error }

func decode[T checked](body []byte, limit int, what string) (T, error) {
	var zero, v T
	if len(body) > limit {
		return zero, fmt.Errorf("decoding %s: longer than %d bytes", what, limit)
	}
	if err := checkNames(body); err != nil {
		return zero, fmt.Errorf("decoding %s: %w", what, err)
	}
	// Not encoding/json: that takes three times as long, and a twentieth of a release.
	if err := json.Unmarshal(body, &v, json.RejectUnknownMembers(true)); err != nil {
		// The text of a JSON error may quote the input, and the input may be evidence.
		return zero, fmt.Errorf("decoding %s: not the JSON object expected here", what)
	}
	if err := v.check(); err != nil {
		return zero, fmt.Errorf("decoding %s: %w", what, err)
	}
	return v, nil
}

// checkNames walks the bytes once, without allocating per value, and refuses before anything is decoded: a name
// given twice, a name that only matches when case is ignored, null, and nesting deeper than any of our messages. It
// judges no syntax beyond that; the decoder that follows does.
func checkNames(body []byte) error {
	if i := firstNonSpace(body); i == len(body) || body[i] != '{' {
		return errors.New("not an object")
	}
	type level struct {
		object bool
		from   int // index of this object's first name in names
		name   bool
	}
	var stack [maxDepth]level
	var names [maxNames][]byte
	depth, used := 0, 0
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case '{', '[':
			if depth == maxDepth {
				return errors.New("nested too deeply")
			}
			stack[depth] = level{object: c == '{', from: used, name: c == '{'}
			depth++
		case '}', ']':
			if depth == 0 {
				return errors.New("unbalanced brackets")
			}
			depth--
			used = stack[depth].from
		case ',':
			if depth > 0 {
				stack[depth-1].name = stack[depth-1].object
			}
		case 'n':
			return errors.New("null is not a value here")
		case '"':
			end := i + 1
			for end < len(body) && body[end] != '"' {
				if body[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(body) {
				return errors.New("unterminated string")
			}
			if depth > 0 && stack[depth-1].name {
				name := body[i+1 : end]
				for _, b := range name {
					if b != '_' && (b < 'a' || b > 'z') {
						return errors.New("a name has other characters than a-z and _")
					}
				}
				for _, other := range names[stack[depth-1].from:used] {
					if bytes.Equal(name, other) {
						return errors.New("a name is given twice")
					}
				}
				if used == maxNames {
					return errors.New("too many names")
				}
				names[used] = name
				used++
				stack[depth-1].name = false
			}
			i = end
		}
	}
	return nil
}

func firstNonSpace(body []byte) int {
	for i, c := range body {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return i
		}
	}
	return len(body)
}
