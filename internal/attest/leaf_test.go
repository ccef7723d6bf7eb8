package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

func leafOf(c *x509.Certificate) *vcek { return &vcek{cert: c} }

// TestLeafIsReadStrictly changes one thing of a good leaf at a time, of each kind. What AMD's profile (57230, chapter 3)
// does not allow is not read.
func TestLeafIsReadStrictly(t *testing.T) {
	product, level, hwid, csp := "1.3.6.1.4.1.3704.1.2", "1.3.6.1.4.1.3704.1.3.", "1.3.6.1.4.1.3704.1.4", "1.3.6.1.4.1.3704.1.5"
	of := func(oid string) func(pkix.Extension) bool {
		id := amdOID(t, oid)
		return func(e pkix.Extension) bool { return e.Id.Equal(id) }
	}
	without := func(oid string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			var kept []pkix.Extension
			for _, e := range c.ExtraExtensions {
				if !of(oid)(e) {
					kept = append(kept, e)
				}
			}
			c.ExtraExtensions = kept
		}
	}
	with := func(oid string, value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			without(oid)(c)
			c.ExtraExtensions = append(c.ExtraExtensions, extension(amdOID(t, oid), value))
		}
	}
	number := func(n int) []byte { return marshal(t, n, "") }
	octets := func(n int) []byte { return marshal(t, bytes.Repeat([]byte{0xc1}, n), "") }
	text := func(s string) []byte { return marshal(t, s, "ia5") }
	behind := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
	vcek, vlek, turin := newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, "cloud-one"), newSoftSNP(t, Turin, 3, "")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		of     *softSNP
		change func(*x509.Certificate)
		ok     bool
	}{
		{"VCEK", vcek, nil, true},
		{"VLEK", vlek, nil, true},
		{"Turin's VCEK", turin, nil, true},
		{"another name", vcek, func(c *x509.Certificate) { c.Subject.CommonName = "SEV-VCEX" }, false},
		{"a VCEK by a VLEK's name", vcek, func(c *x509.Certificate) { c.Subject.CommonName = "SEV-VLEK" }, false},
		{"a VLEK by a VCEK's name", vlek, func(c *x509.Certificate) { c.Subject.CommonName = "SEV-VCEK" }, false},
		{"signed otherwise", vcek, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA }, false},
		{"an authority", vcek, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, false},
		{"no product", vcek, without(product), false},
		{"no text for a product", vcek, with(product, number(7)), false},
		{"something behind the product", vcek, with(product, behind(text("Genoa-B0"))), false},
		{"no stepping", vcek, with(product, text("Genoa")), true},
		{"no chip", vcek, without(hwid), false},
		{"a chip and a provider", vcek, with(csp, text("cloud-one")), false},
		{"a provider and a chip", vlek, with(hwid, vcek.chip[:]), false},
		{"no provider", vlek, without(csp), false},
		{"a chip in octets", vcek, with(hwid, octets(64)), true},
		{"a chip in octets, something behind", vcek, with(hwid, behind(octets(64))), false},
		{"a chip of 63 bytes", vcek, with(hwid, octets(63)), false},
		{"a chip of 65 bytes", vcek, with(hwid, octets(65)), false},
		{"a chip of 9 bytes", turin, with(hwid, octets(9)), false},
		{"a chip of 7 bytes", turin, with(hwid, octets(7)), false},
		{"a chip of 63 bare bytes", vcek, with(hwid, vcek.chip[:63]), false},
		{"Turin's chip in octets", turin, with(hwid, octets(8)), true},
		{"Turin's length on Genoa", vcek, with(hwid, octets(8)), false},
		{"Genoa's length on Turin", turin, with(hwid, octets(64)), false},
		{"no boot loader", vcek, without(level + "1"), false},
		{"no TEE", vcek, without(level + "2"), false},
		{"no SNP", vcek, without(level + "3"), false},
		{"no microcode", vcek, without(level + "8"), false},
		{"no level 4 to 7", vcek, func(c *x509.Certificate) {
			for _, n := range []string{"4", "5", "6", "7"} {
				without(level + n)(c)
			}
		}, true},
		{"no FMC on Turin", turin, without(level + "9"), false},
		{"level 4", vcek, with(level+"4", number(1)), false},
		{"level 7", vcek, with(level+"7", number(1)), false},
		{"an FMC on Genoa", vcek, with(level+"9", number(1)), false},
		{"an FMC of zero on Genoa", vcek, with(level+"9", number(0)), true},
		{"a tenth level on Turin", turin, with(level+"10", number(1)), false},
		{"a level of 255", vcek, with(level+"8", number(255)), true},
		{"a level of 256", vcek, with(level+"8", number(256)), false},
		{"a level below zero", vcek, with(level+"8", number(-1)), false},
		{"no number for a level", vcek, with(level+"8", text("x")), false},
		{"something behind a level", vcek, with(level+"8", behind(number(1))), false},
		{"a longer identifier than a level's", vcek, with(level+"8.1", text("x")), true},
		{"one as long as a level's", vcek, with("1.3.6.1.4.1.3704.1.9.8", text("x")), true},
		{"a provider with space", vlek, with(csp, text("cloud one")), false},
		{"a provider with DEL", vlek, with(csp, text("cloud\x7f")), false},
		{"a provider from ! to ~", vlek, with(csp, text("!~")), true},
		{"a provider of 64 bytes", vlek, with(csp, text(strings.Repeat("p", 64))), true},
		{"a provider of 65 bytes", vlek, with(csp, text(strings.Repeat("p", 65))), false},
		{"an empty provider", vlek, with(csp, text("")), false},
		{"no text for a provider", vlek, with(csp, number(7)), false},
		{"something behind the provider", vlek, with(csp, behind(text("cloud-one"))), false},
	} {
		v, err := parseLeaf(c.of.issue(c.change))
		if (err == nil) != c.ok || (v == nil) == c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// The standard library signs and reads no certificate with an extension twice; their reader must not rely on it.
	for oid, value := range map[string][]byte{product: text("Genoa-B0"), hwid: vcek.chip[:], level + "3": number(8)} {
		v := leafOf(&x509.Certificate{Extensions: []pkix.Extension{extension(amdOID(t, oid), value), extension(amdOID(t, oid), value)}})
		if err := v.extensions(); err == nil || !strings.Contains(err.Error(), "twice") {
			t.Errorf("%s twice: %v", oid, err)
		}
	}
	v := leafOf(&x509.Certificate{Extensions: []pkix.Extension{extension(amdOID(t, csp), text("a")), extension(amdOID(t, csp), text("a"))}})
	if err := v.extensions(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a provider twice: %v", err)
	}
	wrong := *vcek
	wrong.t = t
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SEV-VCEK"}}
	for name, key := range map[string]any{"P-256": other.Public(), "RSA": vcek.rsa.Public()} {
		if _, err := parseLeaf(wrong.certify(c, pkix.Name{CommonName: "SEV-Genoa"}, key)); err == nil || !strings.Contains(err.Error(), "no P-384 key") {
			t.Errorf("a key of %s: %v", name, err)
		}
	}
	for size, word := range map[int]string{64 << 10: "reading leaf: x509", 64<<10 + 1: "more than 65536 bytes"} {
		if _, err := parseLeaf(make([]byte, size)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// TestNamesChip: a certificate is that of a chip by all bytes, Turin's by its eight and zeros behind them.
func TestNamesChip(t *testing.T) {
	eight, all := []byte{1, 2, 3, 4, 5, 6, 7, 8}, bytes.Repeat([]byte{9}, 64)
	for _, c := range []struct {
		hwid, chip []byte
		want       bool
	}{
		{eight, append(bytes.Clone(eight), make([]byte, 56)...), true},
		{eight, eight, true},
		{eight, eight[:7], false},
		{eight, append(bytes.Clone(eight), 1), false},
		{all, all, true},
		{all, all[:63], false},
		{nil, all, false},
		{nil, nil, false},
		{nil, make([]byte, 64), false},
	} {
		if got := (&vcek{hwid: c.hwid}).names(c.chip); got != c.want {
			t.Errorf("%x names %x: %t", c.hwid, c.chip, got)
		}
	}
}

// TestCertificateTable reads the table of the GHCB's extended request (56421). Its GUIDs stand here as the documents
// write them, in network order and in that of firmware.
func TestCertificateTable(t *testing.T) {
	bin := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	swapped := func(b []byte) []byte {
		return append([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}, b[8:]...)
	}
	vcekID, vlekID, askID := bin("63da758d-e664-4564-adc5-f4b93be8accd"), bin("a8074bc2-a25a-483e-aae6-39c045a0b8a1"), bin("4ab7b379-bbac-4fe4-a02f-05aef327c782")
	entry := func(id []byte, offset, length int) []byte {
		b := binary.LittleEndian.AppendUint32(bytes.Clone(id), uint32(offset))
		return binary.LittleEndian.AppendUint32(b, uint32(length))
	}
	none := make([]byte, 24)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	filler := func(n int) (out []byte) {
		for range n {
			out = append(out, entry(askID, 0, 1)...)
		}
		return out
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"VCEK", join(entry(vcekID, 48, 3), none, []byte("abc")), "abc"},
		{"VCEK, the other order", join(entry(swapped(vcekID), 48, 3), none, []byte("abc")), "abc"},
		{"VLEK", join(entry(vlekID, 48, 3), none, []byte("abc")), "abc"},
		{"VLEK, the other order", join(entry(swapped(vlekID), 48, 3), none, []byte("abc")), "abc"},
		{"of another kind", join(entry(askID, 48, 3), none, []byte("abc")), ""},
		{"the second", join(entry(askID, 72, 1), entry(vcekID, 73, 2), none, []byte("abc")), "bc"},
		{"two", join(entry(vlekID, 72, 1), entry(vcekID, 73, 2), none, []byte("abc")), "a bc"},
		{"behind the end", join(none, entry(vcekID, 48, 3), []byte("abc")), ""},
		{"without an end", entry(vcekID, 0, 1), "c"},
		{"beyond the data", join(entry(vcekID, 48, 4), none, []byte("abc")), ""},
		{"of no length", join(entry(vcekID, 48, 0), none, []byte("abc")), ""},
		{"at a far offset", join(entry(vcekID, 0xffffffff, 0xff), none, []byte("abc")), ""},
		{"cut", entry(vcekID, 0, 1)[:23], ""},
		{"the 32nd", join(filler(31), entry(vcekID, 32*24, 1), []byte("a")), "a"},
		{"the 33rd", join(filler(32), entry(vcekID, 33*24, 1), []byte("a")), ""},
	} {
		if got := string(bytes.Join(splitTable(c.data), []byte(" "))); got != c.want && (c.name != "without an end" || got != string(c.data[:1])) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestCertificatesAreBounded: eight candidates and 64 KiB, of whatever form, and never more.
func TestCertificatesAreBounded(t *testing.T) {
	one := marshal(t, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte{5, 0}}, "")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})
	key := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: one})
	for n, want := range map[int]int{1: 1, 7: 7, 8: 8, 9: 8, 20: 8} {
		for name, data := range map[string][]byte{"DER": bytes.Repeat(one, n), "PEM": bytes.Repeat(block, n), "PEM among keys": bytes.Repeat(append(bytes.Clone(key), block...), n)} {
			got := splitCertificates(data)
			if len(got) != want {
				t.Errorf("%d in %s: %d", n, name, len(got))
			}
			for _, g := range got {
				if !bytes.Equal(g, one) {
					t.Errorf("%s: %x", name, g)
				}
			}
		}
	}
	if got := splitCertificates(append(bytes.Clone(one), 0x30)); len(got) != 1 {
		t.Errorf("one and a cut one: %d", len(got))
	}
	// What stands before the first PEM block may be 256 bytes, its first words included.
	for size, want := range map[int]int{256 - 11: 1, 256 - 10: 0} {
		if got := splitCertificates(append(bytes.Repeat([]byte{'\n'}, size), block...)); len(got) != want {
			t.Errorf("PEM behind %d bytes: %d", size, len(got))
		}
	}
	for size, want := range map[int]int{64 << 10: 1, 64<<10 + 1: 0} {
		if got := splitCertificates(append(bytes.Clone(one), make([]byte, size-len(one))...)); (len(got) > 0) != (want > 0) {
			t.Errorf("%d bytes: %d", size, len(got))
		}
	}
	if splitCertificates(nil) != nil {
		t.Error("certificates in nothing")
	}
	// A report's ninth candidate is not looked at, and neither is a registered one.
	s := newSoftSNP(t, Genoa, 3, "")
	noise := make([][]byte, 0, 9)
	for range 8 {
		noise = append(noise, one)
	}
	for n, code := range map[int]string{7: "", 8: CodeCollateral} {
		ev, col := s.evidence(), s.collateral()
		ev.Certificates = append(bytes.Repeat(one, n), s.leaf...)
		if _, r := judged(t, ev, col, s.policy(), s.now); (r == nil) != (code == "") || r != nil && r.Code != code {
			t.Errorf("behind %d others: %v", n, r)
		}
		ev.Certificates, col.VCEKs = nil, map[string][][]byte{ChipKey(s.chip[:]): append(noise[:n:n], s.leaf)}
		if _, r := judged(t, ev, col, s.policy(), s.now); (r == nil) != (code == "") || r != nil && r.Code != code {
			t.Errorf("registered behind %d others: %v", n, r)
		}
	}
}

// TestLeafIsChosen: the one that names chip and TCB counts, wherever it stands; if none does, the first that can be read.
func TestLeafIsChosen(t *testing.T) {
	s := newSoftSNP(t, Genoa, 3, "")
	older, otherChip := *s, *s
	older.tcb.SNP--
	otherChip.chip[0]++
	older.leaf, otherChip.leaf = older.issue(nil), otherChip.issue(nil)
	both := otherChip
	both.tcb.SNP--
	both.leaf = both.issue(nil)
	provider := *s
	provider.provider = "cloud-one"
	provider.leaf = provider.issue(nil)
	for name, c := range map[string]struct {
		leaves [][]byte
		want   []check
	}{
		"the good one last":        {[][]byte{provider.leaf, older.leaf, otherChip.leaf, s.leaf}, nil},
		"the good one first":       {[][]byte{s.leaf, otherChip.leaf}, nil},
		"another TCB's first":      {[][]byte{older.leaf, otherChip.leaf}, []check{checkCertificateTCB}},
		"another chip's first":     {[][]byte{otherChip.leaf, older.leaf}, []check{checkCertificateChip}},
		"another chip's and TCB's": {[][]byte{both.leaf, older.leaf}, []check{checkCertificateChip, checkCertificateTCB}},
		"a provider's":             {[][]byte{provider.leaf}, []check{checkLeaf}},
	} {
		ev := s.evidence()
		ev.Certificates = bytes.Join(c.leaves, nil)
		_, r := judged(t, ev, s.collateral(), s.policy(), s.now)
		var want []string
		for _, f := range c.want {
			want = append(want, snpTable[f].Name)
		}
		if got := failed(r); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: failed checks %q, want %q", name, got, want)
		}
	}
	// Registered certificates come before those that the guest sends, if one of them fits.
	ev, col := s.evidence(), s.collateral()
	col.VCEKs = map[string][][]byte{ChipKey(s.chip[:]): {older.leaf}}
	if _, r := judged(t, ev, col, s.policy(), s.now); r != nil {
		t.Errorf("the guest's fits and the registered does not: %v", r)
	}
	// A VLEK names no chip: its TCB alone decides.
	stale := provider
	stale.tcb.SNP--
	evP, colP := provider.evidence(), provider.collateral()
	evP.Certificates, colP.VLEKs = nil, [][]byte{stale.issue(nil), provider.leaf}
	if _, r := judged(t, evP, colP, provider.policy(), s.now); r != nil {
		t.Errorf("the second of a provider's certificates fits: %v", r)
	}
	again := s.issue(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) })
	col.VCEKs = map[string][][]byte{ChipKey(s.chip[:]): {again}}
	res, r := judged(t, ev, col, s.policy(), s.now)
	leaf, err := parseLeaf(again)
	if r != nil || err != nil || res.VCEK != leaf.sum {
		t.Errorf("both fit: %v, %v", r, err)
	}
}
