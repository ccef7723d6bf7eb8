package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds on certificates that come with evidence.
const (
	maxCertificatesBytes = 64 << 10
	maxLeafCandidates    = 8
	maxTableEntries      = 32
	vcekCommonName       = "SEV-VCEK"
	vlekCommonName       = "SEV-VLEK"
	maxProviderBytes     = 64
)

// vcek is a leaf certificate whose fields have been read, not yet proved: a chip's
// own (VCEK), or one that AMD gave to a provider for its machines (VLEK).
type vcek struct {
	cert *x509.Certificate
	key  *ecdsa.PublicKey
	sum  [sha256.Size]byte
	line string
	// hwid is the chip: the whole CHIP_ID, or on Turin its first 8 bytes.
	hwid []byte
	tcb  TCB
	// provider is the CSP_ID of a VLEK, which names no chip; empty in a VCEK.
	provider string
}

// Object identifiers of AMD's certificate extensions; patch levels lie one below
// the last.
var (
	oidProduct = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}
	oidHWID    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	oidCSP     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}
	oidSPL     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3}
)

// parseLeaf reads a VCEK or a VLEK (AMD 57230 chapter 3: names, extensions).
// go-sev-guest 0.15.0 cannot read those of Turin (an unknown patch level, an HWID
// of eight bytes), so the reader is our own.
func parseLeaf(der []byte) (*vcek, error) {
	if len(der) > maxCertificatesBytes {
		return nil, fmt.Errorf("reading leaf: more than %d bytes", maxCertificatesBytes)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading leaf: %w", err)
	}
	name := cert.Subject.CommonName
	if name != vcekCommonName && name != vlekCommonName {
		return nil, errors.New("reading leaf: another common name")
	}
	if cert.Version != 3 || cert.SignatureAlgorithm != x509.SHA384WithRSAPSS || cert.IsCA {
		return nil, errors.New("reading leaf: not a version 3 leaf signed with RSASSA-PSS and SHA-384")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("reading leaf: no P-384 key")
	}
	v := &vcek{cert: cert, key: key, sum: sha256.Sum256(der)}
	if err := v.extensions(); err != nil {
		return nil, fmt.Errorf("reading leaf: %w", err)
	}
	if name == vlekCommonName {
		if v.hwid != nil || v.provider == "" {
			return nil, errors.New("reading leaf: a VLEK that names a chip, or no provider")
		}
		return v, nil
	}
	if v.hwid == nil || v.provider != "" {
		return nil, errors.New("reading leaf: a VCEK that names no chip, or a provider")
	}
	if (v.line == Turin) != (len(v.hwid) == 8) {
		return nil, errors.New("reading leaf: hardware id of another product line's length")
	}
	return v, nil
}

// extensions reads those of AMD, each at most once.
func (v *vcek) extensions() (err error) {
	levels := make(map[int]uint8)
	for _, ext := range v.cert.Extensions {
		switch {
		case ext.Id.Equal(oidProduct):
			if v.line != "" {
				return errors.New("product named twice")
			}
			var name string
			if rest, err := asn1.UnmarshalWithParams(ext.Value, &name, "ia5"); err != nil || len(rest) > 0 {
				return errors.New("malformed product name")
			}
			// "Milan-B0": the line, then the stepping.
			v.line, _, _ = strings.Cut(name, "-")
		case ext.Id.Equal(oidHWID):
			if v.hwid != nil {
				return errors.New("hardware id twice")
			}
			if v.hwid, err = hardwareID(ext.Value); err != nil {
				return err
			}
		case ext.Id.Equal(oidCSP):
			if v.provider != "" {
				return errors.New("provider twice")
			}
			if rest, err := asn1.UnmarshalWithParams(ext.Value, &v.provider, "ia5"); err != nil || len(rest) > 0 || v.provider == "" || !validProvider(v.provider) {
				return errors.New("malformed provider")
			}
		case len(ext.Id) == len(oidSPL)+1 && ext.Id[:len(oidSPL)].Equal(oidSPL):
			n := ext.Id[len(oidSPL)]
			var level int
			if rest, err := asn1.Unmarshal(ext.Value, &level); err != nil || len(rest) > 0 || level < 0 || level > 255 {
				return errors.New("malformed patch level")
			}
			if _, twice := levels[n]; twice {
				return errors.New("patch level twice")
			}
			levels[n] = uint8(level)
		}
	}
	if v.line == "" {
		return errors.New("product name is missing")
	}
	v.tcb, err = certifiedTCB(v.line, levels)
	return err
}

// validProvider admits the empty name, too.
func validProvider(s string) bool {
	return len(s) <= maxProviderBytes && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// hardwareID accepts the bare bytes that AMD issues and the same in an OCTET STRING.
func hardwareID(value []byte) ([]byte, error) {
	if len(value) == 64 || len(value) == 8 {
		return value, nil
	}
	var octets []byte
	if rest, err := asn1.Unmarshal(value, &octets); err != nil || len(rest) > 0 || (len(octets) != 64 && len(octets) != 8) {
		return nil, errors.New("malformed hardware id")
	}
	return octets, nil
}

// certifiedTCB takes the patch levels of a certificate: 1 boot loader, 2 TEE,
// 3 SNP, 8 microcode, 9 FMC (Turin only); 4 to 7 are reserved and must be zero.
func certifiedTCB(line string, levels map[int]uint8) (TCB, error) {
	required := []int{1, 2, 3, 8}
	if line == Turin {
		required = append(required, 9)
	}
	for _, n := range required {
		if _, ok := levels[n]; !ok {
			return TCB{}, fmt.Errorf("patch level %d is missing", n)
		}
	}
	for n, level := range levels {
		known := n == 1 || n == 2 || n == 3 || n == 8 || (n == 9 && line == Turin)
		if !known && level != 0 {
			return TCB{}, fmt.Errorf("unknown patch level %d is set", n)
		}
	}
	return TCB{FMC: levels[9], Bootloader: levels[1], TEE: levels[2], SNP: levels[3], Microcode: levels[8]}, nil
}

// names reports whether the certificate is that of the chip. On Turin an id has
// eight bytes (AMD 57230 chapter 3, hwID), and zeros follow it in the report.
func (v *vcek) names(chipID []byte) bool {
	if len(v.hwid) > len(chipID) || len(v.hwid) == 0 {
		return false
	}
	return bytes.Equal(v.hwid, chipID[:len(v.hwid)]) && allZero(chipID[len(v.hwid):])
}

// splitCertificates finds the certificates in DER, PEM or AMD's certificate
// table. What cannot be read is left out: certificates are only a hint.
func splitCertificates(data []byte) [][]byte {
	if len(data) == 0 || len(data) > maxCertificatesBytes {
		return nil
	}
	switch {
	case data[0] == 0x30:
		return splitDER(data)
	case bytes.Contains(data[:min(len(data), 256)], []byte("-----BEGIN ")):
		return splitPEM(data)
	default:
		return splitTable(data)
	}
}

func splitDER(data []byte) (out [][]byte) {
	for len(data) > 0 && len(out) < maxLeafCandidates {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(data, &raw)
		if err != nil {
			break
		}
		out = append(out, raw.FullBytes)
		data = rest
	}
	return out
}

func splitPEM(data []byte) (out [][]byte) {
	for len(out) < maxLeafCandidates {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
		data = rest
	}
	return out
}

// leafGUIDs are the table's names for a VCEK, 63da758d-e664-4564-adc5-f4b93be8accd,
// and a VLEK, a8074bc2-a25a-483e-aae6-39c045a0b8a1 (GHCB 56421, certificate table),
// in the two byte orders in which they are met.
var leafGUIDs = [][]byte{
	{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd},
	{0x8d, 0x75, 0xda, 0x63, 0x64, 0xe6, 0x64, 0x45, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd},
	{0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1},
	{0xc2, 0x4b, 0x07, 0xa8, 0x5a, 0xa2, 0x3e, 0x48, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1},
}

// splitTable reads the table of the GHCB extended request: entries of a GUID and
// le32 offset and length, closed by an entry of zeros.
func splitTable(data []byte) (out [][]byte) {
	const entry = 24
	var zero [16]byte
	for i := range maxTableEntries {
		if len(data) < (i+1)*entry {
			break
		}
		e := data[i*entry:]
		guid := e[:16]
		if bytes.Equal(guid, zero[:]) {
			break
		}
		offset := uint64(binary.LittleEndian.Uint32(e[16:20]))
		length := uint64(binary.LittleEndian.Uint32(e[20:24]))
		if offset+length > uint64(len(data)) || length == 0 {
			continue
		}
		if slices.ContainsFunc(leafGUIDs, func(g []byte) bool { return bytes.Equal(g, guid) }) {
			out = append(out, data[offset:offset+length])
		}
	}
	return out
}
