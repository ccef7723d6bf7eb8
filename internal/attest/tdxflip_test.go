package attest

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// authenticity are the checks that show that bytes are not those that were signed.
// A mutant must fail one of these: to be refused by the policy is not enough.
var authenticity = []check{checkLayout, tdxForm, tdxKeyType, tdxCertificate, tdxChain, tdxQESignature, tdxKeyBinding, tdxSignature}

func forged(r *Refusal) bool {
	if r == nil {
		return false
	}
	names := failed(r)
	return slices.ContainsFunc(authenticity, func(c check) bool { return slices.Contains(names, tdxTable[c].Name) })
}

type flipCase struct {
	name string
	raw  []byte
	col  Collateral
	pol  Policy
	at   time.Time
}

// stride leaves out bytes under the race detector, which makes each some twenty
// times dearer and has nothing to find in most.
var stride = map[bool]int{false: 1, true: 53}[raceEnabled]

func flipCases(t testing.TB) []flipCase {
	v4, v5 := tdxFile(t, "v4-quote-uptodate.dat"), tdxFile(t, "v5-quote-spr.dat")
	return []flipCase{
		{"genuine v4", v4, Collateral{TDX: june2025(t)}, ownPolicy(t, v4), onDay(t, "2025-06-25")},
		{"genuine v5", v5, Collateral{TDX: march2026(t)}, ownPolicy(t, v5), onDay(t, "2026-03-20")},
	}
}

// TestQuoteFlips changes every byte of quotes. What no signature covers is listed
// here, with the reason; there is nothing else.
func TestQuoteFlips(t *testing.T) {
	for _, c := range flipCases(t) {
		t.Run(c.name, func(t *testing.T) {
			var v Verifier
			verify := func(raw []byte) *Refusal {
				_, err := v.Verify(Evidence{TEE: TDX, Report: raw}, c.col, c.pol, c.at)
				var r *Refusal
				if err != nil && !errors.As(err, &r) {
					t.Fatal(err)
				}
				return r
			}
			if r := verify(c.raw); forged(r) {
				t.Fatal(r)
			}
			// Behind the signature data hosts leave padding: its length is not signed,
			// nothing reads it, and the digest of the evidence covers it.
			_, at, size := quoteForm(c.raw)
			end := at + size
			end += 4 + int(binary.LittleEndian.Uint32(c.raw[end:]))
			for i := 0; i < len(c.raw); i += stride {
				changed := slices.Clone(c.raw)
				changed[i] ^= 1 << (i % 8)
				if padding := i >= end; forged(verify(changed)) == padding {
					t.Errorf("byte %d changed: forged %t, padding %t", i, !padding, padding)
				}
			}
			for n := range 64 {
				if r := verify(c.raw[:end*n/64]); !forged(r) {
					t.Errorf("cut to %d bytes: %v", end*n/64, r)
				}
			}
			if v.Panics() != 0 {
				t.Errorf("%d panics", v.Panics())
			}
		})
	}
}

// reframed puts other certificates into the quote, with its lengths in order.
func reframed(t testing.TB, raw []byte, chain []byte) []byte {
	t.Helper()
	form, at, size := quoteForm(raw)
	q, err := readQuote(raw, form, at, size)
	if err != nil {
		t.Fatal(err)
	}
	head := at + size + 4 + quoteSignatureSize + attestationKeySize
	inner := slices.Concat(q.qeReport, q.qeSignature, binary.LittleEndian.AppendUint16(nil, uint16(len(q.authData))), q.authData)
	inner = binary.LittleEndian.AppendUint16(inner, certificationPCK)
	inner = append(binary.LittleEndian.AppendUint32(inner, uint32(len(chain))), chain...)
	out := binary.LittleEndian.AppendUint16(slices.Clone(raw[:head]), certificationQE)
	out = append(binary.LittleEndian.AppendUint32(out, uint32(len(inner))), inner...)
	binary.LittleEndian.PutUint32(out[at+size:], uint32(len(out)-at-size-4))
	return out
}

// TestPlatformCertificateFlips changes every byte of the three certificates of a quote, in
// DER, so that the PEM around them is in order.
func TestPlatformCertificateFlips(t *testing.T) {
	c := flipCases(t)[0]
	form, at, size := quoteForm(c.raw)
	q, err := readQuote(c.raw, form, at, size)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := readChain(q.pckChain, 3)
	if err != nil {
		t.Fatal(err)
	}
	ders := [][]byte{certs[0].Raw, certs[1].Raw, certs[2].Raw}
	build := func(ders [][]byte) []byte {
		var chain []byte
		for _, der := range ders {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		return reframed(t, c.raw, chain)
	}
	ev := Evidence{TEE: TDX, Report: build(ders)}
	if _, r := judged(t, ev, c.col, c.pol, c.at); r != nil {
		t.Fatalf("unchanged: %v", r)
	}
	for n, der := range ders {
		for i := 0; i < len(der); i += stride {
			changed := slices.Clone(ders)
			changed[n] = slices.Clone(der)
			changed[n][i] ^= 1 << (i % 8)
			ev.Report = build(changed)
			if _, r := judged(t, ev, c.col, c.pol, c.at); !forged(r) {
				t.Errorf("certificate %d, byte %d: %v", n, i, r)
			}
		}
	}
	for name, other := range map[string][][]byte{
		"two certificates": ders[:2], "four": append(slices.Clone(ders), ders[2]), "root first": {ders[2], ders[1], ders[0]}, "no CA": {ders[0], ders[2], ders[2]},
	} {
		ev.Report = build(other)
		if _, r := judged(t, ev, c.col, c.pol, c.at); !forged(r) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// readable says whether one changed object would be read beside the chains. It
// spares proving all the unchanged ones again for each byte.
func readable(objects []Object, changed Object) bool {
	with := []Object{changed}
	if changed.Kind != KindTCBChain && changed.Kind != KindQEChain {
		for _, o := range objects {
			if o.Kind == KindTCBChain {
				with = append(with, o)
			}
		}
	}
	_, err := NewTDXCollateral(with)
	return err == nil
}

// TestCollateralFlips changes every byte of every object of collateral: it is not
// read, or the quote is refused.
func TestCollateralFlips(t *testing.T) {
	c := flipCases(t)[0]
	objects := c.col.TDX.Objects()
	accepted := func(objects []Object) bool {
		col, err := NewTDXCollateral(objects)
		if err != nil {
			return false
		}
		_, err = Verify(Evidence{TEE: TDX, Report: c.raw}, Collateral{TDX: col}, c.pol, c.at)
		return err == nil
	}
	if !accepted(objects) {
		t.Fatal("unchanged collateral")
	}
	for n, o := range objects {
		for i := 0; i < len(o.Bytes); i += stride {
			changed := slices.Clone(objects)
			changed[n].Bytes = slices.Clone(o.Bytes)
			changed[n].Bytes[i] ^= 1 << (i % 8)
			if readable(objects, changed[n]) && accepted(changed) {
				t.Errorf("%s, byte %d of %d", o.Kind, i, len(o.Bytes))
			}
		}
		if o.Kind == KindTCBChain || o.Kind == KindQEChain {
			// Either chain serves both: it is the same certificate.
			continue
		}
		if accepted(slices.Delete(slices.Clone(objects), n, n+1)) {
			t.Errorf("accepted without %s", o.Kind)
		}
	}
}

// TestSigningCertificateFlips changes every byte of the certificate that signs the
// collateral, in DER.
func TestSigningCertificateFlips(t *testing.T) {
	chain := tdxFile(t, "tcb-signing-chain.pem")
	certs, err := readChain(chain, 2)
	if err != nil {
		t.Fatal(err)
	}
	for n := range certs {
		for i := 0; i < len(certs[n].Raw); i += stride {
			ders := [][]byte{certs[0].Raw, certs[1].Raw}
			ders[n] = slices.Clone(ders[n])
			ders[n][i] ^= 1 << (i % 8)
			var text []byte
			for _, der := range ders {
				text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
			}
			if _, err := NewTDXCollateral([]Object{{KindTCBChain, text}}); err == nil {
				t.Errorf("certificate %d, byte %d", n, i)
			}
		}
	}
}

// TestDocumentFlips: in the one JSON object a statement can be spelt in another way
// (member names without regard to case, upper-case hex), and the chain of the
// platform list's issuer is not used. Whatever is read is the same collateral.
func TestDocumentFlips(t *testing.T) {
	data := tdxFile(t, "v4-quote-uptodate-collateral.json")
	want, err := TDXObjects(data)
	if err != nil {
		t.Fatal(err)
	}
	c := flipCases(t)[0]
	for i := 0; i < len(data); i += stride {
		changed := slices.Clone(data)
		changed[i] ^= 1 << (i % 8)
		objects, err := TDXObjects(changed)
		if err != nil {
			continue
		}
		other := slices.DeleteFunc(slices.Clone(objects), func(o Object) bool {
			return slices.ContainsFunc(want, func(w Object) bool { return w.Kind == o.Kind && bytes.Equal(w.Bytes, o.Bytes) })
		})
		if len(objects) == len(want) && (len(other) == 0 || !readable(want, other[0])) {
			continue
		}
		if col, err := NewTDXCollateral(objects); err == nil {
			if _, err := Verify(Evidence{TEE: TDX, Report: c.raw}, Collateral{TDX: col}, c.pol, c.at); err == nil {
				t.Errorf("byte %d (%q): other collateral accepted", i, data[i])
			}
		}
	}
}

// sameSet compares without order: chains are read first.
func sameSet(a, b []Object) bool {
	return digestOf(sorted(slices.Clone(a))) == digestOf(sorted(slices.Clone(b)))
}

// TestCollateralRoundTrip: document, objects and the canonical list are one.
func TestCollateralRoundTrip(t *testing.T) {
	col := june2025(t)
	again, err := NewTDXCollateral(col.Objects())
	if err != nil || !sameSet(again.Objects(), col.Objects()) {
		t.Fatal(err)
	}
	doc, err := col.Document()
	if err != nil {
		t.Fatal(err)
	}
	fromDoc, err := ParseTDXCollateral(doc)
	if err != nil || !sameSet(fromDoc.Objects(), col.Objects()) {
		t.Error(err)
	}
	whole, err := NewCollateral(AMDRoots(), col.Objects())
	if err != nil || whole.TDX == nil || !sameSet(whole.Objects(), col.Objects()) {
		t.Error(err)
	}
}

func TestCollateralLimits(t *testing.T) {
	s := newSoftTD(t)
	good := s.objects()
	read := func(objects []Object) error {
		_, err := newTDXCollateralUnder(s.root, objects)
		return err
	}
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, maxObjectBytes+1)
	for name, objects := range map[string][]Object{
		"too many":            make([]Object, maxIntelObjects+1),
		"too large":           {{KindPCKCRL, big}},
		"unknown kind":        {{"intel-other", nil}},
		"empty":               {{KindTCBInfo, nil}},
		"no signer":           {good[2]},
		"as the other":        {good[0], {KindQEIdentity, good[2].Bytes}},
		"blank in front":      {good[0], {KindTCBInfo, append([]byte(" "), good[2].Bytes...)}},
		"behind a list":       {{KindIntelRootCRL, append(slices.Clone(good[5].Bytes), 0)}},
		"another root's list": {{KindIntelRootCRL, good[4].Bytes}},
		"CA as signer":        {{KindTCBChain, s.pem(s.ca, s.root.cert)}},
		"chain of one":        {{KindTCBChain, s.pem(s.signer)}},
		"long chain":          {{KindTCBChain, bytes.Repeat(s.pem(s.signer), 40)}},
	} {
		if read(objects) == nil {
			t.Errorf("%s: read", name)
		}
	}
	for name, change := range map[string]func(*softTD){
		"SGX id":                func(s *softTD) { s.info["id"] = "SGX" },
		"version 2":             func(s *softTD) { s.info["version"] = 2 },
		"TCB type":              func(s *softTD) { s.info["tcbType"] = 1 },
		"short FMSPC":           func(s *softTD) { s.info["fmspc"] = "00" },
		"no levels":             func(s *softTD) { s.info["tcbLevels"] = nil },
		"short components":      func(s *softTD) { s.info["tcbLevels"] = []any{softISV(1, "UpToDate")} },
		"unknown status":        func(s *softTD) { s.info["tcbLevels"] = []any{softLevel(nil, nil, 1, "Fine")} },
		"published relaunch":    func(s *softTD) { s.info["tcbLevels"] = []any{softLevel(nil, nil, 1, "TDRelaunchAdvised")} },
		"module without levels": func(s *softTD) { s.info["tdxModuleIdentities"] = []any{softModule("TDX_01", nil)} },
		"module without ISVSVN": func(s *softTD) {
			s.info["tdxModuleIdentities"] = []any{softModule("TDX_01", []any{softLevel(nil, nil, 1, "UpToDate")})}
		},
		"no module":             func(s *softTD) { delete(s.info, "tdxModule") },
		"window the wrong way":  func(s *softTD) { s.issued, s.next = s.next, s.issued },
		"SGX QE":                func(s *softTD) { s.identity["id"] = "QE" },
		"QE version 1":          func(s *softTD) { s.identity["version"] = 1 },
		"short signer":          func(s *softTD) { s.identity["mrsigner"] = "00" },
		"QE without levels":     func(s *softTD) { s.identity["tcbLevels"] = []any{} },
		"SVN that is no number": func(s *softTD) { s.info["tcbEvaluationDataNumber"] = "20" },
	} {
		s := newSoftTD(t)
		change(s)
		objects := []Object{{KindTCBChain, s.pem(s.signer, s.root.cert)}, {KindTCBInfo, s.statement(tcbInfoMember, s.info)}, {KindQEIdentity, s.statement(qeIdentityMember, s.identity)}}
		if _, err := newTDXCollateralUnder(s.root, objects); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	if _, err := TDXObjects(make([]byte, maxTDXDocumentBytes+1)); err == nil {
		t.Error("a document of any size is read")
	}
	for _, doc := range []string{"", "[]", `{"x":1}`, `{} {}`, `{"pck_crl":"zz"}`, `{"tcb_info":"{","tcb_info_signature":"00"}`, `{"tcb_info":"{}","tcb_info_signature":"z"}`} {
		if _, err := TDXObjects([]byte(doc)); err == nil {
			t.Errorf("read: %s", doc)
		}
	}
}

// TestNewestCollateralCounts: of several statements the one that speaks for the
// time counts, issued last; without one, the verdict names the nearest.
func TestNewestCollateralCounts(t *testing.T) {
	s := newSoftTD(t)
	objects := s.objects()
	s.issued, s.info["tcbEvaluationDataNumber"] = s.now.AddDate(0, 0, -2), 22
	newer := Object{KindTCBInfo, s.statement(tcbInfoMember, s.info)}
	s.issued, s.info["tcbEvaluationDataNumber"] = s.now.AddDate(0, 0, 2), 23
	future := Object{KindTCBInfo, s.statement(tcbInfoMember, s.info)}
	for _, order := range [][]Object{append(slices.Clone(objects), newer, future), append([]Object{future, newer}, objects...)} {
		col, err := newTDXCollateralUnder(s.root, order)
		if err != nil {
			t.Fatal(err)
		}
		res, r := judged(t, Evidence{TEE: TDX, Report: s.quote()}, Collateral{TDX: col}, s.policy(), s.now)
		if r != nil || res.EvaluationNumber != 22 {
			t.Errorf("%v %+v", r, res)
		}
	}
}

// TestTDXVerifierRemembers: a proof is found for the same bytes only, and its time
// is judged each time.
func TestTDXVerifierRemembers(t *testing.T) {
	s := newSoftTD(t)
	var v Verifier
	raw, col, pol := s.quote(), s.collateral(), s.policy()
	ev := Evidence{TEE: TDX, Report: raw}
	for range 2 {
		if _, err := v.Verify(ev, col, pol, s.now); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.cache.platforms.known) != 1 {
		t.Fatalf("%d proofs", len(v.cache.platforms.known))
	}
	res, err := v.Verify(ev, col, pol, s.now)
	if cold, warm := Judge(ev, col, pol, s.now), Decided(ev, col, pol, s.now, res, err); fmt.Sprint(cold) != fmt.Sprint(warm) {
		t.Errorf("memory changes the decision:\n%v\n%v", cold, warm)
	}
	if _, err := v.Verify(ev, col, pol, s.now.AddDate(6, 0, 0)); err == nil {
		t.Error("a proof outlived its certificates")
	}
	// Another root is another question.
	if _, err := v.Verify(ev, Collateral{TDX: june2025(t)}, pol, s.now); err == nil {
		t.Error("a proof under one root was taken under another")
	}
	bad := slices.Clone(raw)
	bad[0x30+0xb8] ^= 1
	if _, err := v.Verify(Evidence{TEE: TDX, Report: bad}, col, pol, s.now); err == nil {
		t.Error("a proof of the platform was taken for one of the quote")
	}
	s.qe.reportData = make([]byte, 64)
	if _, err := v.Verify(Evidence{TEE: TDX, Report: s.quote()}, col, pol, s.now); err == nil || len(v.cache.platforms.known) != 1 {
		t.Errorf("a failure was remembered: %v", err)
	}
}
