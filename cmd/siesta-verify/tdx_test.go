package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// spring2026 is the collateral of March 2026 with one of two TCB infos, as one
// object with Intel's member names.
func spring2026(t testing.TB, tcbInfo string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"version": 3, "tee_type": 0x81,
		"tcb_info": string(load(t, tcbInfo)), "tcb_info_issuer_chain": string(load(t, "tdx/tcb-signing-chain.pem")),
		"qe_identity": string(load(t, "tdx/td-qe-identity.json")), "qe_identity_issuer_chain": string(load(t, "tdx/qe-identity-signing-chain.pem")),
		"pck_crl": hex.EncodeToString(load(t, "tdx/pck-crl-platform.der")), "root_ca_crl": hex.EncodeToString(load(t, "tdx/root-ca-crl.der")),
	})
	if err != nil {
		t.Fatal(err)
	}
	return put(t, text)
}

// changed replaces something in the collateral of 2025.
func changed(t testing.TB, from, to string) string {
	t.Helper()
	text := load(t, tdxCollateral)
	out := bytes.Replace(text, []byte(from), []byte(to), 1)
	if bytes.Equal(text, out) {
		t.Fatalf("no %s in the collateral", from)
	}
	return put(t, out)
}

// TestQuotes holds every genuine quote to what is known of it.
func TestQuotes(t *testing.T) {
	const (
		june     = "2025-06-25T00:00:00Z"
		march    = "2026-03-20T00:00:00Z"
		february = "2026-02-20T00:00:00Z"
		signed   = "collateral as its vendor signed it"
	)
	col, dir := data+tdxCollateral, data+"tdx/"
	quote := load(t, "tdx/v4-quote-uptodate.dat")
	older, newer := spring2026(t, "tdx/tcbinfo-50806f000000.json"), spring2026(t, "tdx/v5-tcbinfo-90c06f000000.json")
	for name, row := range map[string]struct {
		args    []string
		genuine bool
		product string
		status  string
		code    string
		fails   []string
	}{
		"v4":                     {[]string{tdxQuote, "--collateral", col, "--at", june}, true, "b0c06f000000", "UpToDate", "no_reference_value", nil},
		"v4, collateral expired": {[]string{tdxQuote, "--collateral", col, "--at", february}, true, "b0c06f000000", "UpToDate", "collateral", []string{"TCB info"}},
		"v4, from the future":    {[]string{tdxQuote, "--collateral", col, "--at", "2025-06-01T00:00:00Z"}, true, "b0c06f000000", "UpToDate", "collateral", []string{"TCB info"}},
		"v4 without collateral":  {[]string{tdxQuote, "--at", june}, true, "b0c06f000000", "", "collateral", []string{"TCB info"}},
		"v4, other collateral":   {[]string{tdxQuote, "--collateral", older, "--at", march}, true, "b0c06f000000", "", "collateral", []string{"TCB info"}},
		"v4, TCB info changed":   {[]string{tdxQuote, "--collateral", changed(t, `B0C06F`, `50806F`), "--at", june}, true, "b0c06f000000", "", "collateral", []string{signed}},
		"v4, signature changed":  {[]string{tdxQuote, "--collateral", changed(t, `"qe_identity_signature": "`, `"qe_identity_signature": "00`), "--at", june}, true, "b0c06f000000", "", "collateral", []string{signed}},
		"v4, its report data": {
			[]string{tdxQuote, "--collateral", col, "--at", june, "--report-data", hex.EncodeToString(quote[48+520 : 48+584])},
			true, "b0c06f000000", "UpToDate", "no_reference_value", nil,
		},
		"v4, other report data":    {[]string{tdxQuote, "--collateral", col, "--at", june, "--report-data", "01"}, true, "b0c06f000000", "UpToDate", "report_data", nil},
		"v4, one bit of RTMR0":     {[]string{put(t, flip(quote, 48+328, 1)), "--collateral", col, "--at", june}, false, "b0c06f000000", "UpToDate", "signature", []string{"quote signature"}},
		"v4, certificate expired":  {[]string{tdxQuote, "--at", "2050-01-01T00:00:00Z"}, false, "b0c06f000000", "", "chain", []string{"certificate chain"}},
		"v4 cut":                   {[]string{put(t, quote[:2000])}, false, "", "", "format", []string{"quote layout"}},
		"v4 of version 6":          {[]string{put(t, flip(quote, 0, 2))}, false, "", "", "version", nil},
		"v4 below every level":     {[]string{dir + "v4-quote-spr.dat", "--collateral", older, "--at", march}, true, "50806f000000", "", "tcb", []string{"TCB level of the platform"}},
		"v4 with MRCONFIGID":       {[]string{dir + "v4-quote-mrconfigid.dat", "--at", march}, true, "00a06d080000", "", "collateral", []string{"TCB info"}},
		"v5 with a service TD":     {[]string{dir + "v5-quote.dat", "--collateral", newer, "--at", february}, true, "90c06f000000", "", "collateral", []string{"service TD", "TCB level of the platform"}},
		"v5":                       {[]string{dir + "v5-quote-spr.dat", "--collateral", newer, "--at", february}, true, "90c06f000000", "UpToDate", "collateral", []string{"revocation list of the root"}},
		"v5, TCB info expired":     {[]string{dir + "v5-quote-spr.dat", "--collateral", newer, "--at", march}, true, "90c06f000000", "UpToDate", "collateral", []string{"TCB info"}},
		"client's":                 {[]string{put(t, client(t, quote, nil)), "--collateral", col, "--at", june}, true, "b0c06f000000", "UpToDate", "no_reference_value", nil},
		"client's, log of another": {[]string{put(t, client(t, quote, load(t, "tdx/ccel-ovmf.bin"))), "--collateral", col, "--at", june}, true, "b0c06f000000", "UpToDate", "event_log", []string{"event log"}},
		"client's, log of nothing": {[]string{put(t, client(t, quote, []byte{1, 2, 3})), "--collateral", col, "--at", june}, true, "b0c06f000000", "UpToDate", "event_log", []string{"event log"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, a := judged(t, row.args...)
			got := []any{status, a.TEE, a.Genuine, a.Product, a.TCBStatus, a.Code, find(a.Checks, noReference.Name)}
			want := []any{1, "tdx", row.genuine, row.product, row.status, row.code, attest.Failed}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
			for _, name := range row.fails {
				if find(a.Checks, name) != attest.Failed {
					t.Errorf("%s: %s", name, find(a.Checks, name))
				}
			}
		})
	}
}

// client wraps a quote as a client of the KBS protocol sends it.
func client(t testing.TB, quote, log []byte) []byte {
	t.Helper()
	m := map[string]any{"cc_eventlog": nil, "quote": quote}
	if log != nil {
		m["cc_eventlog"] = log
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestEventLog: the log of a quote gives its registers, and one changed byte of
// what it measures does not.
func TestEventLog(t *testing.T) {
	quote, log := load(t, "tdx/cos-113-tdx-quote.dat"), load(t, "tdx/cos-113-ccel.bin")
	for name, row := range map[string]struct {
		log  []byte
		want attest.Status
	}{
		"its own": {log, attest.Passed}, "cut": {log[:1000], attest.Failed}, "changed": {flip(log, 200, 1), attest.Failed},
		"none": {nil, attest.NotJudged},
	} {
		if _, a := judged(t, put(t, client(t, quote, row.log))); find(a.Checks, "event log") != row.want || !a.Genuine {
			t.Errorf("%s: %s, genuine %v", name, find(a.Checks, "event log"), a.Genuine)
		}
	}
}

// TestQuotePolicy accepts the quote of June 2025 under the policy that it keeps,
// and nothing else.
func TestQuotePolicy(t *testing.T) {
	quote := load(t, "tdx/v4-quote-uptodate.dat")
	field := func(at, size int) []byte { return quote[48+at : 48+at+size] }
	_, unnamed := judged(t, tdxQuote, "--at", "2025-06-25T00:00:00Z")
	ppid := ""
	for _, c := range unnamed.Checks {
		if c.Name == "registered platform" {
			ppid = c.Got
		}
	}
	platform, err := hex.DecodeString(ppid)
	if err != nil || len(platform) != 16 {
		t.Fatalf("platform %q", ppid)
	}
	kept := func(change func(*attest.TDXPolicy)) string {
		p := attest.NovaTDXPolicy()
		p.Platforms, p.MRTDs = [][]byte{platform}, [][]byte{field(136, 48)}
		p.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: 0x602e7}
		for i := range p.RTMRs {
			p.RTMRs[i].Values = [][]byte{field(328+48*i, 48)}
		}
		change(&p)
		return put(t, attest.Policy{TDX: &p}.Canonical())
	}
	args := []string{tdxQuote, "--collateral", data + tdxCollateral, "--at", "2025-06-25T00:00:00Z"}
	right := []string{"--report-data", hex.EncodeToString(field(520, 64))}
	for name, row := range map[string]struct {
		change func(*attest.TDXPolicy)
		data   []string
		code   string
	}{
		"kept":             {func(*attest.TDXPolicy) {}, right, ""},
		"no report data":   {func(*attest.TDXPolicy) {}, nil, "report_data"},
		"other firmware":   {func(p *attest.TDXPolicy) { p.MRTDs = nil }, right, "measurement"},
		"other register":   {func(p *attest.TDXPolicy) { p.RTMRs[2].Values = nil }, right, "rtmr"},
		"other platform":   {func(p *attest.TDXPolicy) { p.Platforms = nil }, right, "chip"},
		"log wanted":       {func(p *attest.TDXPolicy) { p.RequireEventLog = true }, right, "event_log"},
		"other attributes": {func(p *attest.TDXPolicy) { p.Attributes.Value = 0 }, right, "attributes"},
		"no status":        {func(p *attest.TDXPolicy) { p.TCBStatuses = nil }, right, "tcb_status"},
		"later data set":   {func(p *attest.TDXPolicy) { p.MinEvaluationNumber = 18 }, right, "tcb_status"},
	} {
		status, a := judged(t, slices.Concat(args, []string{"--policy", kept(row.change)}, row.data)...)
		if a.Code != row.code || (status == 0) != (row.code == "") || !a.Genuine || a.TCBStatus != "UpToDate" {
			t.Errorf("%s: status %d, code %q, want %q; genuine %v, %q", name, status, a.Code, row.code, a.Genuine, a.TCBStatus)
		}
	}
	// A policy that does not speak of TDX admits no quote.
	_, a := judged(t, slices.Concat(args, right, []string{"--policy", within(t, load(t, "siena-v5-report.bin"), nil)})...)
	if a.Code != "policy" {
		t.Errorf("policy for SEV-SNP: code %q", a.Code)
	}
	if _, out, _ := sv(nil, append([]string{"evidence"}, args...)...); !strings.Contains(out, "TCB UpToDate") {
		t.Errorf("the summary lacks the TCB status:\n%s", out)
	}
}
