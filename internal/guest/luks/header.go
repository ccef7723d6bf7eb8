package luks

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/eosc-siesta/siestad/internal/door"
)

// The layout, in bytes. Changing any of these makes every existing volume unreadable.
const (
	DataOffset   = 1 << 20
	sealSize     = 4 << 10
	HeaderSize   = DataOffset - sealSize
	metadataSize = 16 << 10
	binarySize   = 4 << 10
	jsonSize     = metadataSize - binarySize
	keyslotsSize = 512 << 10
	keyslotSize  = 258048 // 64 bytes of volume key in 4000 stripes, rounded up to 4 KiB
	sectorSize   = 4096
	iterations   = 1000 // the passphrase is 64 random bytes: nothing to stretch
	cipher       = "aes-xts-plain64"
)

const sealLabel = "siesta/luks-header/v1\n"

// Header is a judged header: its bytes have passed every check of this package.
type Header struct{ region []byte }

// Hash is what the broker keeps on record: hexadecimal SHA-256 of the region.
func (h *Header) Hash() string {
	sum := sha256.Sum256(h.region)
	return hex.EncodeToString(sum[:])
}

// ReadHeader reads the header from a disk, once, and judges that copy. Both the MAC and the
// hash must be right.
func ReadHeader(disk io.ReaderAt, macKey door.Secret, wantHash string) (*Header, error) {
	if len(macKey) != door.HeaderMACKeySize || len(wantHash) != hex.EncodedLen(sha256.Size) {
		return nil, errors.New("reading the header: the grant names no MAC key or no hash")
	}
	raw := make([]byte, DataOffset)
	if _, err := disk.ReadAt(raw, 0); err != nil {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	h := &Header{region: raw[:HeaderSize]}
	if !hmac.Equal(raw[HeaderSize:], seal(h.region, macKey)) {
		return nil, errors.New("the header is not authentic: its MAC is not the one that the granted key gives")
	}
	if h.Hash() != wantHash {
		return nil, errors.New("the header is authentic but is not the one on record: an older header of this volume")
	}
	if err := judge(h.region); err != nil {
		return nil, fmt.Errorf("the header is authentic but is refused: %w", err)
	}
	return h, nil
}

// seal is the block after the region.
func seal(region []byte, macKey door.Secret) []byte {
	mac := hmac.New(sha256.New, macKey)
	mac.Write(door.LP([]byte(sealLabel)))
	mac.Write(region)
	block := make([]byte, sealSize)
	mac.Sum(block[:copy(block, sealLabel)])
	return block
}

// metadata is the part of a LUKS2 JSON area that may exist at all. A name that is not
// here (tokens' content, reencryption, requirements, flags, integrity, priorities) is
// refused by the decoder.
type metadata struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		AF      struct {
			Type    string `json:"type"`
			Stripes int    `json:"stripes"`
			Hash    string `json:"hash"`
		} `json:"af"`
		Area struct {
			Type       string `json:"type"`
			Offset     string `json:"offset"`
			Size       string `json:"size"`
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
		} `json:"area"`
		KDF struct {
			Type       string `json:"type"`
			Hash       string `json:"hash"`
			Iterations int    `json:"iterations"`
			Salt       []byte `json:"salt"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Tokens   map[string]struct{} `json:"tokens"`
	Segments map[string]struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		IVTweak    string `json:"iv_tweak"`
		Encryption string `json:"encryption"`
		SectorSize int    `json:"sector_size"`
	} `json:"segments"`
	Digests map[string]struct {
		Type       string   `json:"type"`
		Keyslots   []string `json:"keyslots"`
		Segments   []string `json:"segments"`
		Hash       string   `json:"hash"`
		Iterations int      `json:"iterations"`
		Salt       []byte   `json:"salt"`
		Digest     []byte   `json:"digest"`
	} `json:"digests"`
	Config struct {
		JSONSize     string `json:"json_size"`
		KeyslotsSize string `json:"keyslots_size"`
	} `json:"config"`
}

// judge accepts one shape of header and no other.
func judge(region []byte) error {
	if len(region) != HeaderSize {
		return fmt.Errorf("%d bytes", len(region))
	}
	first, err := area(region, 0, "LUKS\xba\xbe")
	if err != nil {
		return fmt.Errorf("first copy: %w", err)
	}
	second, err := area(region, metadataSize, "SKUL\xba\xbe")
	if err != nil {
		return fmt.Errorf("second copy: %w", err)
	}
	// cryptsetup takes the copy with the higher sequence number: there must be
	// nothing to choose.
	if !bytes.Equal(first, second) || !bytes.Equal(sequence(region, 0), sequence(region, metadataSize)) {
		return errors.New("the two copies of the metadata differ")
	}
	if len(bytes.Trim(region[2*metadataSize+keyslotsSize:], "\x00")) != 0 {
		return errors.New("something stands between keyslots and data")
	}
	return judgeJSON(first)
}

func sequence(region []byte, at int) []byte { return region[at+16 : at+24] }

// area checks one binary header (magic, version, size, place, checksum) and returns
// its JSON without the zeros after it.
func area(region []byte, at int, magic string) ([]byte, error) {
	b := region[at : at+metadataSize]
	const checksumAt, checksumSize = 448, 64
	switch {
	case string(b[:6]) != magic || binary.BigEndian.Uint16(b[6:]) != 2:
		return nil, errors.New("not LUKS version 2")
	case binary.BigEndian.Uint64(b[8:]) != metadataSize:
		return nil, errors.New("metadata of another size")
	case binary.BigEndian.Uint64(b[256:]) != uint64(at):
		return nil, errors.New("metadata of another place")
	case string(bytes.TrimRight(b[72:104], "\x00")) != "sha256":
		return nil, errors.New("checksum is not SHA-256")
	}
	sum := sha256.New()
	sum.Write(b[:checksumAt])
	sum.Write(make([]byte, checksumSize))
	sum.Write(b[checksumAt+checksumSize:])
	if !bytes.Equal(sum.Sum(nil), b[checksumAt:checksumAt+sha256.Size]) {
		return nil, errors.New("checksum is wrong")
	}
	text, rest, found := bytes.Cut(b[binarySize:], []byte{0})
	if !found || len(bytes.Trim(rest, "\x00")) != 0 {
		return nil, errors.New("something follows the JSON")
	}
	return text, nil
}

func judgeJSON(text []byte) error {
	var m metadata
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return fmt.Errorf("the metadata says more than this guest knows: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the metadata")
	}
	slot, ok := m.Keyslots["0"]
	if len(m.Keyslots) != 1 || !ok {
		return fmt.Errorf("%d keyslots instead of keyslot 0 alone", len(m.Keyslots))
	}
	segment, ok := m.Segments["0"]
	if len(m.Segments) != 1 || !ok {
		return fmt.Errorf("%d segments instead of segment 0 alone", len(m.Segments))
	}
	digest, ok := m.Digests["0"]
	if len(m.Digests) != 1 || !ok {
		return fmt.Errorf("%d digests instead of digest 0 alone", len(m.Digests))
	}
	is := func(list []string) bool { return len(list) == 1 && list[0] == "0" }
	for _, check := range []struct {
		ok   bool
		what string
	}{
		{segment.Type == "crypt" && segment.Encryption == cipher, fmt.Sprintf("the segment is %.16q with cipher %.32q", segment.Type, segment.Encryption)},
		{segment.Offset == fmt.Sprint(DataOffset) && segment.Size == "dynamic" && segment.IVTweak == "0" && segment.SectorSize == sectorSize, "the segment lies elsewhere or has other sectors"},
		{slot.Type == "luks2" && slot.KeySize == 64, "the keyslot holds another kind of key"},
		{slot.KDF.Type == "pbkdf2" && slot.KDF.Hash == "sha256" && slot.KDF.Iterations == iterations && len(slot.KDF.Salt) == 32, "the keyslot derives its key otherwise"},
		{slot.AF.Type == "luks1" && slot.AF.Stripes == 4000 && slot.AF.Hash == "sha256", "the keyslot is split otherwise"},
		{slot.Area.Type == "raw" && slot.Area.Encryption == cipher && slot.Area.KeySize == 64, "the keyslot is encrypted otherwise"},
		{slot.Area.Offset == fmt.Sprint(2*metadataSize) && slot.Area.Size == fmt.Sprint(keyslotSize), "the keyslot lies elsewhere"},
		{digest.Type == "pbkdf2" && digest.Hash == "sha256" && digest.Iterations >= iterations && len(digest.Salt) == 32 && len(digest.Digest) == 32, "the digest is another kind"},
		{is(digest.Keyslots) && is(digest.Segments), "the digest belongs to other keyslots or segments"},
		{len(m.Tokens) == 0, "there are tokens"},
		{m.Config.JSONSize == fmt.Sprint(jsonSize) && m.Config.KeyslotsSize == fmt.Sprint(keyslotsSize), "the areas have other sizes"},
	} {
		if !check.ok {
			return errors.New(check.what)
		}
	}
	return nil
}
