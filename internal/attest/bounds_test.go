package attest

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// padded is a JSON document with white space behind it, up to a size.
func padded(document []byte, size int) []byte {
	return append(bytes.Clone(document), bytes.Repeat([]byte{' '}, size-len(document))...)
}

// TestInputsAreBounded holds each reader against its bound: what is as large as may be is read, or refused for another
// reason, and one byte more is refused for its size. The bounds stand here once more, as numbers.
func TestInputsAreBounded(t *testing.T) {
	s := sienaV5(t)
	bundle, err := json.Marshal(NewBundle(s.evidence, amd(), s.policy, s.at))
	if err != nil {
		t.Fatal(err)
	}
	td := newSoftTD(t)
	tdPolicy, err := json.Marshal(td.policy().TDX)
	if err != nil {
		t.Fatal(err)
	}
	td.info["issueDate"], td.info["nextUpdate"] = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
	td.identity["issueDate"], td.identity["nextUpdate"] = td.info["issueDate"], td.info["nextUpdate"]
	info, err := json.Marshal(td.info)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := json.Marshal(td.identity)
	if err != nil {
		t.Fatal(err)
	}
	document, err := td.collateral().TDX.Document()
	if err != nil {
		t.Fatal(err)
	}
	chain := td.pem(td.signer, td.root.cert)
	object := func(size int) []byte {
		b := make([]byte, size)
		return fmt.Appendf(nil, `{"kind":"x","sha256":"%s","bytes":"%s"}`, Object{"x", b}.Digest(), base64.StdEncoding.EncodeToString(b))
	}
	for _, c := range []struct {
		name  string
		limit int
		read  func(size int) error
		other string // the reason at the limit; empty is none
		word  string
	}{
		{"policy", 1 << 20, func(n int) error { return new(Policy).UnmarshalJSON(padded(somePolicy().Canonical(), n)) }, "", "more than 1048576 bytes"},
		{"TDX policy", 1 << 20, func(n int) error { return new(TDXPolicy).UnmarshalJSON(padded(tdPolicy, n)) }, "", "more than 1048576 bytes"},
		{"bundle", 8 << 20, func(n int) error { return new(Bundle).UnmarshalJSON(padded(bundle, n)) }, "", "more than 8388608 bytes"},
		{"object", 1 << 20, func(n int) error { return new(Object).UnmarshalJSON(object(n)) }, "", "more than 1048576 bytes"},
		{"collateral object", 1 << 20, func(n int) error {
			_, err := NewCollateral(AMDRoots(), []Object{{KindAMDChain, make([]byte, n)}})
			return err
		}, "", "more than 1048576 bytes"},
		{"collateral", 1 << 16, func(n int) error { _, err := NewCollateral(AMDRoots(), make([]Object, n)); return err }, "its kind is not known", "more than 65536 objects"},
		{"revocation list", 1 << 20, func(n int) error { _, err := ParseCRLs(AMDRoots(), make([]byte, n)); return err }, "x509", "more than 1048576 bytes"},
		{"Intel's objects", 1024, func(n int) error { _, err := NewTDXCollateral(make([]Object, n)); return err }, "its kind is not known", "more than 1024 objects"},
		{"Intel's object", 1 << 20, func(n int) error {
			_, err := NewTDXCollateral([]Object{{KindIntelRootCRL, make([]byte, n)}})
			return err
		}, "malformed revocation list", "more than 1048576 bytes"},
		{"Intel's document", 4 << 20, func(n int) error { _, err := TDXObjects(padded(document, n)); return err }, "", "more than 4194304 bytes"},
		{"TCB info", 256 << 10, func(n int) error { _, err := parseTCBInfo(padded(info, n)); return err }, "", "more than 262144 bytes"},
		{"QE identity", 64 << 10, func(n int) error { _, err := parseQEIdentity(padded(identity, n)); return err }, "", "more than 65536 bytes"},
		{"chain", 16 << 10, func(n int) error {
			_, err := readChain(append(bytes.Clone(chain), bytes.Repeat([]byte{'\n'}, n-len(chain))...), 2)
			return err
		}, "", "more than 16384 bytes"},
		{"event log", 1 << 20, func(n int) error {
			log := softLog()
			_, err := parseEventLog(append(log, bytes.Repeat([]byte{0xff}, n-len(log))...))
			return err
		}, "", "more than 1048576 bytes"},
		{"events", 8192, func(n int) error { _, err := parseEventLog(softLog(make([]softEvent, n)...)); return err }, "none of the four registers", "none of the four registers"},
		{"command line", 255, func(n int) error {
			_, err := LaunchDigest(DigestInput{Firmware: file(t, "digest/ovmf_AmdSev_suffix.bin"), KernelSHA256: sum(nil), VCPUs: 1, Append: strings.Repeat("x", n)})
			return err
		}, "", "256 bytes, more than 255"},
		{"processors", 1024, func(n int) error {
			_, err := LaunchDigest(DigestInput{Firmware: file(t, "digest/ovmf_AmdSev_suffix.bin"), VCPUs: n})
			return err
		}, "", "1025 virtual processors"},
		{"firmware", 64 << 20, func(n int) error { _, err := parseFirmware(make([]byte, n)); return err }, "no GUID table", "no whole number of pages up to 64 MiB"},
	} {
		err := c.read(c.limit)
		if (err == nil) != (c.other == "") || err != nil && !strings.Contains(err.Error(), c.other) {
			t.Errorf("%s of %d: %v", c.name, c.limit, err)
		}
		if err := c.read(c.limit + 1); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s of one more: %v, want %q", c.name, err, c.word)
		}
	}
	good := make([]softEvent, 8193)
	for i := range good {
		good[i].index = 1
	}
	if events, err := parseEventLog(softLog(good[:8192]...)); err != nil || len(events) != 8192 {
		t.Errorf("%d events: %v", len(events), err)
	}
	if _, err := parseEventLog(softLog(good...)); err == nil || !strings.Contains(err.Error(), "more than 8192 events") {
		t.Errorf("one event more: %v", err)
	}
}

// TestListsHaveAnEnd: a list without a next update would hold for ever.
func TestListsHaveAnEnd(t *testing.T) {
	td, s := newSoftTD(t), newSoftSNP(t, Genoa, 3, "")
	if _, err := ParseCRLs(newRoots([]*authority{s.by}), endless(t, s.list(s.now, s.now.AddDate(0, 0, 1)), s.sign)); err == nil || !strings.Contains(err.Error(), "no next update") {
		t.Errorf("a list of AMD's without an end: %v", err)
	}
	sign := func(data []byte) []byte {
		raw := td.sign(td.rootKey, data)
		return marshal(t, struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])}, "")
	}
	list := td.list(td.root.cert, td.rootKey, []*big.Int{big.NewInt(7)})
	if _, err := newTDXCollateralUnder(td.root, []Object{{KindIntelRootCRL, list}}); err != nil {
		t.Error(err)
	}
	for name, der := range map[string][]byte{"without an end": endless(t, list, sign), "with something behind it": append(bytes.Clone(list), 0)} {
		_, err := newTDXCollateralUnder(td.root, []Object{{KindIntelRootCRL, der}})
		if err == nil || !strings.Contains(err.Error(), "revocation list") {
			t.Errorf("a list of Intel's %s: %v", name, err)
		}
	}
}

// TestGraceObject reads the one object that no vendor signs.
func TestGraceObject(t *testing.T) {
	for text, ok := range map[string]bool{
		"1h0m0s": true, "1ns": true, "168h0m0s": true, "168h0m0.000000001s": false, "0s": false, "-1h0m0s": false, "1h": false, "60m": false, "": false, "soon": false,
	} {
		c, err := NewCollateral(AMDRoots(), []Object{{KindGrace, []byte(text)}})
		if (err == nil) != ok || ok && c.Grace.String() != text {
			t.Errorf("%q: %v, %s", text, err, c.Grace)
		}
		if ok {
			if got := c.Objects(); len(got) != 1 || got[0].Kind != KindGrace || string(got[0].Bytes) != text {
				t.Errorf("%q is written as %v", text, got)
			}
		}
	}
	if _, err := NewCollateral(AMDRoots(), []Object{{KindGrace, []byte("1h0m0s")}, {KindGrace, []byte("1h0m0s")}}); err == nil {
		t.Error("grace was granted twice")
	}
}

// TestObjectsOfEveryKind writes collateral of all kinds and reads it again: sorted, without doubles, and about one piece
// of evidence only what concerns it.
func TestObjectsOfEveryKind(t *testing.T) {
	s, p, td := newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, "cloud-one"), newSoftTD(t)
	roots := newRoots([]*authority{s.by, p.by})
	list, provider := s.list(s.now, s.now.AddDate(0, 0, 1)), p.list(s.now, s.now.AddDate(0, 0, 2))
	turin := newSoftSNP(t, Turin, 3, "")
	col, err := NewCollateral(roots, []Object{
		{KindVLEK, p.leaf}, {KindVCEK, s.leaf}, {KindVCEK, turin.leaf}, {KindAMDCRL, list}, {KindAMDCRL, provider}, {KindAMDCRL, list}, {KindGrace, []byte("1h0m0s")}, {KindAMDChain, encodeChain(s.by)},
	})
	if err != nil {
		t.Fatal(err)
	}
	col.TDX = td.collateral().TDX
	kinds := func(objects []Object) (out string) {
		for _, o := range objects {
			out += o.Kind + " "
		}
		return strings.TrimSpace(out)
	}
	if got, want := kinds(col.Objects()), "amd-crl amd-crl amd-vcek amd-vcek amd-vlek grace intel-pck-crl intel-qe-chain intel-qe-identity intel-root-crl intel-tcb-chain intel-tcbinfo"; got != want {
		t.Errorf("objects %s, want %s", got, want)
	}
	for i, o := range col.Objects()[1:] {
		before := col.Objects()[i]
		x, y := before.Digest(), o.Digest()
		if before.Kind == o.Kind && bytes.Compare(x[:], y[:]) >= 0 {
			t.Errorf("%s: not sorted by digest", o.Kind)
		}
	}
	short := s.evidence()
	short.Report = short.Report[:1183]
	for name, c := range map[string]struct {
		ev   Evidence
		want string
	}{
		"SNP":              {s.evidence(), "amd-crl amd-crl amd-vcek amd-vlek grace"},
		"SNP of no chip":   {short, "amd-crl amd-crl amd-vlek grace"},
		"SNP of another":   {Evidence{TEE: SEVSNP, Report: make([]byte, 1184)}, "amd-crl amd-crl amd-vlek grace"},
		"TDX":              {Evidence{TEE: TDX, Report: td.quote()}, "intel-pck-crl intel-qe-chain intel-qe-identity intel-root-crl intel-tcb-chain intel-tcbinfo"},
		"nothing we judge": {Evidence{TEE: "sample"}, ""},
	} {
		about := col.About(c.ev)
		if got := kinds(about.Objects()); got != c.want || about.Roots != roots {
			t.Errorf("about %s: %s, want %s", name, got, c.want)
		}
	}
	// The name of collateral is that of its kinds and digests, each after its length.
	text := []byte("\x00\x00\x00\x00\x00\x00\x00\x14siesta/collateral/v2")
	for _, o := range col.About(s.evidence()).Objects() {
		d := o.Digest()
		text = binary.BigEndian.AppendUint64(text, uint64(len(o.Kind)))
		text = append(text, o.Kind...)
		text = binary.BigEndian.AppendUint64(text, 32)
		text = append(text, d[:]...)
	}
	if got := col.About(s.evidence()).Digest(); got != (Object{"", text}).Digest() {
		t.Errorf("digest %s", got)
	}
	for name, object := range map[string]string{
		"not base64": `{"kind":"x","sha256":"` + Object{}.Digest().String() + `","bytes":"*"}`, "an unknown member": `{"kind":"x","size":1,"sha256":"` + Object{}.Digest().String() + `","bytes":""}`,
	} {
		if err := new(Object).UnmarshalJSON([]byte(object)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}
