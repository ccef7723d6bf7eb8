package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
)

// certificates is what --cert files hold: certificates and revocation lists, DER.
type certificates struct{ certs, crls [][]byte }

const (
	// maxCertFile is larger than any certificate table a host's cache may hold.
	maxCertFile = 256 << 10
	// maxCerts bounds all --cert files together.
	maxCerts        = 64
	tableEntry      = 24
	maxTableEntries = 32
)

// add reads one file: DER (one object after another), PEM, or the certificate
// table of AMD's extended guest request (AMD 56421 GHCB, "SNP Extended Guest Request").
// Unlike the judge, who takes certificates as a hint, it is strict: a file that a
// person named must say what it was named for.
func (c *certificates) add(data []byte) error {
	var objects [][]byte
	var err error
	switch {
	case len(data) == 0:
		err = errors.New("it is empty")
	case bytes.Contains(data[:min(len(data), 4096)], []byte("-----BEGIN ")):
		objects, err = pemObjects(data)
	case isText(data):
		err = errors.New("it is text without a PEM block; decode it to DER first")
	case data[0] == 0x30:
		objects, err = derObjects(data)
	default:
		objects, err = tableObjects(data)
	}
	if err != nil {
		return err
	}
	for i, der := range objects {
		if _, err := x509.ParseCertificate(der); err == nil {
			c.certs = append(c.certs, der)
		} else if _, err := x509.ParseRevocationList(der); err == nil {
			c.crls = append(c.crls, der)
		} else {
			return fmt.Errorf("its object %d is neither a certificate nor a revocation list", i+1)
		}
	}
	if len(c.certs)+len(c.crls) > maxCerts {
		return fmt.Errorf("together with the files before it holds more than %d certificates; give the one of the chip", maxCerts)
	}
	return nil
}

func derObjects(data []byte) (out [][]byte, err error) {
	for len(data) > 0 {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(data, &raw)
		if err != nil {
			return nil, fmt.Errorf("its DER object %d is cut off or malformed; fetch it again", len(out)+1)
		}
		if out = append(out, raw.FullBytes); len(out) > maxCerts {
			return nil, fmt.Errorf("it holds more than %d objects", maxCerts)
		}
		data = rest
	}
	return out, nil
}

func pemObjects(data []byte) (out [][]byte, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" && block.Type != "X509 CRL" {
			return nil, errors.New("one of its PEM blocks is neither a certificate nor a revocation list")
		}
		if out = append(out, block.Bytes); len(out) > maxCerts {
			return nil, fmt.Errorf("it holds more than %d PEM blocks", maxCerts)
		}
		data = rest
	}
	if len(out) == 0 || bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, errors.New("one of its PEM blocks is malformed; fetch it again")
	}
	return out, nil
}

// tableObjects reads entries of a GUID, le32 offset and le32 length, closed by an
// entry of zeros. All GUIDs are read: which certificate is whose is seen in the
// certificate, not believed from the table.
func tableObjects(data []byte) (out [][]byte, err error) {
	for i := range maxTableEntries {
		if len(data) < (i+1)*tableEntry {
			return nil, errors.New("it is no DER, no PEM, and as a certificate table it lacks the closing entry of zeros")
		}
		entry := data[i*tableEntry : (i+1)*tableEntry]
		if bytes.Equal(entry[:16], make([]byte, 16)) {
			if len(out) == 0 {
				return nil, errors.New("it is a certificate table without entries: the host has no certificates; fetch the VCEK from AMD's KDS")
			}
			return out, nil
		}
		offset := uint64(binary.LittleEndian.Uint32(entry[16:]))
		length := uint64(binary.LittleEndian.Uint32(entry[20:]))
		if length == 0 || offset+length > uint64(len(data)) {
			return nil, fmt.Errorf("it is no DER, no PEM, and as a certificate table its entry %d lies outside the file", i+1)
		}
		out = append(out, data[offset:offset+length])
	}
	return nil, fmt.Errorf("it is no DER, no PEM, and as a certificate table it has more than %d entries", maxTableEntries)
}
