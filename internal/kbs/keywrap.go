package kbs

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// wrapIV is the initial value of RFC 3394, section 2.2.3.1.
const wrapIV = 0xa6a6a6a6a6a6a6a6

// wrapKey is AES Key Wrap (RFC 3394, section 2.2.1, in the form by index). key is
// a multiple of 8 bytes and at least 16.
func wrapKey(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	if len(key) < 16 || len(key)%8 != 0 {
		return nil, fmt.Errorf("wrapping a key: %d bytes cannot be wrapped", len(key))
	}
	n := len(key) / 8
	out := make([]byte, 8+len(key))
	binary.BigEndian.PutUint64(out, wrapIV)
	copy(out[8:], key)
	var b [aes.BlockSize]byte
	for t := range 6 * n {
		r := out[8*(t%n+1):][:8]
		copy(b[:8], out[:8])
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		var step [8]byte
		binary.BigEndian.PutUint64(step[:], uint64(t+1))
		subtle.XORBytes(out[:8], b[:8], step[:])
		copy(r, b[8:])
	}
	return out, nil
}
