package attest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func tdxFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "tdx", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func onDay(t testing.TB, text string) time.Time {
	t.Helper()
	out, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// intelObjects reads files, each of a kind.
func intelObjects(t testing.TB, files ...string) []Object {
	t.Helper()
	var objects []Object
	for i := 0; i < len(files); i += 2 {
		objects = append(objects, Object{files[i], tdxFile(t, files[i+1])})
	}
	return objects
}

func intelCollateral(t testing.TB, objects []Object) *TDXCollateral {
	t.Helper()
	c, err := NewTDXCollateral(objects)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// june2025 belongs to v4-quote-uptodate.dat.
func june2025(t testing.TB) *TDXCollateral {
	t.Helper()
	c, err := ParseTDXCollateral(tdxFile(t, "v4-quote-uptodate-collateral.json"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// july2023 is of the platform of v4-quote-spr.dat, which lies under its levels, too.
func july2023(t testing.TB) *TDXCollateral {
	t.Helper()
	return intelCollateral(t, intelObjects(t,
		KindTCBInfo, "tcbinfo-50806f000000-2023.json", KindQEIdentity, "td-qe-identity-2023.json", KindTCBChain, "tcb-signing-chain-2023.pem",
		KindPCKCRL, "pck-crl-platform-2023.der", KindIntelRootCRL, "root-ca-crl-2023.der"))
}

// march2026 is Intel's collateral of that month, with TCB infos for two kinds of
// platforms, one of them of February.
func march2026(t testing.TB) *TDXCollateral {
	t.Helper()
	return intelCollateral(t, intelObjects(t,
		KindTCBInfo, "tcbinfo-50806f000000.json", KindTCBInfo, "v5-tcbinfo-90c06f000000.json", KindQEIdentity, "td-qe-identity.json",
		KindTCBChain, "tcb-signing-chain.pem", KindQEChain, "qe-identity-signing-chain.pem",
		KindPCKCRL, "pck-crl-platform.der", KindIntelRootCRL, "root-ca-crl.der"))
}

// ownPolicy admits exactly what the quote says of itself, as Nova launches it.
func ownPolicy(t testing.TB, raw []byte) Policy {
	t.Helper()
	form, bodyAt, size := quoteForm(raw)
	q, err := readQuote(raw, form, bodyAt, size)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provePlatform(q, pinnedIntelRoot())
	if err != nil {
		t.Fatal(err)
	}
	pol := NovaTDXPolicy()
	if pol.Platforms, err = unhexAll([]string{p.ppid}, tdPPIDSize); err != nil {
		t.Fatal(err)
	}
	pol.MRTDs = [][]byte{q.body.MrTd}
	for i := range pol.RTMRs {
		pol.RTMRs[i].Values = [][]byte{q.body.Rtmrs[i]}
	}
	pol.XFAM = MaskedBits{^uint64(0), word(q.body.Xfam)}
	return Policy{ReportData: [64]byte(q.body.ReportData), TDX: &pol}
}

func checkOf(t testing.TB, checks []Check, c check) Check {
	t.Helper()
	for _, k := range checks {
		if k.Name == tdxTable[c].Name {
			return k
		}
	}
	t.Fatalf("no check %q", tdxTable[c].Name)
	return Check{}
}

// TestTDXEvidence holds each real quote to its known verdict: the quote's own
// signature is genuine in all of them, and what refuses is exactly what is listed.
func TestTDXEvidence(t *testing.T) {
	configID := func(p *TDXPolicy, raw []byte) { copy(p.MRConfigID[:], raw[0x30+0xb8:]) }
	for _, c := range []struct {
		name, quote string
		col         func(testing.TB) *TDXCollateral
		at          string
		log         string
		change      func(*TDXPolicy, []byte)
		code        string
		failed      []check
		status      string
	}{
		{name: "up to date in the window", quote: "v4-quote-uptodate.dat", col: june2025, at: "2025-06-25", status: "UpToDate"},
		{
			name: "expired collateral", quote: "v4-quote-uptodate.dat", col: june2025, at: "2026-02-20", code: CodeCollateral,
			failed: []check{tdxPlatformList, tdxInfo, tdxQE},
		},
		{
			name: "collateral from the future", quote: "v4-quote-uptodate.dat", col: june2025, at: "2025-06-01", code: CodeCollateral,
			failed: []check{tdxPlatformList, tdxInfo, tdxQE},
		},
		{name: "2023 platform in 2023", quote: "v4-quote-spr.dat", col: july2023, at: "2023-07-01", code: CodeTCB, failed: []check{tdxLevel, tdxAttributes}},
		{
			name: "2023 platform in 2023 with PKS admitted", quote: "v4-quote-spr.dat", col: july2023, at: "2023-07-01", code: CodeTCB, failed: []check{tdxLevel},
			change: func(p *TDXPolicy, _ []byte) { p.Attributes.Value = tdPKS },
		},
		{name: "2023 platform in 2026", quote: "v4-quote-spr.dat", col: march2026, at: "2026-03-20", code: CodeTCB, failed: []check{tdxLevel, tdxAttributes}},
		{
			name: "no collateral for the kind of platform", quote: "v4-quote-mrconfigid.dat", col: march2026, at: "2026-03-20", code: CodeCollateral,
			failed: []check{tdxInfo, tdxConfigID},
		},
		{
			name: "configuration id that the policy names", quote: "v4-quote-mrconfigid.dat", col: march2026, at: "2026-03-20", code: CodeCollateral,
			failed: []check{tdxInfo}, change: configID,
		},
		{
			name: "another configuration id", quote: "v4-quote-mrconfigid.dat", col: march2026, at: "2026-03-20", code: CodeCollateral,
			failed: []check{tdxInfo, tdxConfigID}, change: func(p *TDXPolicy, raw []byte) { configID(p, raw); p.MRConfigID[47] ^= 1 },
		},
		{
			name: "service TD", quote: "v5-quote.dat", col: march2026, at: "2026-03-20", code: CodeCollateral,
			failed: []check{tdxInfo, tdxLevel, tdxLevelNow, tdxServiceTD},
		},
		{
			name: "service TD in February", quote: "v5-quote.dat", col: march2026, at: "2026-02-20", code: CodeCollateral,
			failed: []check{tdxRootList, tdxPlatformList, tdxQE, tdxLevel, tdxLevelNow, tdxServiceTD},
		},
		{
			name: "no common window", quote: "v5-quote-spr.dat", col: march2026, at: "2026-02-20", code: CodeCollateral,
			failed: []check{tdxRootList, tdxPlatformList, tdxQE}, status: "UpToDate",
		},
		{
			name: "log of another guest", quote: "v4-quote-uptodate.dat", col: june2025, at: "2025-06-25", log: "ccel-ovmf.bin", code: CodeEventLog,
			failed: []check{tdxEventLog}, status: "UpToDate",
		},
		{
			name: "log of this guest", quote: "cos-113-tdx-quote.dat", col: march2026, at: "2026-03-20", log: "cos-113-ccel.bin", code: CodeCollateral,
			failed: []check{tdxInfo, tdxReportData},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := tdxFile(t, c.quote)
			ev := Evidence{TEE: TDX, Report: raw}
			if c.log != "" {
				ev.EventLog = tdxFile(t, c.log)
			}
			pol := ownPolicy(t, raw)
			if c.change != nil {
				c.change(pol.TDX, raw)
			}
			res, r := judged(t, ev, Collateral{TDX: c.col(t)}, pol, onDay(t, c.at))
			var want []string
			for _, f := range c.failed {
				want = append(want, tdxTable[f].Name)
			}
			if got := failed(r); !slices.Equal(got, want) {
				t.Errorf("failed checks: %q, want %q", got, want)
			}
			checks := []Check(nil)
			if r != nil {
				checks = r.Checks
				if r.Code != c.code {
					t.Errorf("code %q, want %q", r.Code, c.code)
				}
			} else {
				checks = res.Checks
				if c.code != "" || res.TCBStatus != c.status || res.EvaluationNumber == 0 || res.Product == "" || res.Simulated {
					t.Errorf("accepted: %+v", res)
				}
			}
			for _, genuine := range []check{tdxSignature, tdxQESignature, tdxKeyBinding, tdxChain, tdxRevoked, tdxQESigner} {
				if k := checkOf(t, checks, genuine); k.Status != Passed {
					t.Errorf("%s: %s", k.Name, k.Status)
				}
			}
			if k := checkOf(t, checks, tdxStatus); c.status != "" && (k.Status != Passed || k.Got != c.status) {
				t.Errorf("TCB status: %s %q", k.Status, k.Got)
			}
		})
	}
}

// TestTDXWithoutAnything: neither collateral nor policy nor time opens anything,
// and the list still says what is genuine.
func TestTDXWithoutAnything(t *testing.T) {
	raw := tdxFile(t, "v4-quote-uptodate.dat")
	ev := Evidence{TEE: TDX, Report: raw}
	own := ownPolicy(t, raw)
	for name, c := range map[string]struct {
		col  Collateral
		pol  Policy
		at   time.Time
		code string
	}{
		"no collateral":    {Collateral{}, own, onDay(t, "2025-06-25"), CodeCollateral},
		"empty collateral": {Collateral{TDX: intelCollateral(t, nil)}, own, onDay(t, "2025-06-25"), CodeCollateral},
		"no policy":        {Collateral{TDX: june2025(t)}, Policy{}, onDay(t, "2025-06-25"), CodePolicy},
		"empty policy":     {Collateral{TDX: june2025(t)}, Policy{TDX: &TDXPolicy{}}, onDay(t, "2025-06-25"), CodeMeasurement},
		"no time":          {Collateral{TDX: june2025(t)}, own, time.Time{}, CodeCollateral},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := judged(t, ev, c.col, c.pol, c.at)
			if r == nil || r.Code != c.code {
				t.Fatalf("got %v, want code %s", r, c.code)
			}
			if k := checkOf(t, r.Checks, tdxSignature); k.Status != Passed {
				t.Errorf("the quote is genuine: %s", k.Status)
			}
		})
	}
}

// TestTDXTable: every check of the table says where its rule is written and what
// an operator does next.
func TestTDXTable(t *testing.T) {
	if len(tdxTable) != int(numTDXChecks) {
		t.Fatalf("%d checks, want %d", len(tdxTable), numTDXChecks)
	}
	names := make(map[string]bool)
	for i, c := range tdxTable {
		if c.Name == "" || c.Code == "" || c.Source == "" || c.Advice == "" || names[c.Name] {
			t.Errorf("check %d: %+v", i, c)
		}
		if c.Section == "" && c.Source != fromPolicy && i >= int(checkLayout) {
			t.Errorf("check %q rests on no document", c.Name)
		}
		names[c.Name] = true
	}
}
