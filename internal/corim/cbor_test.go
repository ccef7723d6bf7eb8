package corim

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestStrictCBOR(t *testing.T) {
	for name, c := range map[string]struct {
		hex  string
		good bool
	}{
		"nothing":              {"", false},
		"number":               {"1903e8", true},
		"smallest of one byte": {"1818", true},
		"one byte for two":     {"190017", false},
		"two for four":         {"1a0000ffff", false},
		"four for eight":       {"1b00000000ffffffff", false},
		"small in a byte":      {"1801", false},
		"largest":              {"1bffffffffffffffff", true},
		"cut number":           {"1903", false},
		"cut string":           {"4301", false},
		"endless string":       {"5f4101ff", false},
		"endless array":        {"9f01ff", false},
		"endless map":          {"bf0102ff", false},
		"break alone":          {"ff", false},
		"reserved":             {"1c", false},
		"huge array":           {"9affffffff", false},
		"huge string":          {"5bffffffffffffffff", false},
		"huge map":             {"bb7fffffffffffffff", false},
		"map":                  {"a201020304", true},
		"key twice":            {"a201020103", false},
		"text key twice":       {"a2616101616102", false},
		"number and text":      {"a20102613103", true},
		"key is bytes":         {"a1410102", false},
		"key is a list":        {"a1800102", false},
		"not UTF-8":            {"61ff", false},
		"float":                {"fb3ff0000000000000", true},
		"half":                 {"f93c00", true},
		"null":                 {"f6", true},
		"simple":               {"f0", false},
		"simple in a byte":     {"f8ff", false},
		"two items":            {"0101", false},
		"sixteen deep":         {"81818181818181818181818181818101"[:30] + "01", true},
		"seventeen deep":       {"8181818181818181818181818181818101", false},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(b); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestItemsAreCounted(t *testing.T) {
	list := append(head(majorArray, maxItems), bytes.Repeat([]byte{0}, maxItems)...)
	if _, err := decode(list); err == nil {
		t.Error("more items than there may be were read")
	}
	if _, err := decode(append(head(majorArray, maxItems-1), bytes.Repeat([]byte{0}, maxItems-1)...)); err != nil {
		t.Error(err)
	}
}

// Whatever can be read can be written, and is the same when it is read again.
func FuzzDocument(f *testing.F) {
	f.Add(write(full()))
	// An instance that is a date (tag 0) would be one without a name.
	dated := Environment{Instance: Name{Tag: 1, Bytes: encodeTag(0, encodeText("2026-11-24T12:00:00Z"))}}
	f.Add(write(Document{ID: "id", Tags: []Tag{{ID: "dated", Values: []Value{{Environment: dated}}}}}))
	f.Add(encodeTag(tagUnsigned, encodeMap(map[int64][]byte{0: encodeBytes(make([]byte, 16)), 1: encodeArray(encodeTag(505, encodeBytes(nil)))})))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := readDocument(payload)
		if err != nil {
			return
		}
		for _, tag := range d.Tags {
			for _, v := range tag.Values {
				if v.Subject() == "" {
					t.Fatalf("%+v is of nothing", v)
				}
			}
		}
		again, err := readDocument(write(d))
		if err != nil {
			t.Fatalf("%v cannot be read again: %v", d, err)
		}
		d.Passed = nil
		if diff := cmp.Diff(d, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What comes from a stranger never verifies, whatever it is, and breaks nothing.
func FuzzVerify(f *testing.F) {
	key := newKey(f)
	body, err := Sign(full(), "example.org", newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(encodeTag(500, encodeTag(502, body)))
	f.Add(write(full()))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := Verify(body, []PublicKey{key.Public()}, noon); err == nil {
			t.Fatal("verified under a key that never signed")
		}
	})
}
