package attest

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// stable are the codes that a refusal of an SNP report may have.
var stable = []string{
	CodeFormat, CodeVersion, CodeProduct, CodeKeyType, CodeCollateral, CodeChain, CodeRevoked, CodeSignature, CodeDebug,
	CodeMigration, CodeVMPL, CodeMeasurement, CodeReportData, CodePolicy, CodeIDBlock, CodeHostData, CodeChip, CodeTCB, CodePlatform,
}

// everyNth thins a sweep where the race detector makes it ten times slower.
func everyNth(n int) int {
	if raceEnabled {
		return n
	}
	return 1
}

// TestBitFlips changes each of the 9,472 bits of a real report, one at a time,
// under a policy that would admit whatever the report then says. None is accepted:
// no byte of a report lies outside the signature, the fields that make it up, or
// what must be zero.
func TestBitFlips(t *testing.T) {
	var v Verifier
	s := sienaV5(t)
	if _, err := v.Verify(s.evidence, amd(), s.policy, s.at); err != nil {
		t.Fatal(err)
	}
	const bits, signature, behind = 1184 * 8, 0x2a0 * 8, 0x330 * 8
	step := everyNth(13)
	flipped := 0
	for bit := 0; bit < bits; bit += step {
		flipped++
		report := bytes.Clone(s.evidence.Report)
		report[bit/8] ^= 1 << (bit % 8)
		ev := s.evidence
		ev.Report = report
		_, err := v.Verify(ev, amd(), accepting(report, Genoa), s.at)
		r := refused(t, err)
		if !slices.Contains(stable, r.Code) {
			t.Fatalf("bit %d: code %q", bit, r.Code)
		}
		// A flip that leaves the report readable must fail on its signature, too:
		// no single rule of ours stands between a changed field and acceptance.
		got := status(r.Checks, "report signature")
		if got == Passed || got == NotJudged && bit >= signature && bit < behind {
			t.Fatalf("bit %d: %v, signature %s", bit, err, got)
		}
		if bit >= behind && r.Code != CodeFormat {
			t.Fatalf("bit %d behind the signature: %v", bit, err)
		}
	}
	if !raceEnabled && flipped != 9472 {
		t.Errorf("%d bits", flipped)
	}
}

// TestCertificateFlips changes one bit in each byte of each certificate: the four
// real leaves, and the embedded intermediates and roots.
func TestCertificateFlips(t *testing.T) {
	step := everyNth(29)
	for _, s := range []sample{milan(t), debugged(t), sienaV3(t), sienaV5(t)} {
		leaf := s.evidence.Certificates
		for i := 0; i < len(leaf); i += step {
			changed := bytes.Clone(leaf)
			changed[i] ^= 1 << (i % 8)
			if parsed, err := parseLeaf(changed); err == nil {
				if _, err := proveChain(parsed, AMDRoots().lines[s.product], s.at); err == nil {
					t.Fatalf("%s, byte %d of the leaf: still signed", s.name, i)
				}
			}
			if i%41 != 0 {
				continue
			}
			ev := s.evidence
			ev.Certificates = changed
			_, err := Verify(ev, amd(), s.policy, s.at)
			// Milan's and the debug guest's report are refused in any case: the
			// certificate must be what fails first.
			if code := refused(t, err).Code; code != CodeCollateral && code != CodeChain && code != CodeProduct {
				t.Fatalf("%s, byte %d of the leaf: %v", s.name, i, err)
			}
		}
	}
	for line, bundle := range map[string][]byte{Milan: milanPEM, Genoa: genoaPEM, Turin: turinPEM} {
		var ders [][]byte
		for rest := bundle; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			ders = append(ders, block.Bytes)
		}
		if len(ders) != 3 {
			t.Fatalf("%s has %d certificates", line, len(ders))
		}
		good, err := newAuthority(line, bundle)
		if err != nil {
			t.Fatal(err)
		}
		for n, der := range ders {
			for i := 0; i < len(der); i += step {
				changed := bytes.Clone(der)
				changed[i] ^= 1 << (i % 8)
				c, err := x509.ParseCertificate(changed)
				if err != nil {
					continue
				}
				// The root vouches for itself, so its own changes must show in its
				// signature, too.
				parent := good.ark
				if n == 1 {
					parent = c
				}
				if c.CheckSignatureFrom(parent) == nil {
					t.Fatalf("%s, certificate %d, byte %d: still signed", line, n, i)
				}
			}
		}
	}
}

// TestBytesOutsideEverySignature lists what of the evidence nobody signs, and
// shows that it cannot change what is accepted: the form in which the leaf comes,
// certificates beside it, the event log that this hardware has not, and the choice
// between the two signatures that are equally good (s and n-s).
func TestBytesOutsideEverySignature(t *testing.T) {
	s := sienaV5(t)
	want, err := Verify(s.evidence, amd(), s.policy, s.at)
	if err != nil {
		t.Fatal(err)
	}
	der := s.evidence.Certificates
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"any": "thing"}, Bytes: der})
	other := bytes.Clone(s.evidence.Report)
	negate(other)
	for name, ev := range map[string]Evidence{
		"PEM with headers and text":   {Report: s.evidence.Report, Certificates: append([]byte("text before\n"), append(block, "text behind"...)...)},
		"certificates beside it":      {Report: s.evidence.Report, Certificates: append(bytes.Clone(der), file(t, "turin-vcek.der")...)},
		"noise behind it":             {Report: s.evidence.Report, Certificates: append(bytes.Clone(der), 1, 2, 3)},
		"event log":                   {Report: s.evidence.Report, Certificates: der, EventLog: []byte("anything")},
		"the other of two signatures": {Report: other, Certificates: der},
	} {
		ev.TEE = SEVSNP
		got, err := Verify(ev, amd(), s.policy, s.at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.ReportID != want.ReportID || got.VCEK != want.VCEK || got.ReportData != want.ReportData || got.Measurement != want.Measurement {
			t.Errorf("%s: another result", name)
		}
	}
}

// negate replaces s by n-s in place: a second signature over the same bytes, which
// anybody can compute.
func negate(report []byte) {
	field := report[0x2e8 : 0x2e8+72]
	le := bytes.Clone(field)
	slices.Reverse(le)
	s := new(big.Int).Sub(elliptic.P384().Params().N, new(big.Int).SetBytes(le))
	s.FillBytes(le)
	slices.Reverse(le)
	copy(field, le)
}

// TestHostileCorpus judges 20,000 generated cases. The seed makes them the same in
// every run. Whatever is accepted must be, in all that is signed, one of the real
// reports with its own certificate; the policy is no help, for it is made to admit
// whatever the mutant says. Each case may allocate so much and no more.
func TestHostileCorpus(t *testing.T) {
	const cases, limit = 20_000, 1 << 20
	samples := genuineSamples(t)
	r := rand.New(rand.NewPCG(20261124, 4))
	h := hostile{Rand: r, samples: samples, noise: [][]byte{milanPEM, genoaPEM, file(t, "turin-vcek.der"), file(t, "milan-v2-vcek-invalid-new.der")}}
	var v Verifier
	for _, s := range samples { // the tables of keys that sign often, and that of the generator, are made once
		for range usesBeforeTable + 2 {
			_, _ = v.Verify(s.evidence, amd(), s.policy, s.at)
		}
	}
	var before, after runtime.MemStats
	codes := map[string]int{}
	var worst uint64
	for i := range cases {
		s, ev := h.next()
		if i%everyNth(25) != 0 {
			continue
		}
		pol := Policy{}
		if len(ev.Report) == 1184 {
			pol = accepting(ev.Report, s.product)
		}
		runtime.ReadMemStats(&before)
		res, err := v.Verify(ev, amd(), pol, s.at)
		runtime.ReadMemStats(&after)
		worst = max(worst, after.TotalAlloc-before.TotalAlloc)
		if err == nil {
			codes["accepted"]++
			if !slices.ContainsFunc(samples, func(s sample) bool {
				leaf, parseErr := parseLeaf(s.evidence.Certificates)
				return parseErr == nil && bytes.Equal(ev.Report[:0x2a0], s.evidence.Report[:0x2a0]) && res.VCEK == leaf.sum
			}) {
				t.Fatalf("case %d: a report that no chip signed is accepted", i)
			}
			continue
		}
		refusal := refused(t, err)
		if codes[refusal.Code]++; !slices.Contains(stable, refusal.Code) {
			t.Fatalf("case %d: code %q", i, refusal.Code)
		}
		if i%20 == 0 {
			if _, again := Verify(ev, amd(), pol, s.at); refused(t, again).Code != refusal.Code {
				t.Fatalf("case %d: %v, then %v", i, err, again)
			}
		}
	}
	if v.Panics() != 0 {
		t.Errorf("%d panics below the boundary", v.Panics())
	}
	if worst > limit {
		t.Errorf("a case allocated %d bytes, more than %d", worst, limit)
	}
	t.Logf("%v; at most %d bytes for one case", codes, worst)
	if !raceEnabled && len(codes) < 10 {
		t.Errorf("the corpus reaches only %d outcomes", len(codes))
	}
}
