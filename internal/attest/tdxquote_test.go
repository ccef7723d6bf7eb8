package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestQuoteLengths bends every length within a quote by one, and cuts it everywhere: no length is believed that does not
// fit the others, and the library is not asked before.
func TestQuoteLengths(t *testing.T) {
	s := newSoftTD(t)
	for _, form := range quoteForms {
		s.form = form
		raw := s.quote()
		name, at, size := quoteForm(raw)
		if want := map[string][2]int{"v4": {48, 584}, "v5-tdx1.0": {54, 584}, "v5-tdx1.5": {54, 648}}[form]; name != form || at != want[0] || size != want[1] {
			t.Fatalf("%s is read as %s, body of %d at %d", form, name, size, at)
		}
		read := func(b []byte) error { _, err := readQuote(b, form, at, size); return err }
		end := at + size
		cert := end + 4 + 64 + 64
		auth := cert + 6 + 384 + 64
		pck := auth + 2 + len(s.authData)
		fields := map[string][2]int{ // where and how wide
			"signature data": {end, 4}, "certification": {cert, 2}, "length of the certification": {cert + 2, 4},
			"length of the authentication data": {auth, 2}, "kind of the chain": {pck, 2}, "length of the chain": {pck + 2, 4},
		}
		if form != quoteForm4 {
			fields["length of the body"] = [2]int{50, 4}
		}
		for field, f := range fields {
			for _, by := range []int{-1, 1} {
				b := bytes.Clone(raw)
				if f[1] == 2 {
					binary.LittleEndian.PutUint16(b[f[0]:], binary.LittleEndian.Uint16(b[f[0]:])+uint16(by))
				} else {
					binary.LittleEndian.PutUint32(b[f[0]:], binary.LittleEndian.Uint32(b[f[0]:])+uint32(by))
				}
				if err := read(b); err == nil || err.Error() != quoteLengthsMismatch {
					t.Errorf("%s, %s %+d: %v", form, field, by, err)
				}
			}
		}
		for n := end; n < len(raw); n++ {
			if err := read(raw[:n:n]); err == nil || err.Error() != quoteLengthsMismatch {
				t.Fatalf("%s cut after %d bytes: %v", form, n, err)
			}
		}
		if err := read(append(bytes.Clone(raw), 1, 2, 3)); err != nil {
			t.Errorf("%s with something behind it: %v", form, err)
		}
		for _, beyond := range []int{len(raw), len(raw) - auth - 2 - 5, len(raw) - auth - 2 + 1, 0xffff} {
			b := bytes.Clone(raw)
			binary.LittleEndian.PutUint16(b[auth:], uint16(beyond))
			if err := read(b); err == nil || err.Error() != quoteLengthsMismatch {
				t.Errorf("%s, authentication data of %d bytes: %v", form, beyond, err)
			}
		}
		// What a proof is remembered by begins with the attestation key and ends with the chain.
		if q, err := readQuote(raw, form, at, size); err != nil || !bytes.Equal(q.certification, raw[end+4+64:]) || !bytes.Equal(q.signed, raw[:end]) || !bytes.Equal(q.header, raw[:48]) {
			t.Errorf("%s: %v", form, err)
		}
		// The least that signature data can be: an empty authentication data and an empty chain.
		least := bytes.Clone(raw[:auth+2])
		binary.LittleEndian.PutUint16(least[auth:], 0)
		least = append(least, 5, 0, 0, 0, 0, 0)
		binary.LittleEndian.PutUint32(least[end:], uint32(len(least)-end-4))
		binary.LittleEndian.PutUint32(least[cert+2:], uint32(len(least)-cert-6))
		if err := read(least); err != nil && err.Error() == quoteLengthsMismatch {
			t.Errorf("%s of the least length: %v", form, err)
		}
	}
}

// TestQuoteHead: what the first bytes of a quote say decides whether the rest is looked at.
func TestQuoteHead(t *testing.T) {
	s := newSoftTD(t)
	s.form = quoteForm4
	raw := s.quote()
	with := func(at int, b ...byte) []byte { out := bytes.Clone(raw); copy(out[at:], b); return out }
	const least = 48 + 584 + 4 + 64 + 64 + 6 + 384 + 64 + 2 + 6
	signature := tdxTable[tdxSignature].Name
	for name, c := range map[string]struct {
		raw      []byte
		failed   []string
		expected string
		got      string
	}{
		"too short":         {make([]byte, least-1), []string{"quote layout"}, "1226 to 65536 bytes", "1225 bytes"},
		"as short as it is": {make([]byte, least), []string{tdxTable[tdxForm].Name, tdxTable[tdxKeyType].Name}, "v4, v5-tdx1.0, v5-tdx1.5", ""},
		"too long":          {append(bytes.Clone(raw), make([]byte, 64<<10+1-len(raw))...), []string{"quote layout"}, "1226 to 65536 bytes", "65537 bytes"},
		"as long as it is":  {append(bytes.Clone(raw), make([]byte, 64<<10-len(raw))...), nil, "", ""},
		"another version":   {with(0, 3), []string{tdxTable[tdxForm].Name}, "v4, v5-tdx1.0, v5-tdx1.5", ""},
		"another kind":      {with(2, 3), []string{tdxTable[tdxKeyType].Name}, "2 (ECDSA P-256), 0x81 (TDX)", "3, 0x81"},
		"a wider kind":      {with(3, 1), []string{tdxTable[tdxKeyType].Name}, "2 (ECDSA P-256), 0x81 (TDX)", "258, 0x81"},
		"of SGX":            {with(4, 0), []string{tdxTable[tdxKeyType].Name}, "2 (ECDSA P-256), 0x81 (TDX)", "2, 0x0"},
		"another vendor":    {with(12, 0), []string{tdxTable[tdxVendor].Name, signature}, intelQEVendor, "00" + intelQEVendor[2:]},
		"another vendor's":  {with(27, 0), []string{tdxTable[tdxVendor].Name, signature}, intelQEVendor, intelQEVendor[:30] + "00"},
		"lengths":           {with(48+584, 0), []string{"quote layout"}, "", ""},
	} {
		_, r := judged(t, Evidence{TEE: TDX, Report: c.raw}, s.collateral(), s.policy(), s.now)
		if got := failed(r); !slices.Equal(got, c.failed) {
			t.Errorf("%s: failed checks %q, want %q", name, got, c.failed)
		}
		if name == "lengths" && r.Detail != quoteLengthsMismatch {
			t.Errorf("%s: %q", name, r.Detail)
		}
		if r != nil && len(c.failed) > 0 {
			for _, k := range r.Checks {
				if k.Name == c.failed[0] && (k.Expected != c.expected || k.Got != c.got) {
					t.Errorf("%s: expected %q, got %q", name, k.Expected, k.Got)
				}
			}
		}
	}
}

// TestSoftTDSaysAll: the result and the words of the checks of an accepted quote, with memory and without.
func TestSoftTDSaysAll(t *testing.T) {
	s := newSoftTD(t)
	for _, form := range quoteForms {
		s.form = form
		ev, col := Evidence{TEE: TDX, Report: s.quote()}, s.collateral()
		res, r := judged(t, ev, col, s.policy(), s.now)
		if r != nil {
			t.Fatal(r)
		}
		ppid := bytes.Repeat([]byte{0x50}, 16)
		id := sha256.Sum256(append([]byte("\x00\x00\x00\x00\x00\x00\x00\x16siesta/td-report-id/v1\x00\x00\x00\x00\x00\x00\x00\x40"), s.body.reportData[:]...))
		if res.ReportID != id || res.ReportVersion != map[bool]uint32{true: 4, false: 5}[form == quoteForm4] || !bytes.Equal(res.ChipID[:], append(ppid, make([]byte, 48)...)) ||
			!bytes.Equal(res.TDX.PPID[:], ppid[:16]) || res.TDX.FMSPC != softFMSPC || res.TDX.PCEID != softPCEID || res.VCEK != sha256.Sum256(s.pck.Raw) ||
			res.Measurement != s.body.mrTD || res.ReportData != s.body.reportData || res.TDX.RTMRs != s.body.rtmrs || res.TDX.EventLog {
			t.Errorf("%s: %+v %+v", form, res, res.TDX)
		}
		if now := form == quoteForm5Body15; res.TDX.HasSVN2 != now || (res.TDX.TCBSVN2 == s.body.svn2) != now {
			t.Errorf("%s: %+v", form, res.TDX)
		}
		untold := map[bool]string{true: "this form of the quote does not tell"}[form != quoteForm5Body15]
		level := "UpToDate (level of 2026-01-01)"
		or := func(told string) string {
			if untold != "" {
				return untold
			}
			return told
		}
		for check, want := range map[check]string{
			checkTEE: "tdx", checkLayout: fmt.Sprintf("%d bytes", len(ev.Report)), tdxForm: form, tdxVendor: intelQEVendor, tdxCertificate: hex.EncodeToString(res.VCEK[:]), tdxChain: "Intel SGX Root CA",
			tdxSigner: "Intel SGX TCB Signing", tdxRevoked: "", tdxSeamSigner: strings.Repeat("00", 8) + "…", tdxSeamAttributes: strings.Repeat("00", 8), tdxModule: level, tdxLevel: level, tdxQELevel: level,
			tdxModuleNow: or(level), tdxLevelNow: or(level), tdxServiceTD: or(strings.Repeat("00", 48)), tdxReportData: "da00000000000000…", tdxConfigID: "zero", tdxOwner: "zero", tdxOwnerConfig: "zero",
			tdxEventLog: "none came, and the policy does not ask", tdxCommandLine: "the policy does not ask", tdxInitrd: "the policy does not ask", tdxStatus: "UpToDate", tdxTCBRevoked: "UpToDate",
			tdxMRTD: hex.EncodeToString(s.body.mrTD[:]), tdxRTMR0: hex.EncodeToString(s.body.rtmrs[0][:]), tdxRTMR3: hex.EncodeToString(s.body.rtmrs[3][:]), tdxEvaluation: "20",
			tdxInfoPlatform: softPCEID, tdxRegistered: strings.Repeat("50", 16), tdxHardware: "simulated", tdxQEProduct: "2",
		} {
			if got := res.Checks[check]; got.Got != want {
				t.Errorf("%s: check %q got %q, want %q", form, got.Name, got.Got, want)
			}
		}
		for check, want := range map[check]string{
			tdxReportData: "da00000000000000…", tdxMRTD: hex.EncodeToString(s.body.mrTD[:]), tdxKnownAttributes: "0x80000000f0000001",
			tdxKnownFeatures: "0x6dbe7", tdxRegistered: "one of 1 registered", tdxEvaluation: "at least 0", tdxServiceTD: map[bool]string{true: "none, or one of 0"}[untold == ""],
		} {
			if got := res.Checks[check]; got.Expected != want {
				t.Errorf("%s: check %q expected %q, want %q", form, got.Name, got.Expected, want)
			}
		}
		var v Verifier
		for range 3 {
			if again, err := v.Verify(ev, col, s.policy(), s.now); err != nil || !reflect.DeepEqual(again, res) {
				t.Errorf("%s: a verifier with memory says %+v, %v", form, again, err)
			}
		}
	}
}
