package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSoftSNPIsAccepted: each product line, version and kind of key, and what the result then says.
func TestSoftSNPIsAccepted(t *testing.T) {
	for _, line := range []string{Milan, Genoa, Turin} {
		for _, provider := range []string{"", "cloud-one"} {
			s := newSoftSNP(t, line, 5, provider)
			for _, version := range []uint32{2, 3, 5} {
				s.version = version
				ev, col := s.evidence(), s.collateral()
				res, r := judged(t, ev, col, s.policy(), s.now)
				var v Verifier
				for range 2 { // the second time the chain has been proved
					if again, err := v.Verify(ev, col, s.policy(), s.now); (err == nil) != (r == nil) || r == nil && !reflect.DeepEqual(again, res) {
						t.Errorf("%s v%d: a verifier with memory says %+v, %v", line, version, again, err)
					}
				}
				if line == Turin && version == 2 {
					if got := failed(r); !slices.Equal(got, []string{snpTable[checkProduct].Name}) || r.Detail != "a version 2 report cannot be Turin's" {
						t.Errorf("a Turin report of version 2: %q", got)
					}
					continue
				}
				if r != nil {
					t.Fatalf("%s v%d %s: %v", line, version, provider, r)
				}
				leaf, err := parseLeaf(s.leaf)
				if err != nil {
					t.Fatal(err)
				}
				if !res.Simulated || res.Product != line || res.ReportVersion != version || res.VLEKProvider != provider || res.VCEK != leaf.sum ||
					res.Reported != s.tcb || res.Committed != s.tcb || res.Launch != s.tcb || res.CurrentTCB != s.tcb ||
					res.ChipID != s.chip || res.GuestPolicy != 0x30000 || res.PlatformInfo != 0x25 || res.TCBStatus != "at-floor" {
					t.Errorf("%s v%d %s: %+v", line, version, provider, res)
				}
				if vectors := map[uint32]uint64{5: 0xb}[version]; res.LaunchMitigations != vectors || res.CurrentMitigations != vectors {
					t.Errorf("%s v%d: mitigations %x, %x", line, version, res.LaunchMitigations, res.CurrentMitigations)
				}
				for name, want := range map[check]string{
					checkLayout: "1184 bytes", checkTEE: "sev-snp", checkChain: "ARK-" + line, checkLeaf: fmt.Sprintf("%x", leaf.sum),
					checkKeyType: map[bool]string{true: "VCEK", false: "VLEK"}[provider == ""], checkMeasurement: strings.Repeat("3e", 48),
					checkReportData: "dadadadadadadada…", checkRevoked: "there is no revocation list", checkRevocation: "the policy does not ask",
					checkAlias: "the policy does not ask", checkPlatform: "the policy does not ask; 0x25", checkMitigations: "the policy does not ask",
					checkProvider:        map[bool]string{true: "the chip itself signs"}[provider == ""],
					checkCertificateChip: map[bool]string{true: fmt.Sprintf("%x", s.chip), false: "a VLEK names no chip"}[provider == ""],
				} {
					if e := res.Checks[checkReportData].Expected; e != "dadadadadadadada…" {
						t.Errorf("report data expected: %q", e)
					}
					if got := res.Checks[name].Got; got != want {
						t.Errorf("%s v%d: check %q got %q, want %q", line, version, res.Checks[name].Name, got, want)
					}
				}
			}
		}
	}
}

// TestSNPGates changes one thing of a good guest at a time and signs it. Each row names all the checks that fail; the
// policy is the good guest's unless the row changes it.
func TestSNPGates(t *testing.T) {
	vcek, vlek := newSoftSNP(t, Genoa, 5, ""), newSoftSNP(t, Genoa, 5, "cloud-one")
	stranger := newSoftSNP(t, Genoa, 5, "")
	put := func(at int, b ...byte) func([]byte) { return func(r []byte) { copy(r[at:], b) } }
	or := func(at int, b byte) func([]byte) { return func(r []byte) { r[at] |= b } }
	below := func(change func(*TCB)) func(*Policy) {
		return func(p *Policy) {
			f := vcek.tcb
			change(&f)
			p.MinTCB = map[string]TCB{Genoa: f}
		}
	}
	all := []check{checkReportedTCB, checkCommittedTCB, checkLaunchTCB}
	for _, c := range []struct {
		name   string
		of     *softSNP
		alter  func([]byte)
		policy func(*Policy)
		given  func(*Evidence, *Collateral)
		code   string
		failed []check
	}{
		{"version 1", vcek, put(0, 1), nil, nil, CodeFormat, []check{checkLayout, checkVersion, checkReserved}}, // nor does the library read it
		{"version 4", vcek, put(0, 4), nil, nil, CodeVersion, []check{checkVersion, checkReserved}},
		{"version 6", vcek, put(0, 6), nil, nil, CodeVersion, []check{checkVersion}},
		{"signature algorithm", vcek, put(0x34, 2), nil, nil, CodeFormat, []check{checkSignatureAlgorithm, checkSignature}},
		{"debug", vcek, or(0x0a, 1<<3), func(p *Policy) { p.RequirePolicy |= 1 << 19 }, nil, CodeDebug, []check{checkDebug}},
		{"migration agent allowed", vcek, or(0x0a, 1<<2), func(p *Policy) { p.RequirePolicy |= 1 << 18 }, nil, CodeMigration, []check{checkMigration}},
		{"migration agent at work", vcek, put(0x17f, 0xfe), nil, nil, CodeMigration, []check{checkMigration}},
		{"VMPL 1", vcek, put(0x30, 1), nil, nil, CodeVMPL, []check{checkVMPL}},
		{"measurement", vcek, put(0x90, 1), nil, nil, CodeMeasurement, []check{checkMeasurement}},
		{"measurement of nothing", vcek, func(r []byte) { clear(r[0x90:0xc0]) }, func(p *Policy) { p.Measurements = [][]byte{make([]byte, 48)} }, nil, CodeMeasurement, []check{checkMeasurement}},
		{"report data", vcek, put(0x8f, 1), nil, nil, CodeReportData, []check{checkReportData}},
		{"report data of nothing", vcek, func(r []byte) { clear(r[0x50:0x90]) }, func(p *Policy) { p.ReportData = [64]byte{} }, nil, CodeReportData, []check{checkReportData}},
		{"guest policy", vcek, or(0x08, 1), nil, nil, CodePolicy, []check{checkGuestPolicy}},
		{"identity block", vcek, put(0xe0, 1), nil, nil, CodeIDBlock, []check{checkIDBlock}},
		{"author key", vcek, put(0x13f, 1), nil, nil, CodeIDBlock, []check{checkIDBlock}},
		{"author key enabled", vcek, or(0x48, 1), nil, nil, CodeIDBlock, []check{checkIDBlock}},
		{"host data", vcek, put(0xc0, 1), nil, nil, CodeHostData, []check{checkHostData}},
		{"line not allowed", vcek, nil, func(p *Policy) { p.Products = []string{Milan, Turin} }, nil, CodeProduct, []check{checkProductAllowed}},
		{"unknown processor", vcek, put(0x188, 0x19, 0x20), nil, nil, CodeProduct, []check{checkProduct}},
		{"processor of another line", vcek, put(0x188, 0x19, 0x01), nil, nil, CodeChain, []check{checkChain, checkProductAllowed, checkReportedTCB, checkCommittedTCB, checkLaunchTCB}},
		{"chip not registered", vcek, nil, func(p *Policy) { p.Chips = [][]byte{make([]byte, 64)} }, nil, CodeChip, []check{checkChip}},
		{"another chip", vcek, put(0x1a0, 1), nil, nil, CodeChip, []check{checkCertificateChip, checkChip}},
		{"chip hidden", vcek, func(r []byte) { clear(r[0x1a0:0x1e0]) }, func(p *Policy) { p.Chips = [][]byte{make([]byte, 64)} }, nil, CodeChip, []check{checkCertificateChip, checkMaskedChip}},
		{"key masked", vcek, or(0x48, 2), nil, nil, CodeChip, []check{checkMaskedChip}},
		{"key of no kind", vcek, put(0x48, 7<<2), nil, nil, CodeKeyType, []check{checkKeyType}},
		{"key of a provider, it says", vcek, put(0x48, 1<<2), nil, nil, CodeKeyType, []check{checkKeyType, checkLeaf}},
		{"policy for a provider's key", vcek, nil, func(p *Policy) { p.VLEKProvider = "cloud-one" }, nil, CodeKeyType, []check{checkKeyType}},
		{"simulated under a policy for genuine", vcek, nil, func(p *Policy) { p.Simulated = false }, nil, CodeChain, []check{checkHardware}},
		{"reported TCB is not the certificate's", vcek, put(0x180, 4), nil, nil, CodeTCB, []check{checkCertificateTCB}},
		{"reported TCB below", vcek, put(0x180, 2), nil, nil, CodeTCB, []check{checkCertificateTCB, checkReportedTCB}},
		{"committed TCB below", vcek, put(0x1e0, 2), nil, nil, CodeTCB, []check{checkCommittedTCB}},
		{"launch TCB below", vcek, put(0x1f0, 2), nil, nil, CodeTCB, []check{checkLaunchTCB}},
		{"committed above current", vcek, put(0x1e0, 4), nil, nil, CodeTCB, []check{checkCurrentTCB}},
		{"floor of the boot loader", vcek, nil, below(func(f *TCB) { f.Bootloader++ }), nil, CodeTCB, all},
		{"floor of the TEE", vcek, nil, below(func(f *TCB) { f.TEE++ }), nil, CodeTCB, all},
		{"floor of SNP", vcek, nil, below(func(f *TCB) { f.SNP++ }), nil, CodeTCB, all},
		{"floor of the microcode", vcek, nil, below(func(f *TCB) { f.Microcode++ }), nil, CodeTCB, all},
		{"floor of another line", vcek, nil, func(p *Policy) { p.MinTCB = map[string]TCB{Milan: {}} }, nil, CodeTCB, all},
		{"reserved byte of the current TCB", vcek, put(0x03a, 1), nil, nil, CodeTCB, []check{checkTCBLayout}},
		{"reserved byte of the reported TCB", vcek, put(0x185, 1), nil, nil, CodeTCB, []check{checkTCBLayout}},
		{"reserved byte of the committed TCB", vcek, put(0x1e2, 1), nil, nil, CodeTCB, []check{checkTCBLayout}},
		{"reserved byte of the launch TCB", vcek, put(0x1f5, 1), nil, nil, CodeTCB, []check{checkTCBLayout}},
		{"no alias check", vcek, put(0x040, 5), func(p *Policy) { p.RequireAliasCheck = true }, nil, CodePlatform, []check{checkAlias}},
		{"alias check", vcek, put(0x040, 0x20), func(p *Policy) { p.RequireAliasCheck = true }, nil, "", nil},
		{"mitigation missing at launch", vcek, put(0x1f8, 9), func(p *Policy) { p.RequireMitigations = 2 }, nil, CodePlatform, []check{checkMitigations}},
		{"mitigation missing now", vcek, put(0x200, 9), func(p *Policy) { p.RequireMitigations = 2 }, nil, CodePlatform, []check{checkMitigations}},
		{"one mitigation of two", vcek, nil, func(p *Policy) { p.RequireMitigations = 6 }, nil, CodePlatform, []check{checkMitigations}},
		{"no mitigations at all", vcek, func(r []byte) { clear(r[0x1f8:0x208]) }, func(p *Policy) { p.RequireMitigations = 1 }, nil, CodePlatform, []check{checkMitigations}},
		{"mitigations", vcek, nil, func(p *Policy) { p.RequireMitigations = 0xb }, nil, "", nil},
		{"mitigations of an older version", vcek, func(r []byte) { r[0] = 3; clear(r[0x1f8:0x208]) }, func(p *Policy) { p.RequireMitigations = 1 }, nil, CodePlatform, []check{checkMitigations}},
		{"no certificate", vcek, nil, nil, func(e *Evidence, _ *Collateral) { e.Certificates = nil }, CodeCollateral, []check{checkLeaf}},
		{"certificate of a stranger", vcek, nil, nil, func(e *Evidence, _ *Collateral) { e.Certificates = stranger.leaf }, CodeChain, []check{checkChain, checkSignature}},
		{"stranger's roots", vcek, nil, nil, func(_ *Evidence, c *Collateral) { *c = stranger.collateral() }, CodeChain, []check{checkChain}},
		{"signature", vcek, nil, nil, func(e *Evidence, _ *Collateral) { e.Report[0x2a0] ^= 1 }, CodeSignature, []check{checkSignature}},
		{"registered certificate", vcek, nil, nil, func(e *Evidence, c *Collateral) {
			e.Certificates, c.VCEKs = nil, map[string][][]byte{ChipKey(vcek.chip[:]): {stranger.leaf, vcek.leaf}}
		}, CodeChain, []check{checkChain, checkSignature}}, // of two that name the chip the first counts
		{"registered for another chip", vcek, nil, nil, func(e *Evidence, c *Collateral) {
			e.Certificates, c.VCEKs = nil, map[string][][]byte{"other": {vcek.leaf}}
		}, CodeCollateral, []check{checkLeaf}},
		{"provider not the policy's", vlek, nil, func(p *Policy) { p.VLEKProvider = "cloud-two" }, nil, CodeKeyType, []check{checkProvider}},
		{"provider where none is wanted", vlek, nil, func(p *Policy) { p.VLEKProvider = "" }, nil, CodeKeyType, []check{checkKeyType, checkProvider}},
		{"the chip signs, it says", vlek, put(0x48, 0), nil, nil, CodeKeyType, []check{checkKeyType, checkLeaf}},
		{"key masked under a VLEK", vlek, or(0x48, 2), nil, nil, "", nil},
		{"chip hidden under a VLEK", vlek, func(r []byte) { clear(r[0x1a0:0x1e0]) }, func(p *Policy) { p.Chips = [][]byte{make([]byte, 64)} }, nil, CodeChip, []check{checkMaskedChip}},
		{"provider's certificate at hand", vlek, nil, nil, func(e *Evidence, c *Collateral) { e.Certificates, c.VLEKs = nil, [][]byte{vlek.leaf} }, "", nil},
		{"provider's certificate as a chip's", vlek, nil, nil, func(e *Evidence, c *Collateral) {
			e.Certificates, c.VCEKs = nil, map[string][][]byte{ChipKey(vlek.chip[:]): {vlek.leaf}}
		}, CodeCollateral, []check{checkLeaf}},
		{"root without a key for VLEKs", vlek, nil, nil, func(_ *Evidence, c *Collateral) {
			a := *vlek.by
			a.asvk = nil
			*c = Collateral{Roots: newRoots([]*authority{&a})}
		}, CodeChain, []check{checkChain}},
	} {
		s := *c.of
		s.t, s.alter = t, c.alter
		ev, col, pol := s.evidence(), s.collateral(), s.policy()
		if c.policy != nil {
			c.policy(&pol)
		}
		if c.given != nil {
			c.given(&ev, &col)
		}
		res, r := judged(t, ev, col, pol, s.now)
		var want []string
		for _, f := range c.failed {
			want = append(want, snpTable[f].Name)
		}
		if got := failed(r); !slices.Equal(got, want) {
			t.Errorf("%s: failed checks %q, want %q", c.name, got, want)
		}
		if r != nil && (r.Code != c.code || r.Detail == "") || (r == nil) != (res != nil) {
			t.Errorf("%s: %v, want code %q", c.name, r, c.code)
		}
	}
}

// TestReservedFields sets each bit of a report and looks for the field that it falls into, by a table of its own.
func TestReservedFields(t *testing.T) {
	type span struct {
		from, to int // bits
		name     string
	}
	bytesOf := func(from, to int, name string) span { return span{from * 8, to * 8, name} }
	for version, more := range map[uint32][]span{
		2: {bytesOf(0x188, 0x18b, "188h"), bytesOf(0x1f8, 0x208, "1F8h")}, 3: {bytesOf(0x1f8, 0x208, "1F8h")}, 5: nil,
	} {
		reserved := append([]span{
			{0x008*8 + 26, 0x010 * 8, "guest policy"},
			{0x040*8 + 6, 0x040*8 + 7, "platform information"},
			{0x040*8 + 8, 0x048 * 8, "platform information"},
			{0x048*8 + 5, 0x04c * 8, "key information"},
			bytesOf(0x04c, 0x050, "4Ch"), bytesOf(0x18b, 0x1a0, "18Bh"), bytesOf(0x1eb, 0x1ec, "1EBh"), bytesOf(0x1ef, 0x1f0, "1EFh"),
			bytesOf(0x208, 0x2a0, "208h"), bytesOf(0x330, 0x4a0, "behind the signature"),
		}, more...)
		for bit := range 1184 * 8 {
			report := make([]byte, 1184)
			binary.LittleEndian.PutUint64(report[8:], 1<<17)
			report[bit/8] |= 1 << (bit % 8)
			want := ""
			for _, s := range reserved {
				if bit >= s.from && bit < s.to {
					want = s.name
				}
			}
			if got := reservedField(report, version); got != want {
				t.Fatalf("version %d, bit %d of byte %#x: %q, want %q", version, bit%8, bit/8, got, want)
			}
		}
		for bit := range 26 {
			report := make([]byte, 1184)
			binary.LittleEndian.PutUint64(report[8:], 1<<bit)
			if got := reservedField(report, version); (got == "guest policy") != (bit != 17) {
				t.Errorf("version %d, a guest policy of bit %d alone: %q", version, bit, got)
			}
		}
	}
}

// TestPlatformRulesByBit holds each rule against its own bit, by numbers of AMD 56860 §7.3.
func TestPlatformRulesByBit(t *testing.T) {
	for name, row := range map[string]struct {
		bit  uint
		rule func(*PlatformRules) *Rule
	}{
		"smt": {0, func(p *PlatformRules) *Rule { return &p.SMT }}, "tsme": {1, func(p *PlatformRules) *Rule { return &p.TSME }},
		"ecc": {2, func(p *PlatformRules) *Rule { return &p.ECC }}, "rapl_disabled": {3, func(p *PlatformRules) *Rule { return &p.RAPLDisabled }},
		"ciphertext_hiding": {4, func(p *PlatformRules) *Rule { return &p.CiphertextHiding }}, "tio": {7, func(p *PlatformRules) *Rule { return &p.TIO }},
	} {
		for _, info := range []uint64{0, 1 << row.bit, 0xff &^ (1 << row.bit), 0xff} {
			set := info>>row.bit&1 == 1
			for rule, want := range map[Rule]Status{
				Any: NotJudged, Required: map[bool]Status{true: Passed, false: Failed}[set], Barred: map[bool]Status{true: Failed, false: Passed}[set], "perhaps": Failed,
			} {
				j := judgement{verdict: newVerdict(snpTable)}
				*row.rule(&j.pol.Platform) = rule
				j.platform(info)
				c := j.checks[checkPlatform]
				if c.Status != want || !strings.HasSuffix(c.Got, fmt.Sprintf("0x%x", info)) {
					t.Errorf("%s of 0x%x under %q: %s (%s), want %s", name, info, rule, c.Status, c.Got, want)
				}
				if c.Status == Failed && (c.Expected != name+" "+string(rule) || !strings.HasSuffix(j.detail[checkPlatform], ": "+name)) {
					t.Errorf("%s: expected %q, %q", name, c.Expected, j.detail[checkPlatform])
				}
			}
		}
	}
	j := judgement{verdict: newVerdict(snpTable)}
	j.pol.Platform = PlatformRules{SMT: Barred, ECC: Required, TIO: Required}
	j.platform(1<<0 | 1<<7)
	if c := j.checks[checkPlatform]; c.Expected != "smt refused, ecc required, tio required" || j.detail[checkPlatform] != "the machine is configured otherwise: smt, ecc" {
		t.Errorf("%q, %q", c.Expected, j.detail[checkPlatform])
	}
}

// TestRevocationOfSNP judges lists of the soft machine's root: windows, grace, and what they name.
func TestRevocationOfSNP(t *testing.T) {
	s := newSoftSNP(t, Genoa, 3, "")
	from, to := s.now.AddDate(0, 0, -10), s.now.AddDate(0, 0, 10)
	const hour = time.Hour
	for _, c := range []struct {
		name   string
		lists  [][]byte
		grace  time.Duration
		at     time.Time
		rule   Revocation
		failed []check
		got    string // by checkRevocation
		detail string
	}{
		{"current", [][]byte{s.list(from, to)}, 0, s.now, RevocationRequired, nil, window(from, to), ""},
		{"at its first instant", [][]byte{s.list(from, to)}, 0, from, RevocationRequired, nil, window(from, to), ""},
		{"before it", [][]byte{s.list(from, to)}, hour, from.Add(-time.Second), RevocationRequired, []check{checkRevocation}, window(from, to), "the revocation list is from the future"},
		{"at its end", [][]byte{s.list(from, to)}, 0, to, RevocationRequired, []check{checkRevocation}, window(from, to), "the revocation list has expired"},
		{"at its end, with grace", [][]byte{s.list(from, to)}, hour, to, RevocationRequired, nil, window(from, to) + " and a grace of 1h0m0s", ""},
		{"at the end of its grace", [][]byte{s.list(from, to)}, hour, to.Add(hour), RevocationRequired, []check{checkRevocation}, window(from, to), "the revocation list has expired"},
		{"with more grace than there is", [][]byte{s.list(from, to)}, maxGrace + 1, to, RevocationRequired, []check{checkRevocation}, window(from, to), "the revocation list has expired"},
		{"with all the grace that there is", [][]byte{s.list(from, to)}, maxGrace, to, RevocationRequired, nil, window(from, to) + " and a grace of 168h0m0s", ""},
		{"with a grace of less than nothing", [][]byte{s.list(from, to)}, -hour, to.Add(-2 * hour), RevocationRequired, nil, window(from, to), ""},
		{"none", nil, hour, s.now, RevocationRequired, []check{checkRevocation}, "none", "there is no revocation list of this root"},
		{"none, not asked for", nil, 0, s.now, RevocationNotJudged, nil, "the policy does not ask", ""},
		{"expired, not asked for", [][]byte{s.list(from, to)}, 0, to, RevocationNotJudged, nil, "the policy does not ask", ""},
		{"the leaf", [][]byte{s.list(from, to, 77)}, 0, s.now, RevocationRequired, []check{checkRevoked}, window(from, to), "a certificate of the chain has been revoked"},
		{"the intermediate", [][]byte{s.list(from, to, 2)}, 0, s.now, RevocationRequired, []check{checkRevoked}, window(from, to), "a certificate of the chain has been revoked"},
		{"somebody else", [][]byte{s.list(from, to, 78)}, 0, s.now, RevocationRequired, nil, window(from, to), ""},
		{"the later of two", [][]byte{s.list(from, from.Add(hour)), s.list(from.Add(hour), to)}, 0, s.now, RevocationRequired, nil, window(from.Add(hour), to), ""},
		{"the later of two, given first", [][]byte{s.list(from.Add(hour), to), s.list(from, from.Add(hour))}, 0, s.now, RevocationRequired, nil, window(from.Add(hour), to), ""},
		{"named by the earlier of two", [][]byte{s.list(from.Add(hour), to), s.list(from, to, 77)}, 0, s.now, RevocationRequired, []check{checkRevoked}, window(from.Add(hour), to), "a certificate of the chain has been revoked"},
	} {
		col := s.collateral()
		if c.lists != nil {
			var err error
			if col.CRLs, err = ParseCRLs(col.Roots, c.lists...); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		col.Grace = c.grace
		pol := s.policy()
		pol.Revocation = c.rule
		// Once without memory and twice with: the second time the chain has been proved.
		var v Verifier
		for _, verify := range []func(Evidence, Collateral, Policy, time.Time) (*Result, error){Verify, v.Verify, v.Verify} {
			res, err := verify(s.evidence(), col, pol, c.at)
			var checks []Check
			var r *Refusal
			if err != nil {
				r = refused(t, err)
				checks = r.Checks
			} else {
				checks = res.Checks
			}
			var want []string
			for _, f := range c.failed {
				want = append(want, snpTable[f].Name)
			}
			if got := failed(r); !slices.Equal(got, want) {
				t.Errorf("%s: failed checks %q, want %q", c.name, got, want)
			}
			if got := checks[checkRevocation].Got; got != c.got || r != nil && r.Detail != c.detail {
				t.Errorf("%s: got %q, want %q; %v", c.name, got, c.got, r)
			}
			if got := checks[checkRevoked]; c.lists != nil && got.Got != map[bool]string{true: "revoked", false: "not revoked"}[got.Status == Failed] {
				t.Errorf("%s: %+v", c.name, got)
			}
		}
	}
}

// TestChainWindow: a proof holds from the first instant to the last of all three certificates, remembered or not.
func TestChainWindow(t *testing.T) {
	s := newSoftSNP(t, Genoa, 3, "")
	var v Verifier
	leaf, err := parseLeaf(s.leaf)
	if err != nil {
		t.Fatal(err)
	}
	long := *s
	long.leaf = s.issue(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = s.now.AddDate(-3, 0, 0), s.now.AddDate(3, 0, 0) })
	for _, m := range []struct {
		*softSNP
		from, to time.Time
	}{{s, leaf.cert.NotBefore, leaf.cert.NotAfter}, {&long, s.by.ark.NotBefore, s.by.ark.NotAfter}} {
		for _, c := range []struct {
			at   time.Time
			good bool
		}{{m.now, true}, {m.from, true}, {m.from.Add(-time.Second), false}, {m.to, true}, {m.to.Add(time.Second), false}} {
			for _, verify := range []func(Evidence, Collateral, Policy, time.Time) (*Result, error){Verify, v.Verify} {
				_, err := verify(m.evidence(), m.collateral(), m.policy(), c.at)
				if (err == nil) != c.good {
					t.Errorf("at %s of %s: %v", c.at, window(m.from, m.to), err)
				}
				if err != nil && !slices.Equal(failed(refused(t, err)), []string{snpTable[checkChain].Name}) {
					t.Errorf("at %s: %q", c.at, failed(refused(t, err)))
				}
			}
		}
	}
	if len(v.cache.chains) != 2 {
		t.Errorf("%d chains in memory", len(v.cache.chains))
	}
	for c := range v.cache.chains {
		if ch := v.cache.chains[c]; !ch.notBefore.Equal(leaf.cert.NotBefore) && !ch.notBefore.Equal(s.by.ark.NotBefore) {
			t.Errorf("a proof from %s", ch.notBefore)
		}
	}
	if bytes.Equal(s.leaf, long.leaf) {
		t.Error("the same certificate")
	}
}

// TestWhatChecksSay: expectation and finding of checks whose words depend on the evidence.
func TestWhatChecksSay(t *testing.T) {
	vcek, unknown := newSoftSNP(t, Genoa, 5, ""), newSoftSNP(t, Genoa, 2, "")
	unknown.leaf = unknown.issue(func(c *x509.Certificate) {
		c.ExtraExtensions[0].Value = marshal(t, "Naples-B0", "ia5")
	})
	for name, c := range map[string]struct {
		of            *softSNP
		alter         func([]byte)
		policy        func(*Policy)
		check         check
		expected, got string
	}{
		"report data":               {vcek, func(b []byte) { b[0x51] = 1 }, nil, checkReportData, "dadadadadadadada…", "da01dadadadadada…"},
		"kind of key":               {vcek, func(b []byte) { b[0x48] = 7 << 2 }, nil, checkKeyType, "VCEK", "none"},
		"another kind is asked for": {vcek, nil, func(p *Policy) { p.VLEKProvider = "cloud-one" }, checkKeyType, "VLEK", "VCEK"},
		"processor":                 {vcek, func(b []byte) { b[0x189] = 0x20 }, nil, checkProduct, "Milan, Genoa or Turin", "family 0x19 model 0x20"},
		"processor of version 3":    {vcek, func(b []byte) { b[0], b[0x188] = 3, 0x17 }, nil, checkProduct, "Milan, Genoa or Turin", "family 0x17 model 0x11"},
		"the certificate's line":    {unknown, nil, nil, checkProduct, "Milan, Genoa or Turin", "the certificate's"},
		"simulated":                 {vcek, nil, func(p *Policy) { p.Simulated = false }, checkHardware, "genuine", "simulated"},
		"mitigations of version 3":  {vcek, func(b []byte) { b[0] = 3; clear(b[0x1f8:0x208]) }, func(p *Policy) { p.RequireMitigations = 5 }, checkMitigations, "0x5", "not reported"},
		"mitigations":               {vcek, func(b []byte) { b[0x200] = 3 }, func(p *Policy) { p.RequireMitigations = 8 }, checkMitigations, "0x8", "launch 0xb, now 0x3"},
		"guest policy":              {vcek, nil, func(p *Policy) { p.RequirePolicy = 0x20000 }, checkGuestPolicy, "0x20000", "0x30000"},
		"VMPL":                      {vcek, func(b []byte) { b[0x30] = 3 }, nil, checkVMPL, "0", "3"},
		"version":                   {vcek, func(b []byte) { b[0] = 4 }, nil, checkVersion, "2, 3 or 5", "4"},
	} {
		s := *c.of
		s.t, s.alter = t, c.alter
		pol := s.policy()
		if c.policy != nil {
			c.policy(&pol)
		}
		_, r := judged(t, s.evidence(), s.collateral(), pol, s.now)
		if r == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if k := r.Checks[c.check]; k.Status != Failed || k.Expected != c.expected || k.Got != c.got {
			t.Errorf("%s: expected %q, got %q", name, k.Expected, k.Got)
		}
	}
}
