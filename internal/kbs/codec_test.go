package kbs

import (
	"bytes"
	"crypto/aes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"

	josecipher "github.com/go-jose/go-jose/v4/cipher"
	"pgregory.net/rapid"
)

// TestCanonicalVector is the one of trustee's own tests.
func TestCanonicalVector(t *testing.T) {
	got := object{"c": object{"d": text("e")}, "b": number(1), "a": text("test")}.appendJCS(nil)
	if string(got) != `{"a":"test","b":1,"c":{"d":"e"}}` {
		t.Errorf("%s", got)
	}
	const want = "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
	if sum := sha512.Sum384(got); hex.EncodeToString(sum[:]) != want {
		t.Errorf("%x", sum)
	}
}

// TestDeviceBindingVector is what devices bind, which have no additional evidence
// beside them; computed outside of this project.
func TestDeviceBindingVector(t *testing.T) {
	key, err := ParseTEEKey(json.RawMessage(`{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := bind(object{"nonce": text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")}, key, SHA384)
	const want = "cc12bca78af3e46d9ddb68eb97122047abb52703f1cec34bd0adc12c5ac8c860b1ada6c8729e54f2172908b77572364a"
	if err != nil || hex.EncodeToString(got[:48]) != want {
		t.Errorf("%x, %v", got, err)
	}
}

// TestCanonicalText has the example of RFC 8785, section 3.2.4, and what
// encoding/json would escape.
func TestCanonicalText(t *testing.T) {
	for in, want := range map[string]string{
		"\u20ac$\u000f\nA'B\"\\\\\"/": `"€$\u000f\nA'B\"\\\\\"/"`,
		"<&>\u2028\u2029\x7f":         "\"<&>\u2028\u2029\x7f\"",
		"\b\t\n\f\r\x00\x1f":          `"\b\t\n\f\r\u0000\u001f"`,
		"":                            `""`,
	} {
		if got := string(appendText(nil, in)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestCanonicalOrder is that of UTF-16 units (RFC 8785, section 3.2.3): a
// character beyond the first plane sorts before U+FB33.
func TestCanonicalOrder(t *testing.T) {
	o := object{}
	for _, name := range []string{"\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"} {
		o[name] = number(0)
	}
	want := `{"\r":0,"1":0,"` + "\u0080\":0,\"\u00f6\":0,\"\u20ac\":0,\"\U0001f600\":0,\"\ufb33\":0}"
	if got := string(o.appendJCS(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestWrapKeyVectors: RFC 3394, sections 4.1 to 4.6.
func TestWrapKeyVectors(t *testing.T) {
	const kek = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
	const key = "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
	for _, c := range []struct {
		kek, key int
		want     string
	}{
		{16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
		{24, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"},
		{32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
		{24, 24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"},
		{32, 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"},
		{32, 32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
	} {
		got, err := wrapKey(unhex(t, kek)[:c.kek], unhex(t, key)[:c.key])
		if err != nil || !bytes.Equal(got, unhex(t, c.want)) {
			t.Errorf("%d under %d: %X, %v", c.key, c.kek, got, err)
		}
	}
	for _, n := range []int{0, 8, 15, 17, 33} {
		if _, err := wrapKey(make([]byte, 32), make([]byte, n)); err == nil {
			t.Errorf("wrapped %d bytes", n)
		}
	}
	if _, err := wrapKey(make([]byte, 31), make([]byte, 32)); err == nil {
		t.Error("wrapped under 31 bytes")
	}
}

func TestWrapKeyUnwrapsElsewhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kek := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "kek")
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "key")
		wrapped, err := wrapKey(kek, key)
		if err != nil {
			rt.Fatal(err)
		}
		block, err := aes.NewCipher(kek)
		if err != nil {
			rt.Fatal(err)
		}
		if got, err := josecipher.KeyUnwrap(block, wrapped); err != nil || !bytes.Equal(got, key) {
			rt.Fatalf("%v", err)
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReaderIntegers(t *testing.T) {
	for in, want := range map[string]uint64{"0": 0, "7": 7, "18446744073709551615": math.MaxUint64, " 9007199254740993 ": 1<<53 + 1} {
		var got uint64
		if err := read([]byte(in), func(r *reader) (err error) { got, err = r.uint(math.MaxUint64); return err }); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-0", "-1", "+1", "00", "01", "1.0", "1e0", "1E0", "18446744073709551616", "99999999999999999999999", "0x1", "١", "null", `"1"`, "1 1", "1,"} {
		if err := read([]byte(in), func(r *reader) error { _, err := r.uint(math.MaxUint64); return err }); err == nil {
			t.Errorf("accepted %s", in)
		}
	}
	if err := read([]byte("256"), func(r *reader) error { _, err := r.uint(255); return err }); err == nil {
		t.Error("accepted 256 as a byte")
	}
}

func TestReaderText(t *testing.T) {
	for in, want := range map[string]string{
		`""`: "", `"a\"\\\/\b\f\n\r\t"`: "a\"\\/\b\f\n\r\t", `"\u00e9\u20AC"`: "é€", `"\ud83d\ude00"`: "😀", "\"é😀\"": "é😀", `"\u0000"`: "\x00",
	} {
		var got string
		if err := read([]byte(in), func(r *reader) (err error) { got, err = r.text(100); return err }); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		`"`, `"\`, `"\u`, `"\u12`, `"\u12g4"`, `"\x"`, `"\ud800"`, `"\ud800x"`, `"\ud800\u0041"`, `"\ude00"`, `"\ude00\ud83d"`, "\"\x00\"", "\"\n\"", "\"\x1f\"",
		"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "'a'", `a`, `"a" b`,
	} {
		if err := read([]byte(in), func(r *reader) error { _, err := r.text(100); return err }); err == nil {
			t.Errorf("accepted %q", in)
		}
	}
	for _, in := range []string{`"abcd"`, `"é\u00e9"`, `"abc\u0064"`} {
		if err := read([]byte(in), func(r *reader) error { _, err := r.text(3); return err }); err == nil {
			t.Errorf("accepted %s as three bytes", in)
		}
		if err := read([]byte(in), func(r *reader) error { _, err := r.text(4); return err }); err != nil {
			t.Errorf("refused %s as four bytes", in)
		}
	}
}

// TestReaderLimits: what bounds memory and stack.
func TestReaderLimits(t *testing.T) {
	skip := func(in string) error { return read([]byte(in), (*reader).skip) }
	if err := skip(strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)); err != nil {
		t.Error(err)
	}
	for _, in := range []string{
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1),
		strings.Repeat("[", 1<<20),
		`{"` + strings.Repeat("n", maxName+1) + `":1}`,
	} {
		if err := skip(in); err == nil {
			t.Errorf("accepted %.40s…", in)
		}
	}
	var dst [3]byte
	for _, in := range []string{"[1,2]", "[1,2,3,4]", "[]", "[1,2,]", "[,]", "[1 2 3]", "1"} {
		if err := read([]byte(in), func(r *reader) error { return r.fill(dst[:]) }); err == nil {
			t.Errorf("filled three bytes from %s", in)
		}
	}
}

// corpus of JSON, good and bad, for the table and for the fuzz target.
var corpus = []string{
	`{}`, `[]`, `null`, `true`, `false`, `0`, `-0.5e+3`, `""`, `{"a":[1,{"b":null}],"c":"\u00e9"}`, " \t\r\n[ ] ",
	``, `{`, `}`, `[1,]`, `{"a":1,}`, `{"a"}`, `{a:1}`, `{"a":1 "b":2}`, `01`, `1.`, `.5`, `1e`, `-`, `+1`, `nul`, `truefalse`, `"\q"`, `[1]]`, "\ufeff{}", `NaN`, `/**/1`,
}

func TestReaderIsStrict(t *testing.T) {
	for _, in := range corpus {
		if err := read([]byte(in), (*reader).skip); (err == nil) != json.Valid([]byte(in)) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// FuzzReader: whatever this reader takes is JSON, and its text is what
// encoding/json reads.
func FuzzReader(f *testing.F) {
	for _, in := range corpus {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := read(data, (*reader).skip); err == nil && !json.Valid(data) {
			t.Errorf("took %q", data)
		}
		var got, want string
		if err := read(data, func(r *reader) (err error) { got, err = r.text(math.MaxInt); return err }); err != nil {
			return
		}
		if err := json.Unmarshal(data, &want); err != nil || got != want {
			t.Errorf("%q read as %q, elsewhere %q (%v)", data, got, want, err)
		}
		var again string
		if err := json.Unmarshal(appendText(nil, got), &again); err != nil || again != got {
			t.Errorf("%q written as %q", got, appendText(nil, got))
		}
	})
}
