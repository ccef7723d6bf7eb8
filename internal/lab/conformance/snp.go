//go:build devtee

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// own is the policy that admits exactly this report, as far as the gates let it.
func own(report []byte, line string) attest.Policy {
	t := report[0x180:0x188]
	tcb := attest.TCB{Bootloader: t[0], TEE: t[1], SNP: t[6], Microcode: t[7]}
	if line == attest.Turin {
		tcb = attest.TCB{FMC: t[0], Bootloader: t[1], TEE: t[2], SNP: t[3], Microcode: t[7]}
	}
	p := attest.NovaPolicy(map[string]attest.TCB{line: tcb})
	p.RequirePolicy = binary.LittleEndian.Uint64(report[0x008:])
	p.Measurements, p.Chips = [][]byte{report[0x090:0x0c0]}, [][]byte{report[0x1a0:0x1e0]}
	copy(p.ReportData[:], report[0x050:0x090])
	return p
}

type row struct {
	id, about string
	attacks   []int
	report    string
	line      string
	cert      string
	patch     []patch
	length    int
	at        time.Time
	change    func(*attest.Policy)
}

func snpReal(w *writer) ([]testCase, error) {
	const v5, v5cert, milan, milanCert = "siena-v5-report.bin", "siena-v5-vcek.der", "milan-v2-report.bin", "milan-v2-vcek.der"
	siena := func(id, about string, change func(*attest.Policy), attacks ...int) row {
		return row{id: id, about: about, attacks: attacks, report: v5, line: attest.Genoa, cert: v5cert, change: change}
	}
	bent := func(id, about string, at int, hex string, attacks ...int) row {
		r := siena(id, about, nil, attacks...)
		r.patch = []patch{{at, hex}}
		return r
	}
	rows := []row{
		siena("siena-v5", "a genuine version 5 report of a Siena machine within policy", nil),
		siena("siena-v5-mitigations", "the same, asked for alias check and mitigations that it has", func(p *attest.Policy) { p.RequireAliasCheck, p.RequireMitigations = true, 0xb }, 21, 25),
		{id: "siena-v3", about: "a genuine version 3 report, as a KBS client sends it", report: "siena-v3-kbs-evidence.json", line: attest.Genoa},
		{id: "milan-v2", about: "genuine, but launched with an identity block", report: milan, line: attest.Milan, cert: milanCert},
		{id: "milan-v2-legacy-certificate", about: "a made-up certificate, hardware id as bare bytes", attacks: []int{18}, report: milan, line: attest.Milan, cert: "milan-v2-vcek-invalid-legacy.der"},
		{id: "milan-v2-new-certificate", about: "a made-up certificate, hardware id in an OCTET STRING", attacks: []int{18}, report: milan, line: attest.Milan, cert: "milan-v2-vcek-invalid-new.der"},
		{id: "debug-guest", about: "a genuine report of a debug guest, under a policy that names its guest policy", attacks: []int{12}, report: "debug-v2-report.bin", line: attest.Milan, cert: "debug-v2-vcek.der"},
		{id: "other-chips-certificate", about: "another product line's certificate", attacks: []int{18}, report: v5, line: attest.Genoa, cert: milanCert},
		{id: "turin-certificate", about: "a Turin certificate with a Siena report", attacks: []int{18, 20}, report: v5, line: attest.Genoa, cert: "turin-vcek.der"},
		{id: "milan-report-siena-certificate", about: "a version 2 report takes its product from the certificate", attacks: []int{18}, report: milan, line: attest.Milan, cert: v5cert},
		{id: "no-certificate", about: "no certificate at all", report: v5, line: attest.Genoa},
		siena("other-measurement", "launched from something else", func(p *attest.Policy) { p.Measurements = [][]byte{make([]byte, 48)} }, 9, 10, 11),
		siena("other-challenge", "the report data of another challenge", func(p *attest.Policy) { p.ReportData = [64]byte{1} }, 1),
		siena("no-report-data", "nothing to bind to", func(p *attest.Policy) { p.ReportData = [64]byte{} }, 4),
		siena("unregistered-chip", "a genuine machine of somebody else", func(p *attest.Policy) { p.Chips = [][]byte{make([]byte, 64)} }, 6, 23),
		siena("line-denied", "the product line is switched off", func(p *attest.Policy) { p.Products = []string{attest.Milan} }, 24),
		siena("floor-raised", "a floor above the firmware", func(p *attest.Policy) { p.MinTCB = map[string]attest.TCB{attest.Genoa: {SNP: 28}} }, 19, 25),
		siena("no-floor", "no floor for the product line", func(p *attest.Policy) { p.MinTCB = nil }, 19),
		siena("no-revocation-list", "a list is asked for and there is none", func(p *attest.Policy) { p.Revocation = attest.RevocationRequired }, 26),
		siena("guest-policy", "another guest policy", func(p *attest.Policy) { p.RequirePolicy = 0x20000 }, 14),
		siena("smt-refused", "the policy refuses SMT", func(p *attest.Policy) { p.Platform.SMT = attest.Barred }, 14),
		siena("ciphertext-hiding", "the policy asks for what no Nova host can set", func(p *attest.Policy) { p.Platform.CiphertextHiding = attest.Required }, 22),
		siena("mitigation-missing", "a mitigation that the firmware lacks", func(p *attest.Policy) { p.RequireMitigations = 0x10 }, 25),
		siena("vlek-policy", "the policy asks for a provider's key", func(p *attest.Policy) { p.VLEKProvider = "provider" }, 16),
		siena("zero-policy", "the zero policy admits nothing", func(p *attest.Policy) { *p = attest.Policy{} }),
		bent("version-6", "a version that nobody has read", 0x000, "06", 34),
		bent("unknown-processor", "family and model that are not known", 0x188, "ffff", 34),
		bent("calls-itself-turin", "Siena's report, called Turin's", 0x188, "1a02", 20),
		bent("calls-itself-milan", "Siena's report, called Milan's", 0x188, "1901", 20),
		bent("other-report-data", "report data written over", 0x050, "00", 1, 5),
		bent("debug-hidden", "one bit of the guest policy", 0x00a, "02", 12),
		bent("reserved", "a reserved field is set", 0x04c, "01", 34),
		bent("behind-the-signature", "a byte behind the signature", 0x400, "01", 34),
		bent("signature", "one byte of the signature", 0x2a0, "ff"),
	}
	cut := siena("cut", "one byte is missing", nil, 34)
	cut.length = 1183
	long := siena("prolonged", "one byte too many", nil, 34)
	long.length = 1185
	early := siena("before-the-certificate", "judged before the certificate is valid", nil, 42)
	early.at = time.Date(2026, 2, 16, 0, 0, 0, 0, time.UTC)
	late := siena("after-the-certificate", "judged after the certificate expired", nil, 42)
	late.at = time.Date(2033, 2, 18, 0, 0, 0, 0, time.UTC)
	var out []testCase
	for _, r := range append(rows, cut, long, early, late) {
		c, err := r.judged(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.id, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (r row) judged(w *writer) (testCase, error) {
	c := testCase{ID: r.id, About: r.about, Attacks: r.attacks, Patch: r.patch, Length: r.length, At: r.at}
	if c.At.IsZero() {
		c.At = now
	}
	ev := attest.Evidence{TEE: attest.SEVSNP}
	in, data, err := w.real("", r.report)
	if err != nil {
		return c, err
	}
	if json.Valid(data) {
		in.Kind = "kbs"
		parsed, err := kbs.ParseEvidence("snp", data)
		if err != nil {
			return c, err
		}
		data, ev.Certificates = parsed.Report, parsed.Certificates
	}
	c.Report = in
	pol := own(data, r.line)
	if r.change != nil {
		r.change(&pol)
	}
	if ev.Report, err = c.apply(data); err != nil {
		return c, err
	}
	if r.cert != "" {
		in, data, err := w.real("", r.cert)
		if err != nil {
			return c, err
		}
		c.Certificates, ev.Certificates = &in, data
	}
	c.close(ev, attest.Collateral{Roots: attest.AMDRoots()}, pol)
	return c, nil
}

type madeRow struct {
	id, about string
	attacks   []int
	alter     func([]byte)
	change    func(*attest.Policy)
	list      string
	genuine   bool
}

// snpMade are cases of which no genuine sample is public.
func snpMade(w *writer) ([]testCase, error) {
	set := func(at int, b ...byte) func([]byte) { return func(r []byte) { copy(r[at:], b) } }
	var out []testCase
	for _, cfg := range []softpsp.Config{
		{Line: attest.Milan, Version: 2},
		{Line: attest.Genoa, Version: 3},
		{Line: attest.Genoa, Version: 5},
		{Line: attest.Turin, Version: 3},
		{Line: attest.Turin, Version: 5},
		{Line: attest.Genoa, Version: 5, Provider: "provider"},
	} {
		cfg.Now = now
		name := fmt.Sprintf("%s-v%d", map[string]string{attest.Milan: "milan", attest.Genoa: "genoa", attest.Turin: "turin"}[cfg.Line], cfg.Version)
		if cfg.Provider != "" {
			name += "-vlek"
		}
		rows := []madeRow{{id: "good", about: "a good report under simulated roots"}}
		switch name {
		case "genoa-v5":
			rows = append(rows,
				madeRow{id: "amd-roots", about: "intermediate and root of somebody's own, judged under AMD's", attacks: []int{18}, genuine: true},
				madeRow{id: "not-simulated", about: "simulated hardware under a policy for genuine", change: func(p *attest.Policy) { p.Simulated = false }},
				madeRow{id: "debug", about: "debugging allowed", attacks: []int{12}, alter: set(0x00a, 0x0b), change: func(p *attest.Policy) { p.RequirePolicy = 0xb0000 }},
				madeRow{id: "migration-allowed", about: "a migration agent allowed", attacks: []int{13}, alter: set(0x00a, 0x07), change: func(p *attest.Policy) { p.RequirePolicy = 0x70000 }},
				madeRow{id: "migration-agent", about: "a migration agent present", attacks: []int{13}, alter: set(0x160, 1)},
				madeRow{id: "vmpl-1", about: "asked for at VMPL 1", attacks: []int{15}, alter: set(0x030, 1)},
				madeRow{id: "masked-key", about: "the chip's key is masked", attacks: []int{17}, alter: set(0x048, 2)},
				madeRow{id: "masked-chip", about: "the chip id is hidden", attacks: []int{17}, alter: set(0x1a0, make([]byte, 64)...)},
				madeRow{id: "says-vlek", about: "says that a provider's key signed", attacks: []int{16}, alter: set(0x048, 4)},
				madeRow{id: "no-key", about: "says that no key signed", alter: set(0x048, 7<<2)},
				madeRow{id: "host-data", about: "host data", alter: set(0x0c0, 1)},
				madeRow{id: "author-key", about: "an author key", alter: set(0x110, 1)},
				madeRow{id: "single-socket", about: "a bit of the guest policy that Nova never sets", attacks: []int{14}, alter: set(0x00a, 0x13)},
				madeRow{id: "reported-below", about: "reported TCB below the certificate's", attacks: []int{19}, alter: set(0x186, 26)},
				madeRow{id: "committed-below", about: "committed TCB below the floor", attacks: []int{19}, alter: set(0x1e6, 26)},
				madeRow{id: "launch-below", about: "launched on firmware below the floor", attacks: []int{19}, alter: set(0x1f6, 26)},
				madeRow{id: "committed-above-current", about: "committed TCB above the current", attacks: []int{19}, alter: set(0x03e, 26)},
				madeRow{id: "reserved-tcb", about: "a reserved byte of a TCB", attacks: []int{20}, alter: set(0x183, 1)},
				madeRow{id: "alias", about: "memory not checked for aliases", attacks: []int{21}, alter: set(0x040, 0x05), change: func(p *attest.Policy) { p.RequireAliasCheck = true }},
				madeRow{id: "mitigation-at-launch", about: "a mitigation that came after the launch", attacks: []int{25}, alter: set(0x1f8, 0x9), change: func(p *attest.Policy) { p.RequireMitigations = 2 }},
				madeRow{id: "unknown-platform-bit", about: "a platform bit that nobody knows", attacks: []int{34}, alter: set(0x040, 0x65)},
				madeRow{id: "list-fresh", about: "a fresh revocation list, asked for", attacks: []int{26}, list: "fresh", change: needList},
				madeRow{id: "list-expired", about: "an expired list", attacks: []int{26}, list: "expired", change: needList},
				madeRow{id: "list-future", about: "a list from the future", attacks: []int{26}, list: "future", change: needList},
				madeRow{id: "intermediate-revoked", about: "the intermediate is revoked", attacks: []int{26}, list: "revoked", change: needList},
			)
		case "turin-v5":
			rows = append(rows,
				madeRow{id: "fmc-below", about: "FMC below the floor", attacks: []int{19, 20}, change: func(p *attest.Policy) { p.MinTCB = map[string]attest.TCB{attest.Turin: {FMC: 2}} }},
				madeRow{id: "genoa-layout", about: "a TCB in Genoa's layout", attacks: []int{20}, alter: set(0x180, 10, 0, 0, 0, 0, 0, 27, 27)},
				madeRow{id: "long-chip-id", about: "a chip id of more than eight bytes", alter: set(0x1a8, 1)},
				madeRow{id: "version-2", about: "version 2, which Turin never wrote", attacks: []int{20}, alter: func(b []byte) { b[0] = 2; clear(b[0x188:0x18b]); clear(b[0x1f8:0x208]) }},
			)
		case "genoa-v5-vlek":
			rows = append(rows,
				madeRow{id: "default", about: "a provider's key under a policy that names none", attacks: []int{16}, change: func(p *attest.Policy) { p.VLEKProvider = "" }},
				madeRow{id: "other-provider", about: "another provider's key", attacks: []int{16}, change: func(p *attest.Policy) { p.VLEKProvider = "another" }},
				madeRow{id: "masked-chip", about: "a provider's key and no chip id", attacks: []int{17}, alter: set(0x1a0, make([]byte, 64)...)},
			)
		}
		cases, err := made(w, cfg, name, rows)
		if err != nil {
			return nil, err
		}
		out = append(out, cases...)
	}
	return out, nil
}

func needList(p *attest.Policy) { p.Revocation = attest.RevocationRequired }

func made(w *writer, cfg softpsp.Config, name string, rows []madeRow) ([]testCase, error) {
	p, err := softpsp.New(cfg)
	if err != nil {
		return nil, err
	}
	known, err := attest.AMDRoots().WithSimulated(cfg.Line, p.Roots())
	if err != nil {
		return nil, err
	}
	roots, err := w.keep(cfg.Line, name+"-roots.pem", p.Roots())
	if err != nil {
		return nil, err
	}
	leaf, err := w.keep("", name+"-leaf.der", p.VCEK())
	if err != nil {
		return nil, err
	}
	var out []testCase
	for _, r := range rows {
		c := testCase{ID: name + "-" + r.id, About: r.about, Attacks: r.attacks, At: now, Certificates: &leaf, Roots: &roots}
		report, err := p.Sign(softpsp.Report{Measurement: [48]byte{1}, ReportData: [64]byte{2}, ReportID: [32]byte{3}, Alter: r.alter})
		if err != nil {
			return nil, err
		}
		if c.Report, err = w.keep("", c.ID+".bin", report); err != nil {
			return nil, err
		}
		chip := p.ChipID()
		pol := attest.NovaPolicy(map[string]attest.TCB{cfg.Line: p.TCB()})
		pol.Measurements, pol.Chips, pol.ReportData = [][]byte{report[0x090:0x0c0]}, [][]byte{chip[:]}, [64]byte{2}
		pol.Simulated, pol.VLEKProvider = true, cfg.Provider
		if r.change != nil {
			r.change(&pol)
		}
		col := attest.Collateral{Roots: known}
		if r.genuine {
			c.Roots, col.Roots, pol.Simulated = nil, attest.AMDRoots(), false
		}
		if r.list != "" {
			if col.CRLs, err = c.withList(w, p, r.list, known); err != nil {
				return nil, err
			}
		}
		c.close(attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: p.VCEK()}, col, pol)
		out = append(out, c)
	}
	return out, nil
}

func (c *testCase) withList(w *writer, p *softpsp.PSP, kind string, roots *attest.Roots) (*attest.CRLs, error) {
	from, to := now.AddDate(0, 0, -1), now.AddDate(0, 0, 1)
	var revoked []*big.Int
	switch kind {
	case "expired":
		to = now
	case "future":
		from = now.Add(time.Hour)
	case "revoked":
		revoked = append(revoked, p.Intermediate().SerialNumber)
	}
	der, err := p.RevocationList(from, to, revoked...)
	if err != nil {
		return nil, err
	}
	in, err := w.keep(attest.KindAMDCRL, c.ID+".crl", der)
	if err != nil {
		return nil, err
	}
	c.Collateral = append(c.Collateral, in)
	return attest.ParseCRLs(roots, der)
}
