package corim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func keyOf(t testing.TB, signer any) PrivateKey {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newKey(t testing.TB) PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, key)
}

func newECKey(t testing.TB, curve elliptic.Curve) PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, key)
}

// full uses everything that can be written.
func full() Document {
	number, least := uint64(KeySNPMeasurement), uint64(7)
	return Document{
		ID: "example.org/documents/1", Profile: ProfileSNP, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour), Author: "ACME",
		Tags: []Tag{{
			ID: "launch", Version: 3, Author: "calculator 1", Values: []Value{
				{Environment: SNP(), Key: Key{Number: &number}, Digests: []Digest{{SHA384, bytes.Repeat([]byte{0xaa}, 48)}}},
				{
					Environment: Environment{Vendor: "ACME", Model: "guest", Layer: &number, Index: &least, Group: Name{Tag: tagUUID, Bytes: make([]byte, 16)}},
					Key:         Key{Text: "kernel"}, Raw: Hex("line"), MinSVN: &least, Version: "6.12", Name: "vmlinuz",
					Digests: []Digest{{SHA256, make([]byte, 32)}, {SHA512, make([]byte, 64)}},
				},
			},
		}, {
			ID: "other", Values: []Value{{Environment: Environment{Instance: Name{Tag: tagBytes, Bytes: []byte{1}}}, SVN: &least, Key: Key{Name: SNP().Class}}},
		}},
	}
}

func TestWhatIsSignedIsReadBack(t *testing.T) {
	for name, key := range map[string]PrivateKey{"EdDSA": newKey(t), "ES256": newECKey(t, elliptic.P256()), "ES384": newECKey(t, elliptic.P384())} {
		t.Run(name, func(t *testing.T) {
			body, err := Sign(full(), "example.org", key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Verify(body, []PublicKey{newKey(t).Public(), key.Public()}, noon)
			if err != nil {
				t.Fatal(err)
			}
			want := Signed{Statement: got.Statement, Key: key.Public().ID(), Signer: "example.org", NotBefore: full().NotBefore, NotAfter: full().NotAfter, Document: full()}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if !got.Until().Equal(full().NotAfter) {
				t.Errorf("it ends at %s", got.Until())
			}
		})
	}
}

func TestPayloadsAreDeterministic(t *testing.T) {
	if !bytes.Equal(write(full()), write(full())) {
		t.Error("two encodings of one document differ")
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	key := newKey(t)
	for name, broken := range map[string]func(*Document){
		"no id":           func(d *Document) { d.ID = "" },
		"no tag":          func(d *Document) { d.Tags = nil },
		"unknown profile": func(d *Document) { d.Profile = "https://example.org/other" },
		"line break":      func(d *Document) { d.Author = "ACME\nsigner: somebody" },
		"short digest":    func(d *Document) { d.Tags[0].Values[0].Digests[0].Value = []byte{1} },
		"one hash twice":  func(d *Document) { v := &d.Tags[0].Values[0]; v.Digests = append(v.Digests, v.Digests[0]) },
		"a dated instance": func(d *Document) {
			d.Tags[0].Values[0].Environment = Environment{Instance: Name{Tag: 1, Bytes: encodeTag(0, encodeText("2026-11-24T12:00:00Z"))}}
		},
		"no environment":   func(d *Document) { d.Tags[0].Values[0].Environment = Environment{} },
		"ends beforehand":  func(d *Document) { d.NotBefore = d.NotAfter.Add(time.Second) },
		"larger than read": func(d *Document) { d.Tags[0].Values[0].Raw = make([]byte, MaxSize) },
	} {
		d := full()
		broken(&d)
		if _, err := Sign(d, "example.org", key); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Sign(full(), "", key); err == nil {
		t.Error("signed by nobody")
	}
	if _, err := Sign(full(), "example.org", PrivateKey{}); err == nil {
		t.Error("signed without a key")
	}
}

func TestNoChangedBitIsAccepted(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	body, err := Sign(full(), "example.org", key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range body {
		for bit := range 8 {
			mutant := bytes.Clone(body)
			mutant[i] ^= 1 << bit
			if _, err := Verify(mutant, []PublicKey{key.Public()}, noon); err == nil {
				t.Fatalf("accepted with bit %d of byte %d changed", bit, i)
			}
		}
		if _, err := Verify(body[:i], []PublicKey{key.Public()}, noon); err == nil {
			t.Fatalf("accepted when cut after %d bytes", i)
		}
	}
	if _, err := Verify(append(body, 0), []PublicKey{key.Public()}, noon); err == nil {
		t.Error("accepted with a byte after it")
	}
}

// parts of a COSE_Sign1, to make what Sign does not.
type parts struct {
	alg         int64
	contentType string
	headers     map[int64][]byte // beside those two; nil takes one away
	unprotected []byte
	payload     []byte
	detached    bool
	wrap        func([]byte) []byte
}

func plainParts() parts {
	return parts{alg: algEdDSA, contentType: contentType, payload: write(full()), unprotected: encodeMap(nil), headers: map[int64][]byte{
		headerMeta: encodeBytes(encodeMap(map[int64][]byte{0: encodeMap(map[int64][]byte{0: encodeText("example.org")})})),
	}}
}

func (p parts) sign(t *testing.T, key PrivateKey) []byte {
	t.Helper()
	p.headers[headerAlg], p.headers[headerContentType] = encodeInt(p.alg), encodeText(p.contentType)
	protected := encodeMap(p.headers)
	signature, err := key.sign(toBeSigned(protected, p.payload))
	if err != nil {
		t.Fatal(err)
	}
	payload := encodeBytes(p.payload)
	if p.detached {
		payload = []byte{0xf6}
	}
	body := encodeTag(tagSign1, encodeArray(encodeBytes(protected), p.unprotected, payload, encodeBytes(signature)))
	if p.wrap != nil {
		body = p.wrap(body)
	}
	return body
}

func TestShapes(t *testing.T) {
	key := newKey(t)
	claims := func(pairs map[int64][]byte) func(*parts) {
		return func(p *parts) { p.headers = map[int64][]byte{headerCWT: encodeMap(pairs)} }
	}
	both := func(begin, end int64, pairs map[int64][]byte) func(*parts) {
		return func(p *parts) {
			p.headers[headerMeta] = encodeBytes(encodeMap(map[int64][]byte{
				0: encodeMap(map[int64][]byte{0: encodeText("example.org")}), 1: encodeMap(map[int64][]byte{0: encodeInt(begin), 1: encodeInt(end)}),
			}))
			p.headers[headerCWT] = encodeMap(pairs)
		}
	}
	now := noon.Unix()
	for name, c := range map[string]struct {
		change func(*parts)
		want   string // of the refusal; empty if it is good
	}{
		"as it should be":          {func(*parts) {}, ""},
		"wrapped as in old drafts": {func(p *parts) { p.wrap = func(b []byte) []byte { return encodeTag(500, encodeTag(502, b)) } }, ""},
		"old content type":         {func(p *parts) { p.contentType = contentTypeOld }, ""},
		"certificates unprotected": {func(p *parts) { p.unprotected = encodeMap(map[int64][]byte{33: encodeBytes([]byte("x"))}) }, ""},
		"a stranger's key id":      {func(p *parts) { p.headers[headerKeyID] = encodeBytes([]byte("of somebody else")) }, ""},
		"CWT claims":               {claims(map[int64][]byte{1: encodeText("example.org"), 4: encodeInt(noon.Unix() + 1), 5: encodeInt(noon.Unix())}), ""},
		"claims that ended":        {claims(map[int64][]byte{1: encodeText("example.org"), 4: encodeInt(noon.Unix() - 1)}), "not good after"},
		"claims not yet begun":     {claims(map[int64][]byte{1: encodeText("example.org"), 5: encodeInt(noon.Unix() + 1)}), "not good before"},
		"claims of nobody":         {claims(map[int64][]byte{4: encodeInt(noon.Unix() + 1)}), "iss"},
		"meta and claims":          {both(now, now, map[int64][]byte{1: encodeText("example.org"), 4: encodeInt(now + 1), 5: encodeInt(now - 1)}), ""},
		"meta, claims ended":       {both(now, now, map[int64][]byte{1: encodeText("example.org"), 4: encodeInt(now - 1)}), "not good after"},
		"meta, claims not begun":   {both(now, now, map[int64][]byte{1: encodeText("example.org"), 5: encodeInt(now + 1)}), "not good before"},
		"claims, meta ended":       {both(now-2, now-1, map[int64][]byte{1: encodeText("example.org"), 4: encodeInt(now + 1)}), "not good after"},
		"claims, meta not begun":   {both(now+1, now+2, map[int64][]byte{1: encodeText("example.org"), 5: encodeInt(now - 1)}), "not good before"},
		"meta, claims of another":  {both(now, now, map[int64][]byte{1: encodeText("example.com")}), "different signers"},
		"meta, claims of nobody":   {both(now, now, map[int64][]byte{4: encodeInt(now + 1)}), "iss"},
		"no signer":                {func(p *parts) { p.headers = map[int64][]byte{} }, "who signed it"},
		"another algorithm":        {func(p *parts) { p.alg = -37 }, "algorithm"},
		"no algorithm":             {func(p *parts) { p.alg = 0 }, "algorithm"},
		"the algorithm of no key":  {func(p *parts) { p.alg = algES256 }, "none of the given keys"},
		"another content":          {func(p *parts) { p.contentType = "application/json" }, "content type"},
		"critical header":          {func(p *parts) { p.headers[headerCrit] = encodeArray(encodeInt(8)) }, "critical"},
		"hash envelope":            {func(p *parts) { p.headers[headerPayloadHash] = encodeInt(-16) }, "only the hash"},
		"detached":                 {func(p *parts) { p.detached = true }, "detached"},
		"unprotected is no map":    {func(p *parts) { p.unprotected = encodeArray() }, "parts"},
		"payload without its tag":  {func(p *parts) { p.payload = p.payload[3:] }, "tag 501"},
		"payload is no CBOR":       {func(p *parts) { p.payload = []byte("{}") }, "reading CBOR"},
		"no signature at all":      {func(p *parts) { p.wrap = func([]byte) []byte { return write(full()) } }, "not signed"},
		"none, wrapped":            {func(p *parts) { p.wrap = func([]byte) []byte { return encodeTag(500, write(full())) } }, "not signed"},
		"a MAC instead":            {func(p *parts) { p.wrap = func(b []byte) []byte { return encodeTag(17, b[1:]) } }, "COSE_Sign1"},
		"too large":                {func(p *parts) { p.payload = make([]byte, MaxSize) }, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			p := plainParts()
			c.change(&p)
			_, err := Verify(p.sign(t, key), []PublicKey{key.Public(), newECKey(t, elliptic.P256()).Public()}, noon)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want a refusal with %q", err, c.want)
			}
		})
	}
}

// Nobody signed the unprotected header, the tags around and, of an ECDSA signature (r, s), which of s and n-s it is: none of
// them makes another statement. Another key and another payload do.
func TestStatement(t *testing.T) {
	key, other := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P256())
	plain := plainParts()
	plain.alg = algES256
	wrapped := plain
	wrapped.wrap = func(b []byte) []byte { return encodeTag(500, encodeTag(502, b)) }
	padded := plain
	padded.unprotected = encodeMap(map[int64][]byte{33: encodeBytes([]byte("x"))})
	turned := plain
	turned.wrap = func(b []byte) []byte {
		b = bytes.Clone(b)
		s := b[len(b)-32:]
		new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
		return b
	}
	longer := plain
	d := full()
	d.ID += "0"
	longer.payload = write(d)
	seen := map[[32]byte]string{}
	for _, c := range []struct {
		name  string
		parts parts
		key   PrivateKey
		want  int // statements so far
	}{
		{"plain", plain, key, 1},
		{"signed again", plain, key, 1},
		{"wrapped", wrapped, key, 1},
		{"padded", padded, key, 1},
		{"turned", turned, key, 1},
		{"of another key", plain, other, 2},
		{"of another payload", longer, key, 3},
	} {
		got, err := Verify(c.parts.sign(t, c.key), []PublicKey{key.Public(), other.Public()}, noon)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if seen[got.Statement] = c.name; len(seen) != c.want {
			t.Errorf("%s: %d statements, want %d", c.name, len(seen), c.want)
		}
	}
}

func TestTime(t *testing.T) {
	key := newKey(t)
	body, err := Sign(full(), "example.org", key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   time.Time
		good bool
	}{{noon.Add(-time.Hour), true}, {noon.Add(time.Hour), true}, {noon.Add(-time.Hour - time.Second), false}, {noon.Add(time.Hour + time.Second), false}, {time.Time{}, false}} {
		if _, err := Verify(body, []PublicKey{key.Public()}, c.at); (err == nil) != c.good {
			t.Errorf("at %s: %v", c.at, err)
		}
	}
}

func TestZeroKeysVerifyNothing(t *testing.T) {
	body, err := Sign(full(), "example.org", newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]PublicKey{nil, {{}}, {newKey(t).Public()}} {
		if _, err := Verify(body, keys, noon); !errors.Is(err, ErrInvalid) {
			t.Errorf("accepted under %v: %v", keys, err)
		}
	}
}

// Others' documents have more in them than is read here. It is named, and changes nothing.
func TestWhatIsPassedOver(t *testing.T) {
	comid := encodeMap(map[int64][]byte{
		0: encodeText("en-GB"), 1: encodeMap(map[int64][]byte{0: encodeTag(tagUUID, encodeBytes(make([]byte, 16))), 7: encodeInt(1)}),
		3: encodeArray(), -2: encodeInt(1), 1<<63 - 1: encodeInt(1),
		4: encodeMap(map[int64][]byte{
			0: encodeArray(encodeArray(encodeMap(map[int64][]byte{0: encodeMap(map[int64][]byte{1: encodeText("ACME")})}), encodeArray(
				encodeMap(map[int64][]byte{5: encodeInt(1), 1: encodeMap(map[int64][]byte{
					13: encodeArray(), 4: encodeTag(563, encodeArray()), 0: encodeMap(map[int64][]byte{0: encodeText("1.0"), 1: encodeInt(1)}),
				})}),
				encodeMap(map[int64][]byte{1: encodeMap(nil), 2: encodeArray()})))),
			3: encodeArray(),
		}),
	})
	members := [][]byte{
		encodeInt(0), encodeBytes(make([]byte, 16)), encodeInt(1), encodeArray(encodeTag(505, encodeBytes(nil)), encodeTag(tagComid, encodeBytes(comid))),
		encodeInt(2), encodeArray(), head(majorUint, 1<<63), encodeInt(0), encodeText("0\nsigned by"), encodeInt(0),
	}
	got, err := readDocument(encodeTag(tagUnsigned, append(head(majorMap, uint64(len(members)/2)), bytes.Join(members, nil)...)))
	if err != nil {
		t.Fatal(err)
	}
	want := Document{
		ID:   "00000000-0000-0000-0000-000000000000",
		Tags: []Tag{{ID: "00000000-0000-0000-0000-000000000000", Values: []Value{{Environment: Environment{Vendor: "ACME"}, Version: "1.0"}}}},
		Passed: []string{
			"a tag of another kind (505)", "member 0 of a CoMID", "member 3 of a CoMID", "member 9223372036854775807 of a CoMID", "member -2 of a CoMID",
			"member 7 of a tag's identity", "member 5 of a measurement", "member 1 of a version", "a raw value of another kind", "values of another kind (13)",
			"a measurement that counts only under another authority (authorized-by)", "triples of another kind (3)",
			"member 2 of the document", "member 9223372036854775808 of the document", `member "0\nsigned by" of the document`,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// One signature can hold as many kinds of what is passed over as there are numbers.
func TestPassedOverIsBounded(t *testing.T) {
	m := map[int64][]byte{0: encodeText("id"), 1: encodeArray(encodeTag(tagComid, encodeBytes(writeTag(full().Tags[0]))))}
	for i := range int64(2 * maxPassed) {
		m[100+i] = encodeInt(0)
	}
	d, err := readDocument(encodeTag(tagUnsigned, encodeMap(m)))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Passed) != maxPassed+1 || d.Passed[0] != "member 100 of the document" || d.Passed[maxPassed] != "and more" {
		t.Errorf("%d are named, %q", len(d.Passed), d.Passed)
	}
}

// The example of the specification, written here value by value, has the digest of the published file; see testdata/ORIGIN.
func TestPublishedExample(t *testing.T) {
	uuid := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
		if err != nil {
			t.Fatal(err)
		}
		return encodeBytes(b)
	}
	digest, err := hex.DecodeString("44aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b")
	if err != nil {
		t.Fatal(err)
	}
	comid := encodeMap(map[int64][]byte{
		1: encodeMap(map[int64][]byte{0: uuid("3f06af63-a93c-11e4-9797-00505690773f")}),
		2: encodeArray(encodeMap(map[int64][]byte{0: encodeText("ACME Inc."), 1: encodeTag(tagURI, encodeText("https://acme.example")), 2: encodeArray(encodeInt(0))})),
		4: encodeMap(map[int64][]byte{0: encodeArray(encodeArray(
			encodeMap(map[int64][]byte{0: encodeMap(map[int64][]byte{
				0: encodeTag(tagUUID, uuid("67b28b6c-34cc-40a1-9117-ab5b05911e37")), 1: encodeText("ACME Inc."), 2: encodeText("ACME RoadRunner"), 3: encodeInt(1),
			})}),
			encodeArray(encodeMap(map[int64][]byte{1: encodeMap(map[int64][]byte{
				0: encodeMap(map[int64][]byte{0: encodeText("1.0.0"), 1: encodeInt(16384)}), 2: encodeArray(encodeArray(encodeInt(SHA256), encodeBytes(digest))),
			})})),
		))}),
	})
	body := encodeTag(tagUnsigned, encodeMap(map[int64][]byte{
		0: uuid("284e6c3e-5d9f-4f6b-851f-5a4247f243a7"), 1: encodeArray(encodeTag(tagComid, encodeBytes(comid))),
	}))
	if got := fmt.Sprintf("%x", sha256.Sum256(body)); got != "c63c4704654f7633ef50887546c9f507d7a24d001417508d55240413dff95d7b" {
		t.Fatalf("the published file has other bytes than %x", body)
	}
	got, err := readDocument(body)
	if err != nil {
		t.Fatal(err)
	}
	layer := uint64(1)
	class, _ := decode(uuid("67b28b6c-34cc-40a1-9117-ab5b05911e37"))
	want := Document{ID: "284e6c3e-5d9f-4f6b-851f-5a4247f243a7", Tags: []Tag{{
		ID: "3f06af63-a93c-11e4-9797-00505690773f", Author: "ACME Inc.",
		Values: []Value{{
			Environment: Environment{Class: Name{Tag: tagUUID, Bytes: class.text}, Vendor: "ACME Inc.", Model: "ACME RoadRunner", Layer: &layer},
			Version:     "1.0.0", Digests: []Digest{{SHA256, digest}},
		}},
	}}, Passed: []string{"member 1 of a version"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// It is not signed, so it is of no use.
	if _, err := Verify(body, []PublicKey{newKey(t).Public()}, noon); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Error(err)
	}
}

func TestSNPEnvironment(t *testing.T) {
	if got := SNP().String(); got != "1.3.6.1.4.1.3704.3.1" {
		t.Error(got)
	}
}

func TestKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivateKey(der); err == nil {
		t.Error("an RSA key was taken")
	}
	if der, err = x509.MarshalPKIXPublicKey(weak.Public()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"RSA": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "nothing": nil,
		"two keys": bytes.Repeat(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 2),
	} {
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%s was taken for a key", name)
		}
	}
	secret := newKey(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, secret); got != "[redacted]" {
			t.Errorf("%s prints %s", format, got)
		}
	}
}
