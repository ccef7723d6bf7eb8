package attest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
)

// Kinds of collateral objects.
const (
	KindVCEK         = "amd-vcek"
	KindVLEK         = "amd-vlek"
	KindAMDChain     = "amd-ask-ark"
	KindAMDCRL       = "amd-crl"
	KindTCBInfo      = "intel-tcbinfo"
	KindQEIdentity   = "intel-qe-identity"
	KindPCKCRL       = "intel-pck-crl"
	KindIntelRootCRL = "intel-root-crl"
	KindTCBChain     = "intel-tcb-chain"
	KindQEChain      = "intel-qe-chain"
	// KindGrace is no vendor's: the grace that a verdict rests on, such as 1h0m0s.
	KindGrace           = "grace"
	maxObjects          = 1 << 16
	maxObjectBytes      = 1 << 20
	intelKindPrefix     = "intel-"
	collateralDigestTag = "siesta/collateral/v2"
)

// Digest is a SHA-256, written as lower-case hex.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes 64 hex digits.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 64 lower-case hex digits.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) || hex.EncodeToString(b) != string(text) {
		return fmt.Errorf("reading digest: not 64 lower-case hex digits")
	}
	copy(d[:], b)
	return nil
}

// Object is one piece of collateral as its vendor published it.
type Object struct {
	Kind  string
	Bytes []byte
}

// Digest names the object's bytes.
func (o Object) Digest() Digest { return sha256.Sum256(o.Bytes) }

type objectDocument struct {
	Kind   string `json:"kind"`
	SHA256 Digest `json:"sha256"`
	Bytes  string `json:"bytes"`
}

// MarshalJSON writes the bytes as base64 beside their digest.
func (o Object) MarshalJSON() ([]byte, error) {
	return json.Marshal(objectDocument{o.Kind, o.Digest(), base64.StdEncoding.EncodeToString(o.Bytes)})
}

// UnmarshalJSON refuses bytes that are not those of the digest.
func (o *Object) UnmarshalJSON(data []byte) error {
	var doc objectDocument
	if err := strict(data, &doc); err != nil {
		return fmt.Errorf("reading collateral object: %w", err)
	}
	b, err := base64.StdEncoding.DecodeString(doc.Bytes)
	if err != nil || len(b) > maxObjectBytes {
		return fmt.Errorf("reading collateral object: malformed or more than %d bytes", maxObjectBytes)
	}
	*o = Object{Kind: doc.Kind, Bytes: b}
	if o.Digest() != doc.SHA256 {
		return fmt.Errorf("reading collateral object: the bytes are not those of its digest")
	}
	return nil
}

// Objects lists the collateral, sorted by kind and digest and without doubles. The
// roots are not among it: they are part of the program.
func (c Collateral) Objects() []Object {
	var out []Object
	for _, ders := range c.VCEKs {
		for _, der := range ders {
			out = append(out, Object{KindVCEK, der})
		}
	}
	for _, der := range c.VLEKs {
		out = append(out, Object{KindVLEK, der})
	}
	if c.CRLs != nil {
		for _, der := range c.CRLs.raw {
			out = append(out, Object{KindAMDCRL, der})
		}
	}
	if c.TDX != nil {
		out = append(out, c.TDX.objects()...)
	}
	if c.Grace > 0 {
		out = append(out, Object{KindGrace, []byte(c.Grace.String())})
	}
	return sorted(out)
}

func sorted(objects []Object) []Object {
	compare := func(a, b Object) int {
		x, y := a.Digest(), b.Digest()
		return cmp.Or(strings.Compare(a.Kind, b.Kind), bytes.Compare(x[:], y[:]))
	}
	slices.SortFunc(objects, compare)
	return slices.CompactFunc(objects, func(a, b Object) bool { return compare(a, b) == 0 })
}

// About is the collateral without what concerns other chips and another vendor.
func (c Collateral) About(ev Evidence) Collateral {
	out := Collateral{Roots: c.Roots}
	switch ev.TEE {
	case TDX:
		out.TDX = c.TDX
	case SEVSNP:
		out.CRLs, out.VLEKs, out.Grace = c.CRLs, c.VLEKs, c.Grace
		if len(ev.Report) != abi.ReportSize {
			break
		}
		key := ChipKey(ev.Report[0x1a0:0x1e0])
		if ders := c.VCEKs[key]; ders != nil {
			out.VCEKs = map[string][][]byte{key: ders}
		}
	}
	return out
}

// Digest names the collateral in decisions.
func (c Collateral) Digest() Digest { return digestOf(c.Objects()) }

func digestOf(objects []Object) Digest {
	parts := [][]byte{[]byte(collateralDigestTag)}
	for _, o := range objects {
		d := o.Digest()
		parts = append(parts, []byte(o.Kind), d[:])
	}
	return sha256.Sum256(prefixed(parts...))
}

// NewCollateral reads objects, each of which must be what its kind says. A chain
// of AMD's must be that of the roots, which it cannot replace.
func NewCollateral(roots *Roots, objects []Object) (Collateral, error) {
	c := Collateral{Roots: roots}
	if len(objects) > maxObjects {
		return Collateral{}, fmt.Errorf("reading collateral: more than %d objects", maxObjects)
	}
	var lists [][]byte
	var intel []Object
	for i, o := range objects {
		fail := func(err error) (Collateral, error) {
			return Collateral{}, fmt.Errorf("reading collateral object %d: %w", i, err)
		}
		if len(o.Bytes) > maxObjectBytes {
			return fail(fmt.Errorf("more than %d bytes", maxObjectBytes))
		}
		switch {
		case o.Kind == KindVCEK || o.Kind == KindVLEK:
			leaf, err := parseLeaf(o.Bytes)
			switch {
			case err != nil:
				return fail(err)
			case (leaf.provider != "") != (o.Kind == KindVLEK):
				return fail(errors.New("the certificate is of the other kind"))
			case o.Kind == KindVLEK:
				c.VLEKs = append(c.VLEKs, o.Bytes)
			default:
				chip := make([]byte, 64)
				copy(chip, leaf.hwid)
				if c.VCEKs == nil {
					c.VCEKs = make(map[string][][]byte)
				}
				c.VCEKs[ChipKey(chip)] = append(c.VCEKs[ChipKey(chip)], o.Bytes)
			}
		case o.Kind == KindAMDCRL:
			lists = append(lists, o.Bytes)
		case o.Kind == KindGrace:
			grace, err := time.ParseDuration(string(o.Bytes))
			if err != nil || grace <= 0 || grace > maxGrace || grace.String() != string(o.Bytes) || c.Grace != 0 {
				return fail(fmt.Errorf("no grace between 0 and %s", maxGrace))
			}
			c.Grace = grace
		case o.Kind == KindAMDChain:
			if err := roots.known(o.Bytes); err != nil {
				return fail(err)
			}
		case strings.HasPrefix(o.Kind, intelKindPrefix):
			intel = append(intel, o)
		default:
			return fail(errors.New("its kind is not known"))
		}
	}
	var err error
	if lists != nil {
		if c.CRLs, err = ParseCRLs(roots, lists...); err != nil {
			return Collateral{}, err
		}
	}
	if intel != nil {
		if c.TDX, err = newTDXCollateralUnder(roots.intelRoot(), intel); err != nil {
			return Collateral{}, err
		}
	}
	return c, nil
}
