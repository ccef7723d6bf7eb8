package main

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

// data is where the genuine inputs of internal/attest lie, with their ORIGIN.
const data = "../../internal/attest/testdata/"

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(data + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// table builds a certificate table as a host hands it out.
func table(objects ...[]byte) []byte {
	head := make([]byte, (len(objects)+1)*tableEntry)
	out := head
	for i, o := range objects {
		e := head[i*tableEntry:]
		copy(e, []byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd})
		binary.LittleEndian.PutUint32(e[16:], uint32(len(out)))
		binary.LittleEndian.PutUint32(e[20:], uint32(len(o)))
		out = append(out[:len(out):len(out)], o...)
		copy(out, head)
	}
	return out
}

func TestCertificateFiles(t *testing.T) {
	vcek, turin := load(t, "siena-v5-vcek.der"), load(t, "turin-vcek.der")
	chain := load(t, "turin-cert-chain.pem")
	armour := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	crl := load(t, "tdx/root-ca-crl.der")
	for name, row := range map[string]struct {
		files       [][]byte
		certs, crls int
	}{
		"DER":              {[][]byte{vcek}, 1, 0},
		"two DER":          {[][]byte{append(bytes.Clone(vcek), turin...)}, 2, 0},
		"PEM":              {[][]byte{armour("CERTIFICATE", vcek)}, 1, 0},
		"PEM after words":  {[][]byte{append([]byte("subject=SEV-VCEK\n"), armour("CERTIFICATE", vcek)...)}, 1, 0},
		"chain":            {[][]byte{chain}, 2, 0},
		"table":            {[][]byte{table(vcek, turin)}, 2, 0},
		"table with room":  {[][]byte{append(table(vcek), make([]byte, 4096)...)}, 1, 0},
		"two files":        {[][]byte{vcek, chain}, 3, 0},
		"CRL":              {[][]byte{crl}, 0, 1},
		"CRL in PEM":       {[][]byte{armour("X509 CRL", crl), vcek}, 1, 1},
		"table with a CRL": {[][]byte{table(vcek, crl)}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var c certificates
			for _, f := range row.files {
				if err := c.add(f); err != nil {
					t.Fatal(err)
				}
			}
			if len(c.certs) != row.certs || len(c.crls) != row.crls {
				t.Errorf("%d certificates, %d revocation lists", len(c.certs), len(c.crls))
			}
		})
	}
	// poke overwrites one le32 of a table.
	poke := func(at int, v uint32) []byte {
		b := table(vcek, turin)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for name, row := range map[string]struct {
		file []byte
		says string
	}{
		"empty":             {nil, "is empty"},
		"text":              {[]byte("hello"), "text without a PEM block"},
		"hex":               {[]byte("3082"), "text without a PEM block"},
		"DER cut":           {vcek[:len(vcek)-1], "cut off"},
		"DER continued":     {append(bytes.Clone(vcek), 0, 1, 2), "object 2"},
		"not a certificate": {[]byte{0x30, 0x01, 0xff}, "neither a certificate"},
		"private key":       {armour("EC PRIVATE KEY", vcek), "neither a certificate nor"},
		"PEM cut":           {armour("CERTIFICATE", vcek)[:200], "malformed"},
		"second PEM cut":    {append(armour("CERTIFICATE", vcek), armour("CERTIFICATE", turin)[:200]...), "malformed"},
		"report as cert":    {load(t, "siena-v5-report.bin"), "lies outside the file"},
		"offset outside":    {poke(tableEntry+16, 1<<20), "entry 2 lies outside"},
		"length outside":    {poke(20, 1<<20), "entry 1 lies outside"},
		"both overflow":     {poke(16, 0xffffffff), "entry 1 lies outside"},
		"length zero":       {poke(20, 0), "entry 1 lies outside"},
		"offset beside":     {poke(16, 80), "object 1 is neither"},
		"no end":            {append(table(vcek)[:16:16], 0, 0, 0, 0, 24, 0, 0, 0), "closing entry"},
		"empty table":       {make([]byte, 4096), "without entries"},
		"too many":          {bytes.Repeat(vcek, maxCerts+1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			var c certificates
			if err := c.add(row.file); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%v does not say %q", err, row.says)
			}
		})
	}
}

func FuzzCertificateFile(f *testing.F) {
	vcek := load(f, "siena-v5-vcek.der")
	f.Add(vcek)
	f.Add(table(vcek))
	f.Add(table(nil, []byte{0x30, 0}))
	f.Add([]byte("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		var c certificates
		if err := c.add(file); err == nil && len(c.certs)+len(c.crls) == 0 {
			t.Error("a file was read and nothing found in it")
		}
	})
}
