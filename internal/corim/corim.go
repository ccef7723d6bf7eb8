package corim

import (
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MediaType is that of a signed document.
const MediaType = "application/rim+cose"

// MaxSize bounds a document before it is parsed.
const MaxSize = 128 << 10

// ProfileSNP is the profile under which the number of a measurement is the place of a field in an SEV-SNP report
// (draft-deeglaze-amd-sev-snp-corim-profile). A document with another profile is refused, as the draft wants it.
const ProfileSNP = "tag:amd.com,2025:snp-corim-profile"

// KeySNPMeasurement is the launch digest's number under ProfileSNP.
const KeySNPMeasurement = 641

// Hash algorithms of the Named Information registry that have a name here; others are known by number.
const (
	SHA256 = 1
	SHA384 = 7
	SHA512 = 8
)

// Document is what a document says, as far as this package understands it. Times are in seconds; a zero one is open.
type Document struct {
	ID        string    `json:"id"`
	Profile   string    `json:"profile,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// Author made the document.
	Author string `json:"author,omitempty"`
	Tags   []Tag  `json:"tags"`
	// Passed names what is there and was passed over.
	Passed []string `json:"passed_over,omitempty"`
}

// Tag is one CoMID: reference values and who put them together.
type Tag struct {
	ID      string  `json:"id"`
	Version uint64  `json:"version,omitempty"`
	Author  string  `json:"author,omitempty"`
	Values  []Value `json:"values"`
}

// Value is what one measured element of an environment may be.
type Value struct {
	Environment Environment `json:"environment"`
	Key         Key         `json:"key,omitzero"`
	// Digests are one thing under different algorithms. Another thing is another Value.
	Digests []Digest `json:"digests,omitempty"`
	Raw     Hex      `json:"raw,omitempty"`
	SVN     *uint64  `json:"svn,omitempty"`
	MinSVN  *uint64  `json:"min_svn,omitempty"`
	Version string   `json:"version,omitempty"`
	Name    string   `json:"name,omitempty"`
}

// Subject says in words of what the value is, such as "ACME OVMF, firmware, 2024.05".
func (v Value) Subject() string {
	parts := []string{v.Environment.String(), v.Key.String(), v.Name, v.Version}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// Environment is what is measured.
type Environment struct {
	Class    Name    `json:"class,omitzero"`
	Vendor   string  `json:"vendor,omitempty"`
	Model    string  `json:"model,omitempty"`
	Layer    *uint64 `json:"layer,omitempty"`
	Index    *uint64 `json:"index,omitempty"`
	Instance Name    `json:"instance,omitzero"`
	Group    Name    `json:"group,omitzero"`
}

// SNP is the environment that the security processor of a chip reports on.
//
// The profile's draft writes the identifier with its DER header; the tag's own definition (RFC 9090) says without, and that is
// what readers of such tags undo.
func SNP() Environment {
	return Environment{Class: Name{Tag: tagOID, Bytes: []byte{0x2b, 6, 1, 4, 1, 0x9c, 0x78, 3, 1}}}
}

// String is the environment in words, such as "ACME RoadRunner".
func (e Environment) String() string {
	out := ""
	add := func(what, s string) {
		if s == "" {
			return
		}
		if out != "" {
			out += " "
		}
		out += what + s
	}
	add("", e.Vendor)
	add("", e.Model)
	add("", e.Class.String())
	add("layer ", numberText(e.Layer))
	add("index ", numberText(e.Index))
	add("instance ", e.Instance.String())
	add("group ", e.Group.String())
	return out
}

func numberText(n *uint64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatUint(*n, 10)
}

// Key says which element of an environment is measured: by number, by text or by an identifier, or by none.
type Key struct {
	Text   string
	Number *uint64
	Name   Name
}

// IsZero reports that there is no key.
func (k Key) IsZero() bool { return k.Text == "" && k.Number == nil && k.Name.IsZero() }

func (k Key) String() string {
	switch {
	case k.Number != nil:
		return strconv.FormatUint(*k.Number, 10)
	case k.Text != "":
		return k.Text
	}
	return k.Name.String()
}

// MarshalText makes JSON of it as it prints.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Name is an identifier with the tag that says of what kind it is.
type Name struct {
	Tag   uint64
	Bytes []byte // contents, or the whole encoding where the tag is none of the three known
}

// IsZero reports that there is no identifier.
func (n Name) IsZero() bool { return n.Tag == 0 }

// Tags of identifiers.
const (
	tagUUID  = 37
	tagOID   = 111
	tagBytes = 560
)

func (n Name) String() string {
	switch n.Tag {
	case 0:
		return ""
	case tagUUID:
		return uuidText(n.Bytes)
	case tagOID:
		var oid asn1.ObjectIdentifier
		der := append([]byte{6, byte(len(n.Bytes))}, n.Bytes...)
		if rest, err := asn1.Unmarshal(der, &oid); err == nil && len(rest) == 0 && len(n.Bytes) < 128 {
			return oid.String()
		}
	}
	return fmt.Sprintf("%d(%x)", n.Tag, n.Bytes)
}

// MarshalText makes JSON of it as it prints.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func uuidText(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// Hex is bytes that are JSON as hexadecimal digits.
type Hex []byte

// MarshalText makes hexadecimal digits.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// Digest is a hash and its algorithm, a number of the Named Information registry or a name.
type Digest struct {
	Algorithm Algorithm `json:"algorithm"`
	Value     Hex       `json:"value"`
}

// Algorithm is the number of a hash algorithm.
type Algorithm uint64

func (a Algorithm) String() string {
	switch a {
	case SHA256:
		return "sha-256"
	case SHA384:
		return "sha-384"
	case SHA512:
		return "sha-512"
	}
	return "hash " + strconv.FormatUint(uint64(a), 10)
}

// MarshalText makes JSON of it as it prints.
func (a Algorithm) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// size is how many bytes a digest has; 0 where that is not known.
func (a Algorithm) size() int {
	switch a {
	case SHA256:
		return 32
	case SHA384:
		return 48
	case SHA512:
		return 64
	}
	return 0
}
