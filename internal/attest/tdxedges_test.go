package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// TestTDXEdges goes on where TestTDXGates ends: levels, modules and the data set at their edges.
func TestTDXEdges(t *testing.T) {
	module := func(s *softTD) map[string]any { return s.info["tdxModuleIdentities"].([]any)[0].(map[string]any) }
	levels := func(s *softTD) []any { return s.info["tcbLevels"].([]any) }
	zeroVersion := func(s *softTD) { s.body.svn, s.body.svn2 = [16]byte{5, 0, 4}, [16]byte{5, 0, 4} }
	for name, c := range map[string]struct {
		change func(*softTD)
		policy func(*TDXPolicy)
		failed []check
	}{
		"PCE older than any level": {func(s *softTD) {
			s.info["tcbLevels"] = []any{softLevel(softComponents, []byte{5, 0, 4}, 14, "UpToDate")}
		}, nil, []check{tdxLevel, tdxLevelNow}},
		"PCE of the level": {func(s *softTD) { s.info["tcbLevels"] = levels(s)[:1] }, nil, nil},
		"PCE below the best level": {func(s *softTD) {
			s.info["tcbLevels"] = append([]any{softLevel(softComponents, []byte{5, 0, 4}, 14, "UpToDate")}, levels(s)[1:]...)
		}, nil, []check{tdxStatus}},
		"data set of the floor":               {nil, func(p *TDXPolicy) { p.MinEvaluationNumber = 20 }, nil},
		"QE's data set below the floor":       {func(s *softTD) { s.identity["tcbEvaluationDataNumber"] = 19 }, func(p *TDXPolicy) { p.MinEvaluationNumber = 20 }, []check{tdxEvaluation}},
		"TCB info's data set below the floor": {func(s *softTD) { s.info["tcbEvaluationDataNumber"] = 19 }, func(p *TDXPolicy) { p.MinEvaluationNumber = 20 }, []check{tdxEvaluation}},
		"module signer that the quote lacks":  {func(s *softTD) { module(s)["mrsigner"] = strings.Repeat("01", 48) }, nil, []check{tdxSeamSigner}},
		"module attribute that it lacks":      {func(s *softTD) { module(s)["attributes"] = "01" + strings.Repeat("00", 7) }, nil, []check{tdxSeamAttributes}},
		"signer of modules without a list":    {func(s *softTD) { s.info["tdxModule"].(map[string]any)["mrsigner"] = strings.Repeat("01", 48) }, nil, nil},
		"module without a list":               {zeroVersion, nil, nil},
		"its signer": {func(s *softTD) {
			zeroVersion(s)
			s.info["tdxModule"].(map[string]any)["mrsigner"] = strings.Repeat("01", 48)
		}, nil, []check{tdxSeamSigner}},
		"its attributes": {func(s *softTD) {
			zeroVersion(s)
			s.info["tdxModule"].(map[string]any)["attributes"] = "01" + strings.Repeat("00", 7)
		}, nil, []check{tdxSeamAttributes}},
		"signer of a list of version 0": {func(s *softTD) {
			zeroVersion(s)
			m := module(s)
			m["id"], m["mrsigner"] = "TDX_00", strings.Repeat("01", 48)
		}, nil, nil},
		"module's list in lower case":        {func(s *softTD) { module(s)["id"] = "tdx_01" }, nil, nil},
		"module of another version now":      {func(s *softTD) { s.body.svn2[1] = 2 }, nil, []check{tdxModuleNow}},
		"module below the platform's level":  {func(s *softTD) { s.body.svn, s.body.svn2 = [16]byte{4, 0, 4}, [16]byte{5, 0, 4} }, nil, []check{tdxLevel}},
		"QE level missing, platform revoked": {func(s *softTD) { s.qe.svn = 0; s.body.svn[2], s.body.svn2[2] = 1, 1 }, nil, []check{tdxQELevel, tdxTCBRevoked}},
		"platform's level missing":           {func(s *softTD) { s.body.svn[2], s.body.svn2[2] = 0, 0 }, nil, []check{tdxLevel, tdxLevelNow}},
		"QE level missing, else good":        {func(s *softTD) { s.qe.svn = 0 }, nil, []check{tdxQELevel}},
		"service TD among two":               {func(s *softTD) { s.body.serviceTD[0] = 7 }, func(p *TDXPolicy) { p.ServiceTDs = [][]byte{make([]byte, 48), {7}} }, []check{tdxServiceTD}},
		"report data of nothing":             {func(s *softTD) { s.body.reportData = [64]byte{} }, nil, []check{tdxReportData}},
		"signer valid from this instant": {func(s *softTD) {
			s.signer = s.certificate(4, nameTCBSigning, s.root.cert, s.rootKey, s.signKey, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = s.now, s.now })
		}, nil, nil},
		"signer valid from tomorrow": {func(s *softTD) {
			s.signer = s.certificate(4, nameTCBSigning, s.root.cert, s.rootKey, s.signKey, func(c *x509.Certificate) { c.NotBefore = s.now.AddDate(0, 0, 1) })
		}, nil, []check{tdxSigner}},
		"collateral issued at this instant":     {func(s *softTD) { s.issued = s.now }, nil, nil},
		"platforms' list of another CA":         {func(s *softTD) { s.revoked = nil }, nil, nil},
		"values of a register that is any":      {nil, func(p *TDXPolicy) { p.RTMRs[0] = RTMRRule{Any: true} }, nil},
		"attribute under a mask":                {func(s *softTD) { s.body.attributes |= tdPerfmon }, func(p *TDXPolicy) { p.Attributes.Mask = tdSEPTVEOff }, nil},
		"QE's MISCSELECT of another size":       {func(s *softTD) { s.identity["miscselectMask"] = "00000000"; s.qe.misc[0] = 1 }, nil, nil},
		"a feature beyond the known, at bit 19": {func(s *softTD) { s.body.xfam |= 1 << 19 }, nil, []check{tdxKnownFeatures}},
		"the last known feature":                {func(s *softTD) { s.body.xfam |= 1 << 18 }, nil, nil},
	} {
		s := newSoftTD(t)
		if c.change != nil {
			c.change(s)
		}
		pol := s.policy()
		if c.policy != nil {
			c.policy(pol.TDX)
		}
		_, r := s.judge(pol)
		var want []string
		for _, f := range c.failed {
			want = append(want, tdxTable[f].Name)
		}
		if got := failed(r); !slices.Equal(got, want) {
			t.Errorf("%s: failed checks %q, want %q", name, got, want)
		}
	}
	// Status, advisories and what the list says of them, in words.
	s := newSoftTD(t)
	s.body.svn[2], s.body.svn2[2], s.qe.svn = 3, 3, 2
	_, r := s.judge(s.policy())
	if c := r.Checks[tdxStatus]; c.Expected != "UpToDate" || c.Got != "OutOfDate SOFT-SA-00002 SOFT-SA-00013" {
		t.Errorf("%+v", c)
	}
	if c := r.Checks[tdxLevel]; c.Got != "OutOfDate (level of 2026-01-01) SOFT-SA-00013" {
		t.Errorf("%+v", c)
	}
	s.body.svn[2], s.body.svn2[2] = 4, 0
	_, r = s.judge(s.policy())
	if c := r.Checks[tdxLevelNow]; c.Got != fmt.Sprintf("CPUSVN %x, PCESVN 13, TEE TCB SVN 050100%s", softComponents, strings.Repeat("00", 13)) {
		t.Errorf("%+v", c)
	}
	s.body.svn2[2] = 4
	_, r = s.judge(s.policy())
	if c := r.Checks[tdxStatus]; c.Got != "OutOfDate SOFT-SA-00002" {
		t.Errorf("%+v", c)
	}
	s.body.svn[2], s.body.svn2[2] = 0, 4
	_, r = s.judge(s.policy())
	if c := r.Checks[tdxLevel]; c.Expected != "a level that Intel lists" || c.Got != fmt.Sprintf("CPUSVN %x, PCESVN 13, TEE TCB SVN 050100%s", softComponents, strings.Repeat("00", 13)) {
		t.Errorf("%+v", c)
	}
	if c := r.Checks[tdxStatus]; c.Status != NotJudged || c.Got != "a part has no TCB level" {
		t.Errorf("%+v", c)
	}
	s = newSoftTD(t)
	s.body.svn[0] = 0
	_, r = s.judge(s.policy())
	if c := r.Checks[tdxModule]; c.Got != "version 1, ISVSVN 0" || c.Status != Failed {
		t.Errorf("%+v", c)
	}
	s.body.svn, s.body.svn2 = [16]byte{5, 0, 4}, [16]byte{5, 0, 4}
	res, r := s.judge(s.policy())
	if r != nil || res.Checks[tdxModule].Got != "version 0, ISVSVN 5, judged with the platform" {
		t.Errorf("%v", r)
	}
	_, r = judged(t, Evidence{TEE: TDX, Report: s.quote()}, Collateral{}, s.policy(), s.now)
	if got := failed(r); !slices.Contains(got, tdxTable[tdxQE].Name) || !slices.Contains(got, tdxTable[tdxInfo].Name) {
		t.Errorf("without collateral: %q", got)
	}
	none := s.collateral()
	none.TDX.identities = nil
	_, r = judged(t, Evidence{TEE: TDX, Report: s.quote()}, none, s.policy(), s.now)
	if got := failed(r); !slices.Equal(got, []string{tdxTable[tdxQE].Name}) || r.Checks[tdxQE].Got != "none" || r.Checks[tdxSigner].Status != Passed {
		t.Errorf("without an identity: %q", got)
	}
	none.TDX.infos = nil
	_, r = judged(t, Evidence{TEE: TDX, Report: s.quote()}, none, s.policy(), s.now)
	if got := failed(r); !slices.Equal(got, []string{tdxTable[tdxInfo].Name, tdxTable[tdxQE].Name}) || r.Checks[tdxSigner].Status != NotJudged {
		t.Errorf("without identity and TCB info: %q, signer %s", got, r.Checks[tdxSigner].Status)
	}
}

// TestRelaunchIsTheNewest: a relaunch is advised only to what runs the newest now, and what the platform's own level asks
// of its configuration is not forgotten over it.
func TestRelaunchIsTheNewest(t *testing.T) {
	svn := func(b ...byte) []byte { return append(b, make([]byte, 16-len(b))...) }
	info := &tcbInfo{
		levels: []level{
			{sgx: svn(), tdx: svn(5, 0, 4), status: tcbConfiguration}, {sgx: svn(), tdx: svn(4, 0, 3)}, {sgx: svn(), tdx: svn(0, 0, 3)},
		},
		modules: []moduleIdentity{{id: "TDX_01", levels: []level{{isvSVN: 5}, {isvSVN: 3, status: tcbOutOfDate}}}},
	}
	for name, c := range map[string]struct {
		now     []byte
		advised bool
	}{
		"the newest list":                     {svn(5, 1, 4), true},
		"an older module of the list":         {svn(4, 1, 4), false},
		"without a list, the newest":          {svn(5, 0, 4), true},
		"without a list, an older":            {svn(4, 0, 4), false},
		"a version that is not listed":        {svn(9, 9, 4), false},
		"an older third component":            {svn(5, 1, 3), false},
		"an older third component, no list":   {svn(5, 0, 3), false},
		"a newer module, an older microcode":  {svn(9, 1, 3), false},
		"everything newer than what is known": {svn(9, 1, 9), true},
	} {
		a := info.appraise(platformSVNs{components: svn(), tee: svn(3, 1, 3)}, c.now, &level{})
		if a.relaunched != c.advised || c.advised && a.status != tcbRelaunch|tcbConfiguration {
			t.Errorf("%s: advised %t, status %s", name, a.relaunched, a.status)
		}
	}
}

func p384Key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPlatformIsProved takes one thing from the platform's certificate, its key or its chain.
func TestPlatformIsProved(t *testing.T) {
	read := func(change func(*softTD)) (*platform, error) {
		s := newSoftTD(t)
		change(s)
		raw := s.quote()
		form, at, size := quoteForm(raw)
		q, err := readQuote(raw, form, at, size)
		if err != nil {
			t.Fatal(err)
		}
		return provePlatform(q, s.root)
	}
	pck := func(change func(*x509.Certificate)) func(*softTD) {
		return func(s *softTD) {
			s.pck = s.certificate(3, namePCK, s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, s.sgxExtension()); change(c) })
		}
	}
	for name, c := range map[string]struct {
		change               func(*softTD)
		chained, signed, own bool
	}{
		"good": {func(*softTD) {}, true, true, true},
		"CA that is none": {func(s *softTD) {
			s.ca = s.certificate(2, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.IsCA = false })
		}, false, true, true},
		"PCK that is a CA":     {pck(func(c *x509.Certificate) { c.IsCA = true }), false, true, true},
		"PCK of another name":  {pck(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX PCK" }), false, true, true},
		"QE report of another": {func(s *softTD) { s.pckKey = p256Key(t) }, true, false, true},
		"key bound to nothing": {func(s *softTD) { s.qe.reportData = bytes.Repeat([]byte{1}, 64) }, true, true, false},
		"no authentication":    {func(s *softTD) { s.authData = nil }, true, true, true},
	} {
		p, err := read(c.change)
		if err != nil || p.chained != c.chained || p.signed != c.signed || p.own != c.own || p.key == nil {
			t.Errorf("%s: %v %+v", name, err, p)
		}
	}
	// A key that is no point of the curve verifies nothing and is not the platform's own.
	s := newSoftTD(t)
	raw := s.quote()
	form, at, size := quoteForm(raw)
	q, err := readQuote(raw, form, at, size)
	if err != nil {
		t.Fatal(err)
	}
	q.key = bytes.Repeat([]byte{0xff}, 64)
	bound := sha256.Sum256(append(bytes.Clone(q.key), q.authData...))
	q.qe.ReportData = append(bound[:], make([]byte, 32)...)
	p, err := provePlatform(q, s.root)
	if err != nil || p.key != nil || p.own || signedP256(p.key, sha256.Sum256(nil), make([]byte, 64)) {
		t.Errorf("%v %+v", err, p)
	}
	func() {
		defer func() {
			if recover() != nil {
				t.Error("a signature of no key is looked at")
			}
		}()
		if signedP256(nil, sha256.Sum256(nil), bytes.Repeat([]byte{1}, 64)) {
			t.Error("a signature of no key is good")
		}
	}()
	signature := s.sign(s.key, []byte("x"))
	padded := append(append(bytes.Clone(signature[:32]), 0), signature[32:]...)
	if signedP256(&s.key.PublicKey, sha256.Sum256([]byte("x")), padded) {
		t.Error("a signature of 65 bytes is good")
	}
	if k := &s.key.PublicKey; !signedP256(k, sha256.Sum256([]byte("x")), signature) || signedP256(k, sha256.Sum256([]byte("x")), signature[:63]) || signedP256(k, sha256.Sum256([]byte("x")), append(signature, 0)) {
		t.Error("a signature of another length")
	}
	if _, err := read(func(s *softTD) { s.pck = s.certificate(3, namePCK, s.ca, s.caKey, s.pckKey, nil) }); err == nil {
		t.Error("a certificate without Intel's extensions was read")
	}
	for name, key := range map[string]any{"P-384": p384Key(t).Public(), "RSA": newSoftSNP(t, Genoa, 3, "").rsa.Public()} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: namePCK}, NotBefore: s.now.AddDate(-1, 0, 0), NotAfter: s.now.AddDate(1, 0, 0), ExtraExtensions: []pkix.Extension{s.sgxExtension()},
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, CRLDistributionPoints: []string{"https://certificates.example/root.der"}, SubjectKeyId: []byte("key"),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, s.ca, key, s.caKey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(func(other *softTD) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			other.pck = c
		}); err == nil || !strings.Contains(err.Error(), "not those of the profile") {
			t.Errorf("a platform's key of %s: %v", name, err)
		}
	}
	bare := newSoftTD(t)
	bare.pck = bare.certificate(3, namePCK, bare.ca, bare.caKey, bare.pckKey, nil)
	if _, r := bare.judge(bare.policy()); r == nil || !slices.Equal(failed(r), []string{tdxTable[tdxCertificate].Name}) {
		t.Errorf("a certificate without Intel's extensions: %v", r)
	}
	if _, err := readChain(append(s.pem(s.pck), "text\n"...), 1); err == nil {
		t.Error("text behind a certificate was read")
	}
	if _, err := readChain(append([]byte("text\n"), s.pem(s.pck)...), 1); err == nil {
		t.Error("text before a certificate was read")
	}
	for _, n := range []int{0, 2} {
		if _, err := readChain(s.pem(s.pck), n); err == nil {
			t.Errorf("one certificate was read as %d", n)
		}
	}
}

// TestPlatformsAreRemembered: up to a bound, and beyond it one goes for each that comes.
func TestPlatformsAreRemembered(t *testing.T) {
	s := newSoftTD(t)
	raw := s.quote()
	form, at, size := quoteForm(raw)
	q, err := readQuote(raw, form, at, size)
	if err != nil {
		t.Fatal(err)
	}
	c := platformCache{}
	first, err := c.platform(q, s.root)
	if again, err2 := c.platform(q, s.root); err != nil || err2 != nil || again != first {
		t.Errorf("proved twice: %v, %v", err, err2)
	}
	for i := range 4095 {
		c.known[platformKey{certification: [32]byte{byte(i), byte(i >> 8), 1}}] = first
	}
	if len(c.known) != 4096 {
		t.Fatalf("%d", len(c.known))
	}
	for i := range 3 {
		q.certification = append(bytes.Clone(q.certification), byte(i))
		if _, err := c.platform(q, s.root); err != nil || len(c.known) != 4096 {
			t.Errorf("%d platforms in memory: %v", len(c.known), err)
		}
	}
}

// TestPlatformLists: a list of platforms counts for the CA that signed it, and for no other that has its key.
func TestPlatformLists(t *testing.T) {
	s := newSoftTD(t)
	processor := s.certificate(8, nameProcessorCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign })
	objects := s.objects()
	for i := range 70 {
		s.next = s.next.AddDate(0, 0, i)
		objects = append(objects, Object{KindPCKCRL, s.list(s.ca, s.caKey, nil)})
	}
	objects = append(objects, Object{KindPCKCRL, s.list(processor, s.caKey, nil)})
	c, err := newTDXCollateralUnder(s.root, objects)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := len(c.pckListsOf(s.ca)); n != 71 {
			t.Errorf("%d lists of the platforms' CA", n)
		}
		if n := len(c.proved); n != 64 {
			t.Errorf("%d proofs in memory", n)
		}
	}
	for key := range c.proved {
		if !c.proved[key] || key.ca != sha256.Sum256(s.ca.Raw) {
			t.Errorf("%v", key)
		}
	}
	if n := len(c.pckListsOf(processor)); n != 1 {
		t.Errorf("%d lists of the processors' CA", n)
	}
}
