package corim

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// The writer makes what RFC 8949 §4.2.1 calls deterministic: shortest heads, no open length, keys in the order of their bytes.

func head(major byte, n uint64) []byte {
	b := []byte{major << 5}
	switch {
	case n < 24:
		b[0] |= byte(n)
		return b
	case n < 1<<8:
		b[0] |= 24
		return append(b, byte(n))
	case n < 1<<16:
		b[0] |= 25
		return binary.BigEndian.AppendUint16(b, uint16(n))
	case n < 1<<32:
		b[0] |= 26
		return binary.BigEndian.AppendUint32(b, uint32(n))
	}
	b[0] |= 27
	return binary.BigEndian.AppendUint64(b, n)
}

func encodeInt(n int64) []byte {
	if n < 0 {
		return head(majorNint, uint64(-1-n))
	}
	return head(majorUint, uint64(n))
}

func encodeBytes(b []byte) []byte { return append(head(majorBytes, uint64(len(b))), b...) }

func encodeText(s string) []byte { return append(head(majorText, uint64(len(s))), s...) }

func encodeTag(number uint64, content []byte) []byte {
	return append(head(majorTag, number), content...)
}

func encodeArray(members ...[]byte) []byte {
	return append(head(majorArray, uint64(len(members))), bytes.Join(members, nil)...)
}

// encodeMap writes the pairs whose value is not nil.
func encodeMap(pairs map[int64][]byte) []byte {
	var list [][]byte
	for key, value := range pairs {
		if value != nil {
			list = append(list, append(encodeInt(key), value...))
		}
	}
	// Keys differ, and none is the beginning of another, so that the order of the pairs is that of the keys.
	slices.SortFunc(list, bytes.Compare)
	return append(head(majorMap, uint64(len(list))), bytes.Join(list, nil)...)
}
