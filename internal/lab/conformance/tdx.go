//go:build devtee

package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Offsets in the body of a quote (Intel DCAP quote format, TD report body), which
// begins at 30h in version 4 and 36h in version 5.
const bodyV4, bodyV5 = 0x30, 0x36

// ownTD is the policy that admits exactly this quote, as Nova launches guests.
func ownTD(quote []byte, col attest.Collateral, at time.Time) (attest.Policy, error) {
	body := quote[bodyV4:]
	if binary.LittleEndian.Uint16(quote) == 5 {
		body = quote[bodyV5:]
	}
	pol := attest.NovaTDXPolicy()
	pol.MRTDs = [][]byte{body[0x88:0xb8]}
	for i := range pol.RTMRs {
		pol.RTMRs[i].Values = [][]byte{body[0x148+48*i : 0x148+48*(i+1)]}
	}
	pol.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: binary.LittleEndian.Uint64(body[0x80:])}
	out := attest.Policy{TDX: &pol, ReportData: [64]byte(body[0x208:0x248])}
	// The platform is named in its certificate, which the verifier reads anyway.
	for _, c := range attest.Judge(attest.Evidence{TEE: attest.TDX, Report: quote}, col, out, at).Checks {
		if c.Code == attest.CodeChip {
			ppid, err := hex.DecodeString(c.Got)
			pol.Platforms = [][]byte{ppid}
			return out, err
		}
	}
	return out, errors.New("the verdict names no platform")
}

type quoteRow struct {
	id, about, quote string
	attacks          []int
	set              []string
	at               string
	patch            []patch
	length           int
	change           func(*attest.Policy)
}

func tdxReal(w *writer) ([]testCase, error) {
	june := []string{"dcap", "tdx/v4-quote-uptodate-collateral.json"}
	march := []string{
		attest.KindTCBInfo, "tdx/tcbinfo-50806f000000.json", attest.KindTCBInfo, "tdx/v5-tcbinfo-90c06f000000.json",
		attest.KindQEIdentity, "tdx/td-qe-identity.json", attest.KindTCBChain, "tdx/tcb-signing-chain.pem",
		attest.KindQEChain, "tdx/qe-identity-signing-chain.pem", attest.KindPCKCRL, "tdx/pck-crl-platform.der",
		attest.KindIntelRootCRL, "tdx/root-ca-crl.der",
	}
	const good, inWindow = "v4-quote-uptodate.dat", "2025-06-25"
	bent := func(id, about string, change func(*attest.Policy), attacks ...int) quoteRow {
		return quoteRow{id: id, about: about, quote: good, attacks: attacks, set: june, at: inWindow, change: change}
	}
	patched := func(id, about string, at int, hex string, attacks ...int) quoteRow {
		r := bent(id, about, nil, attacks...)
		r.patch = []patch{{at, hex}}
		return r
	}
	rows := []quoteRow{
		bent("tdx-v4-uptodate", "a genuine version 4 quote with its collateral, in the window", nil),
		{id: "tdx-collateral-expired", about: "the same after the collateral expired", quote: good, attacks: []int{26, 27}, set: june, at: "2026-02-20"},
		{id: "tdx-collateral-future", about: "the same before the collateral was issued", quote: good, attacks: []int{26}, set: june, at: "2025-06-01"},
		{id: "tdx-no-collateral", about: "no collateral", quote: good, attacks: []int{31}, at: inWindow},
		{id: "tdx-v4-below-all-levels", about: "below the lowest TCB level", quote: "v4-quote-spr.dat", attacks: []int{19, 29}, set: march, at: "2026-03-20"},
		{id: "tdx-v4-mrconfigid", about: "no TCB info for its kind of platform", quote: "v4-quote-mrconfigid.dat", attacks: []int{31}, set: march, at: "2026-03-20"},
		{id: "tdx-v5-service-td", about: "a service TD is bound to it", quote: "v5-quote.dat", attacks: []int{13, 33}, set: march, at: "2026-03-20"},
		{id: "tdx-v5-spr", about: "a version 5 quote whose TCB info has expired", quote: "v5-quote-spr.dat", attacks: []int{26}, set: march, at: "2026-03-20"},
		bent("tdx-other-report-data", "the report data of another challenge", func(p *attest.Policy) { p.ReportData = [64]byte{1} }, 1),
		bent("tdx-unregistered", "a platform that is not registered", func(p *attest.Policy) { p.TDX.Platforms = [][]byte{make([]byte, 16)} }, 6, 23),
		bent("tdx-other-mrtd", "other firmware", func(p *attest.Policy) { p.TDX.MRTDs = [][]byte{make([]byte, 48)} }, 9),
		bent("tdx-other-rtmr", "another kernel, initrd or command line", func(p *attest.Policy) { p.TDX.RTMRs[2].Values = [][]byte{make([]byte, 48)} }, 10, 11),
		bent("tdx-other-attributes", "attributes that the policy does not name", func(p *attest.Policy) { p.TDX.Attributes.Value = 0 }, 32),
		bent("tdx-other-xfam", "processor features that the policy does not name", func(p *attest.Policy) { p.TDX.XFAM.Value = 3 }, 32),
		bent("tdx-form", "a form of quote that the policy does not name", func(p *attest.Policy) { p.TDX.Quotes = []string{"v5-tdx1.5"} }, 33),
		bent("tdx-no-policy", "a policy without a part for TDX", func(p *attest.Policy) { p.TDX = nil }),
		patched("tdx-debug-bit", "the debug bit, unsigned", bodyV4+0x78, "01", 12),
		patched("tdx-version-6", "a version that nobody has read", 0, "06", 33, 34),
		patched("tdx-rtmr-changed", "a register written over", bodyV4+0x148, "ff", 10),
	}
	cut := bent("tdx-cut", "cut in the middle", nil, 34)
	cut.length = 700
	var out []testCase
	for _, r := range append(rows, cut) {
		c, err := r.judged(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.id, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (r quoteRow) judged(w *writer) (testCase, error) {
	c := testCase{ID: r.id, About: r.about, Attacks: r.attacks, Patch: r.patch, Length: r.length}
	var err error
	if c.At, err = time.Parse(time.DateOnly, r.at); err != nil {
		return c, err
	}
	in, quote, err := w.real("", "tdx/"+r.quote)
	if err != nil {
		return c, err
	}
	c.Report = in
	var objects []attest.Object
	for i := 0; i+1 < len(r.set); i += 2 {
		in, data, err := w.real(r.set[i], r.set[i+1])
		if err != nil {
			return c, err
		}
		c.Collateral = append(c.Collateral, in)
		if in.Kind != "dcap" {
			objects = append(objects, attest.Object{Kind: in.Kind, Bytes: data})
			continue
		}
		if objects, err = attest.TDXObjects(data); err != nil {
			return c, err
		}
	}
	col, err := attest.NewCollateral(attest.AMDRoots(), objects)
	if err != nil {
		return c, err
	}
	pol, err := ownTD(quote, col, c.At)
	if err != nil {
		return c, err
	}
	if r.change != nil {
		r.change(&pol)
	}
	ev := attest.Evidence{TEE: attest.TDX}
	if ev.Report, err = c.apply(quote); err != nil {
		return c, err
	}
	c.close(ev, col, pol)
	return c, nil
}
