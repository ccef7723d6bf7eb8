package attest

import (
	"encoding/json"
	"errors"
	"testing"
)

// FuzzQuote feeds quote and event log. Whatever comes, the answer is a result or a
// refusal, and nothing panics on the way.
func FuzzQuote(f *testing.F) {
	for _, name := range []string{"v4-quote-uptodate.dat", "v4-quote-spr.dat", "v4-quote-mrconfigid.dat", "v5-quote.dat", "v5-quote-spr.dat"} {
		f.Add(tdxFile(f, name), []byte{})
	}
	f.Add(tdxFile(f, "cos-113-tdx-quote.dat"), tdxFile(f, "cos-113-ccel.bin")[:20_000])
	raw := tdxFile(f, "v4-quote-uptodate.dat")
	col, pol, at := Collateral{TDX: june2025(f)}, ownPolicy(f, raw), onDay(f, "2025-06-25")
	var v Verifier
	f.Fuzz(func(t *testing.T, quote, log []byte) {
		res, err := v.Verify(Evidence{TEE: TDX, Report: quote, EventLog: log}, col, pol, at)
		var r *Refusal
		switch {
		case err == nil && res == nil, err != nil && (res != nil || !errors.As(err, &r) || r.Code == ""):
			t.Errorf("neither result nor refusal: %v, %v", res, err)
		case err == nil && res.ReportData != pol.ReportData:
			t.Error("another quote was accepted")
		}
		if v.Panics() != 0 {
			t.Fatal("a panic below the boundary")
		}
	})
}

func FuzzTDXCollateral(f *testing.F) {
	f.Add(tdxFile(f, "v4-quote-uptodate-collateral.json"), "")
	for name, kind := range map[string]string{
		"tcbinfo-50806f000000.json": KindTCBInfo, "td-qe-identity.json": KindQEIdentity, "pck-crl-platform.der": KindPCKCRL,
		"root-ca-crl.der": KindIntelRootCRL, "tcb-signing-chain.pem": KindTCBChain,
	} {
		f.Add(tdxFile(f, name), kind)
	}
	chain := Object{KindTCBChain, tdxFile(f, "tcb-signing-chain.pem")}
	f.Fuzz(func(t *testing.T, data []byte, kind string) {
		if c, err := ParseTDXCollateral(data); err == nil && len(c.infos)+len(c.identities) > 0 && len(c.signers) == 0 {
			t.Error("a statement without a signer was read")
		}
		if c, err := NewTDXCollateral([]Object{chain, {kind, data}}); err == nil && len(c.raw) != 2 {
			t.Error("an object was lost")
		}
		// The readers behind the signature must bear what Intel could sign.
		if i, err := parseTCBInfo(data); err == nil {
			i.appraise(platformSVNs{components: make([]byte, 16), tee: make([]byte, 16)}, make([]byte, 16), nil)
		}
		if q, err := parseQEIdentity(data); err == nil && len(q.levels) == 0 {
			t.Error("an identity without levels was read")
		}
	})
}

func FuzzEventLog(f *testing.F) {
	f.Add(tdxFile(f, "ccel-ovmf.bin")[:2200])
	f.Add(tdxFile(f, "cos-113-ccel.bin")[:18_200])
	f.Add(softLog(softEvent{1, 0, [48]byte{1}}))
	f.Fuzz(func(t *testing.T, log []byte) {
		events, err := parseEventLog(log)
		if err != nil {
			return
		}
		for _, e := range events {
			if e.register < 0 || e.register >= registers {
				t.Fatal("an event of no register")
			}
		}
		replay(events)
	})
}

func FuzzTDXPolicy(f *testing.F) {
	data, err := json.Marshal(NovaTDXPolicy())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again TDXPolicy
		if json.Unmarshal(data, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("a policy that was read cannot be read again: %v", err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(out) || p.narrows(&again) != nil || again.narrows(&p) != nil {
			t.Error("a policy is not itself after it was written")
		}
	})
}
