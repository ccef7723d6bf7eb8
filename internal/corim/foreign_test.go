package corim

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func foreign(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/foreign/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignFiles reads documents that others' programs wrote and signed; see testdata/ORIGIN. What is not known here is named
// and passed over, except a profile, which changes what all the rest means.
func TestForeignFiles(t *testing.T) {
	digest := func(s string) Hex {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	day := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }
	key := func(name string) PublicKey {
		k, err := ParsePublicKey(foreign(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	es256, es384 := key("signed-corim-es256.pem"), key("snp-es384.pem")

	road := Environment{Class: Name{Tag: tagBytes, Bytes: []byte("acme-implementation-id-000000001")}, Vendor: "ACME", Model: "RoadRunner"}
	element := Key{Name: Name{Tag: tagUUID, Bytes: digest("31fb5abf023e4992aa4e95f9c1503bfa")}}
	var values []Value
	for _, d := range []string{
		"87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7", "0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f",
		"a3a5e715f0cc574a73c3f9bebb6bc24f32ffd5b67b387244c2c909da779a1478",
	} {
		values = append(values, Value{Environment: road, Key: element, Digests: []Digest{{SHA256, digest(d)}}})
	}
	launch, least := uint64(KeySNPMeasurement), uint64(4)
	chip := SNP()
	chip.Vendor = "AMD"
	for _, c := range []struct {
		file string
		key  PublicKey
		at   time.Time
		want Signed
	}{
		{"signed-good-corim.cbor", es256, day(2024, 6, 1), Signed{
			Signer: "ACME Ltd signing key", NotBefore: day(2021, 12, 31), NotAfter: day(2025, 12, 31),
			Document: Document{
				ID: "test corim id", Passed: []string{"member 0 of a CoMID"},
				Tags: []Tag{{ID: "43bbe37f-2e61-4b33-aed3-53cff1428b16", Author: "ACME Ltd.", Values: values}},
			},
		}},
		{"snp-es384.cbor", es384, day(2026, 6, 1), Signed{
			Signer: "ACME signer",
			Document: Document{
				ID: "acme.example/guest/1", Profile: ProfileSNP, NotBefore: day(2026, 1, 1), NotAfter: day(2027, 1, 1), Author: "ACME Ltd.",
				Passed: []string{"member 0 of a CoMID", "member 1 of a version", "triples of another kind (1)"},
				Tags: []Tag{{ID: "43bbe37f-2e61-4b33-aed3-53cff1428b16", Version: 2, Author: "ACME Ltd.", Values: []Value{
					{Environment: chip, Key: Key{Number: &launch}, Digests: []Digest{{SHA384, bytes.Repeat([]byte{0xaa}, 48)}}},
					{
						Environment: Environment{Vendor: "ACME", Model: "OVMF"}, Key: Key{Text: "firmware"}, Raw: Hex("line"), MinSVN: &least,
						Digests: []Digest{{SHA256, bytes.Repeat([]byte{0xbb}, 32)}}, Version: "2024.05", Name: "OVMF.fd",
					},
				}}},
			},
		}},
	} {
		body := foreign(t, c.file)
		got, err := Verify(body, []PublicKey{es384, es256}, c.at)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		c.want.Key, c.want.Statement = c.key.ID(), got.Statement
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.file, diff)
		}
		if _, err := Verify(body, []PublicKey{c.key}, day(2027, 6, 1)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "not good after") {
			t.Errorf("%s after its end: %v", c.file, err)
		}
		if _, err := Verify(body, []PublicKey{newKey(t).Public()}, c.at); err == nil || !strings.Contains(err.Error(), "signed by none of the given keys") {
			t.Errorf("%s under another key: %v", c.file, err)
		}
	}
	_, err := Verify(foreign(t, "signed-example-corim.cbor"), []PublicKey{es256}, day(2024, 6, 1))
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "its profile is not known here") {
		t.Errorf("a profile that is not known: %v", err)
	}
}
