package door

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is key material. It prints as "[redacted]" under every verb, in logs and in JSON; only the sealed codec of this
// package writes its bytes. Whoever made a Secret clears it.
type Secret []byte

func (Secret) String() string { return redacted }

// GoString covers %#v, which ignores String.
func (Secret) GoString() string { return redacted }

// Format covers %x, %d and the other verbs that would print the bytes.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps the bytes out of JSON, YAML and text encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText refuses, so that a redacted secret never comes back as a key.
func (*Secret) UnmarshalText([]byte) error {
	return errors.New("decoding a secret: only a sealed grant carries one")
}

// LogValue covers log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Clear overwrites the bytes. It is best effort: copies made by the runtime are out of reach.
func (s Secret) Clear() { clear(s) }
