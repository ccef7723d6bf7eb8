package attest

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
)

func TestSoftTDIsAccepted(t *testing.T) {
	for _, form := range quoteForms {
		s := newSoftTD(t)
		s.form = form
		res, r := s.judge(s.policy())
		if r != nil {
			t.Fatalf("%s: %v", form, r)
		}
		if !res.Simulated || res.TCBStatus != "UpToDate" || res.EvaluationNumber != 20 || res.TDX.Form != form || res.Product != softFMSPC {
			t.Errorf("%s: %+v", form, res)
		}
		if len(res.Advisories) != 0 || res.TDX.ModuleStatus != "UpToDate" || res.TDX.QEStatus != "UpToDate" || res.TDX.PlatformStatus != "UpToDate" {
			t.Errorf("%s: %+v", form, res.TDX)
		}
	}
}

// TestSoftTDUnderIntelsRoot: the root of tests vouches for nothing in production.
func TestSoftTDUnderIntelsRoot(t *testing.T) {
	s := newSoftTD(t)
	if _, err := NewTDXCollateral(s.objects()); err == nil {
		t.Error("collateral of another root was read")
	}
	ev := Evidence{TEE: TDX, Report: s.quote()}
	_, r := judged(t, ev, Collateral{TDX: june2025(t)}, s.policy(), s.now)
	if r == nil || r.Code != CodeChain {
		t.Errorf("got %v", r)
	}
	pol := s.policy()
	pol.Simulated = false
	if _, r := s.judge(pol); r == nil || r.Code != CodeChain || !slices.Equal(failed(r), []string{tdxTable[tdxHardware].Name}) {
		t.Errorf("simulated guest under a policy for genuine ones: %v", r)
	}
}

// TestTDXGates changes one thing of a good guest at a time. Each row names all the
// checks that fail; the policy is that of the changed guest, so what no policy can
// open stands alone.
func TestTDXGates(t *testing.T) {
	revoke := func(c func(*softTD) *x509.Certificate) func(*softTD) {
		return func(s *softTD) {
			s.revoked, s.rootRevoked = []*big.Int{c(s).SerialNumber}, []*big.Int{c(s).SerialNumber}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*softTD)
		policy func(*softTD, *TDXPolicy)
		code   string
		failed []check
	}{
		{"debug", func(s *softTD) { s.body.attributes |= tdDebug }, func(_ *softTD, p *TDXPolicy) { p.Attributes.Value |= tdDebug }, CodeDebug, []check{tdxDebug}},
		{"migratable", func(s *softTD) { s.body.attributes |= tdMigratable }, func(_ *softTD, p *TDXPolicy) { p.Attributes.Value |= tdMigratable }, CodeMigration, []check{tdxMigratable}},
		{"unknown attribute", func(s *softTD) { s.body.attributes |= 1 << 5 }, func(_ *softTD, p *TDXPolicy) { p.Attributes = MaskedBits{tdSEPTVEOff, tdSEPTVEOff} }, CodeAttributes, []check{tdxKnownAttributes}},
		{"attribute that the policy does not want", func(s *softTD) { s.body.attributes |= tdPerfmon }, nil, CodeAttributes, []check{tdxAttributes}},
		{"attribute missing", func(s *softTD) { s.body.attributes = 0 }, nil, CodeAttributes, []check{tdxAttributes}},
		{"unknown feature", func(s *softTD) { s.body.xfam |= 1 << 40 }, nil, CodeAttributes, []check{tdxKnownFeatures}},
		{"fixed feature missing", func(s *softTD) { s.body.xfam = 0xe4 }, nil, CodeAttributes, []check{tdxKnownFeatures}},
		{"other feature", nil, func(_ *softTD, p *TDXPolicy) { p.XFAM.Value = 3 }, CodeAttributes, []check{tdxFeatures}},
		{"masks of nothing", nil, func(_ *softTD, p *TDXPolicy) { p.XFAM, p.Attributes = MaskedBits{}, MaskedBits{} }, CodeAttributes, []check{tdxAttributes, tdxFeatures}},
		{"service TD", func(s *softTD) { s.body.serviceTD[7] = 1 }, nil, CodeServiceTD, []check{tdxServiceTD}},
		{"module signer", func(s *softTD) { s.body.mrSignerSeam[0] = 1 }, nil, CodeModule, []check{tdxSeamSigner}},
		{"module signer that Intel listed", func(s *softTD) {
			s.body.mrSignerSeam[0] = 1
			s.info["tdxModuleIdentities"].([]any)[0].(map[string]any)["mrsigner"] = "01" + strings.Repeat("00", 47)
		}, nil, CodeModule, []check{tdxSeamSigner}},
		{"module attributes", func(s *softTD) { s.body.seamAttributes[0] = 1 }, nil, CodeModule, []check{tdxSeamAttributes}},
		{"MRCONFIGID", func(s *softTD) { s.body.configID[0] = 1 }, nil, CodeHostData, []check{tdxConfigID}},
		{"MROWNER", func(s *softTD) { s.body.owner[0] = 1 }, nil, CodeIDBlock, []check{tdxOwner}},
		{"MROWNERCONFIG", func(s *softTD) { s.body.ownerConfig[0] = 1 }, nil, CodeIDBlock, []check{tdxOwnerConfig}},
		{"MRTD", nil, func(_ *softTD, p *TDXPolicy) { p.MRTDs = [][]byte{make([]byte, 48)} }, CodeMeasurement, []check{tdxMRTD}},
		{"no MRTD", func(s *softTD) { s.body.mrTD = [48]byte{} }, nil, CodeMeasurement, []check{tdxMRTD}},
		{"RTMR0", nil, func(_ *softTD, p *TDXPolicy) { p.RTMRs[0].Values = nil }, CodeRTMR, []check{tdxRTMR0}},
		{"RTMR1", nil, func(_ *softTD, p *TDXPolicy) { p.RTMRs[1].Values = [][]byte{make([]byte, 48)} }, CodeRTMR, []check{tdxRTMR1}},
		{"RTMR2", nil, func(_ *softTD, p *TDXPolicy) { p.RTMRs[2] = RTMRRule{} }, CodeRTMR, []check{tdxRTMR2}},
		{"RTMR3", nil, func(_ *softTD, p *TDXPolicy) { p.RTMRs[3] = RTMRRule{} }, CodeRTMR, []check{tdxRTMR3}},
		{"no log where one is asked for", nil, func(_ *softTD, p *TDXPolicy) { p.RequireEventLog = true }, CodeEventLog, []check{tdxEventLog}},
		{"line without log", nil, func(_ *softTD, p *TDXPolicy) { p.CommandLine, p.Initrds = "quiet", [][]byte{make([]byte, 48)} }, CodeEventLog, []check{tdxEventLog, tdxCommandLine, tdxInitrd}},
		{"form", nil, func(_ *softTD, p *TDXPolicy) { p.Quotes = []string{quoteForm4} }, CodeVersion, []check{tdxFormAllowed}},
		{"platform", nil, func(_ *softTD, p *TDXPolicy) { p.Platforms = nil }, CodeChip, []check{tdxRegistered}},
		{"evaluation number", nil, func(_ *softTD, p *TDXPolicy) { p.MinEvaluationNumber = 21 }, CodeTCBStatus, []check{tdxEvaluation}},
		{"no status admitted", nil, func(_ *softTD, p *TDXPolicy) { p.TCBStatuses = nil }, CodeTCBStatus, []check{tdxStatus}},

		{"PCK revoked", revoke(func(s *softTD) *x509.Certificate { return s.pck }), nil, CodeRevoked, []check{tdxRevoked}},
		{"CA revoked", revoke(func(s *softTD) *x509.Certificate { return s.ca }), nil, CodeRevoked, []check{tdxRevoked}},
		{"TCB signing certificate revoked", revoke(func(s *softTD) *x509.Certificate { return s.signer }), nil, CodeRevoked, []check{tdxRevoked}},
		{"PCK named by the root's list only", func(s *softTD) { s.rootRevoked = []*big.Int{s.pck.SerialNumber} }, nil, "", nil},
		{"PCK of another signer", func(s *softTD) {
			forged := s.certificate(2, namePlatformCA, nil, s.signKey, s.signKey, nil)
			s.pck = s.certificate(9, namePCK, forged, s.signKey, s.pckKey, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, s.sgxExtension()) })
		}, nil, CodeChain, []check{tdxChain, tdxPlatformList}},
		{"PCK by another name", func(s *softTD) {
			s.pck = s.certificate(9, "Soft", s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, s.sgxExtension()) })
		}, nil, CodeChain, []check{tdxChain, tdxPlatformList}},
		{"PCK that may sign certificates", func(s *softTD) {
			s.pck = s.certificate(9, namePCK, s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) {
				c.IsCA, c.ExtraExtensions = true, append(c.ExtraExtensions, s.sgxExtension())
			})
		}, nil, CodeChain, []check{tdxChain, tdxPlatformList}},
		{"CA by another name", func(s *softTD) {
			s.ca = s.certificate(9, nameRootCA, s.root.cert, s.rootKey, s.caKey, nil)
			s.pck = s.certificate(3, namePCK, s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, s.sgxExtension()) })
		}, nil, CodeChain, []check{tdxChain, tdxPlatformList}},
		{"expired PCK", func(s *softTD) {
			s.pck = s.certificate(9, namePCK, s.ca, s.caKey, s.pckKey, func(c *x509.Certificate) {
				c.NotAfter, c.ExtraExtensions = s.now.Add(-1), append(c.ExtraExtensions, s.sgxExtension())
			})
		}, nil, CodeChain, []check{tdxChain}},
		{"future CA", func(s *softTD) {
			s.ca = s.certificate(2, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.NotBefore = s.now.AddDate(0, 0, 1) })
		}, nil, CodeChain, []check{tdxChain}},
		{"expired TCB signing certificate", func(s *softTD) {
			s.signer = s.certificate(4, nameTCBSigning, s.root.cert, s.rootKey, s.signKey, func(c *x509.Certificate) { c.NotAfter = s.now.AddDate(0, 0, -1) })
		}, nil, CodeCollateral, []check{tdxSigner}},
		{"collateral from the future", func(s *softTD) { s.issued = s.now.Add(1e9) }, nil, CodeCollateral, []check{tdxRootList, tdxPlatformList, tdxInfo, tdxQE}},
		{"collateral that has just expired", func(s *softTD) { s.next = s.now }, nil, CodeCollateral, []check{tdxRootList, tdxPlatformList, tdxInfo, tdxQE}},
		{"TCB info of another kind of platform", func(s *softTD) { s.info["fmspc"] = "00a06d080000" }, nil, CodeCollateral, []check{tdxInfo}},
		{"TCB info of another PCE", func(s *softTD) { s.info["pceId"] = "0001" }, nil, CodeCollateral, []check{tdxInfoPlatform}},

		{"attestation key not bound", func(s *softTD) { s.qe.reportData = make([]byte, 64) }, nil, CodeSignature, []check{tdxKeyBinding}},
		{"QE report of another key", func(s *softTD) { s.pckKey = s.signKey }, nil, CodeSignature, []check{tdxQESignature}},
		{"quote of another key", func(s *softTD) {
			own, _ := s.key.PublicKey.Bytes()
			s.qe.reportData = s.rawQE(own[1:])[320:]
			s.key = s.signKey
		}, nil, CodeSignature, []check{tdxKeyBinding}},
		{"QE signer", func(s *softTD) { s.qe.signer[1] = 1 }, nil, CodeQE, []check{tdxQESigner}},
		{"QE product", func(s *softTD) { s.qe.product = 1 }, nil, CodeQE, []check{tdxQEProduct}},
		{"QE MISCSELECT", func(s *softTD) { s.qe.misc[3] = 1 }, nil, CodeQE, []check{tdxQEMisc}},
		{"QE debug attribute", func(s *softTD) { s.qe.attributes[0] |= 2 }, nil, CodeQE, []check{tdxQEAttributes}},
		{"QE attribute outside the mask", func(s *softTD) { s.qe.attributes[15] = 1; s.qe.attributes[0] |= 4 }, nil, "", nil},
		{"QE older than any level", func(s *softTD) { s.qe.svn = 0 }, nil, CodeQE, []check{tdxQELevel}},
		{"QE out of date", func(s *softTD) { s.qe.svn = 2 }, nil, CodeTCBStatus, []check{tdxStatus}},
		{"QE revoked", func(s *softTD) { s.qe.svn = 1 }, everyStatus, CodeRevoked, []check{tdxTCBRevoked, tdxStatus}},
		{"module not listed", func(s *softTD) { s.body.svn[1], s.body.svn2[1] = 9, 9 }, nil, CodeModule, []check{tdxModule, tdxModuleNow}},
		{"module older than any level", func(s *softTD) { s.body.svn[0], s.body.svn2[0] = 0, 0 }, nil, CodeModule, []check{tdxModule, tdxModuleNow}},
		{"module revoked at launch", func(s *softTD) { s.body.svn[0] = 1 }, everyStatus, CodeRevoked, []check{tdxTCBRevoked, tdxStatus}},
		{"module revoked now", func(s *softTD) { s.body.svn2[0] = 1 }, everyStatus, CodeRevoked, []check{tdxTCBRevoked, tdxStatus}},
		{"module older now than any level", func(s *softTD) { s.body.svn2[0] = 0 }, nil, CodeModule, []check{tdxModuleNow}},
		{"platform out of date", func(s *softTD) { s.body.svn[2], s.body.svn2[2] = 3, 3 }, nil, CodeTCBStatus, []check{tdxStatus}},
		{"platform revoked", func(s *softTD) { s.body.svn[2], s.body.svn2[2] = 1, 1 }, everyStatus, CodeRevoked, []check{tdxTCBRevoked, tdxStatus}},
		{"platform older than any level", func(s *softTD) { s.body.svn[2] = 0 }, nil, CodeTCB, []check{tdxLevel}},
		{"platform older now than any level", func(s *softTD) { s.body.svn2[2] = 0 }, nil, CodeTCB, []check{tdxLevelNow}},
		{"relaunch advised", func(s *softTD) { s.body.svn[0] = 3 }, nil, CodeTCBStatus, []check{tdxStatus}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSoftTD(t)
			if c.change != nil {
				c.change(s)
			}
			pol := s.policy()
			if c.policy != nil {
				c.policy(s, pol.TDX)
			}
			_, r := s.judge(pol)
			var want []string
			for _, f := range c.failed {
				want = append(want, tdxTable[f].Name)
			}
			if got := failed(r); !slices.Equal(got, want) {
				t.Errorf("failed checks: %q, want %q", got, want)
			}
			if r != nil && r.Code != c.code {
				t.Errorf("code %q, want %q", r.Code, c.code)
			}
		})
	}
}

// everyStatus opens all that a policy can open.
func everyStatus(_ *softTD, p *TDXPolicy) {
	p.TCBStatuses = nil
	for _, name := range tcbStatusNames {
		p.TCBStatuses = append(p.TCBStatuses, name)
	}
}

// TestServiceTDListed: the one gate of these that a policy opens by name.
func TestServiceTDListed(t *testing.T) {
	s := newSoftTD(t)
	s.body.serviceTD[7] = 1
	pol := s.policy()
	pol.TDX.ServiceTDs = [][]byte{s.body.serviceTD[:]}
	if res, r := s.judge(pol); r != nil || res.TDX.MRServiceTD != s.body.serviceTD {
		t.Error(r)
	}
}

// TestAdmittedStatus: what a policy admits is accepted with its advisories.
func TestAdmittedStatus(t *testing.T) {
	for _, c := range []struct {
		change     func(*softTD)
		status     string
		advisories []string
	}{
		{func(s *softTD) { s.qe.svn = 2 }, "OutOfDate", []string{"SOFT-SA-00002"}},
		{func(s *softTD) { s.body.svn[2], s.body.svn2[2] = 3, 3; s.qe.svn = 2 }, "OutOfDate", []string{"SOFT-SA-00002", "SOFT-SA-00013"}},
		{func(s *softTD) { s.body.svn[0] = 3 }, "TDRelaunchAdvised", []string{"SOFT-SA-00003"}},
	} {
		s := newSoftTD(t)
		c.change(s)
		pol := s.policy()
		pol.TDX.TCBStatuses = []string{c.status}
		res, r := s.judge(pol)
		if r != nil || res.TCBStatus != c.status || !slices.Equal(res.Advisories, c.advisories) {
			t.Errorf("%s: %v %+v", c.status, r, res)
		}
	}
}

// softLog writes a log whose events are (register, tag, digest).
type softEvent struct {
	index  uint32
	tag    uint32
	digest [48]byte
}

func softLog(events ...softEvent) []byte {
	le32 := func(b []byte, v uint32) []byte { return append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24)) }
	id := slices.Concat(specID, make([]byte, 4), []byte{0, 2, 0, 2}, []byte{1, 0, 0, 0, 0x0c, 0, 0x30, 0, 0})
	out := le32(le32(nil, 1), eventNoAction)
	out = append(le32(append(out, make([]byte, 20)...), uint32(len(id))), id...)
	for _, e := range events {
		out = le32(le32(le32(out, e.index), eventTag), 1)
		out = append(append(out, 0x0c, 0), e.digest[:]...)
		out = le32(le32(le32(out, 8), e.tag), 0)
	}
	return append(out, slices.Repeat([]byte{0xff}, 64)...)
}

// TestMeasuredLine: a guest is bound to its workspace by its command line, if and
// only if the stub of the policy's kernel measured it first.
func TestMeasuredLine(t *testing.T) {
	const line = "root=/dev/vda siesta.ws=w1 siesta.gen=3"
	initrd, kernel := sha512.Sum384([]byte("initrd")), sha512.Sum384([]byte("kernel"))
	bare, ovmf, newer := lineDigests(line)[0], lineDigests(line)[1], lineDigests(line)[2]
	other := lineDigests(line + "0")[0]
	k := softEvent{2, 0, kernel}
	for _, c := range []struct {
		name   string
		events []softEvent
		policy func(*TDXPolicy)
		failed []check
	}{
		{"as measured", []softEvent{k, {3, loadOptionsTag, bare}, {3, initrdTag, initrd}}, nil, nil},
		{"with what OVMF adds", []softEvent{k, {3, loadOptionsTag, ovmf}, {3, initrdTag, initrd}, {3, 0, other}, {4, 0, other}}, nil, nil},
		{"with what newer OVMF puts in front", []softEvent{k, {3, loadOptionsTag, newer}, {3, initrdTag, initrd}}, nil, nil},
		{"another line", []softEvent{k, {3, loadOptionsTag, other}, {3, initrdTag, initrd}}, nil, []check{tdxCommandLine}},
		{"another initrd", []softEvent{k, {3, loadOptionsTag, bare}, {3, initrdTag, other}}, nil, []check{tdxInitrd}},
		{"no initrd", []softEvent{k, {3, loadOptionsTag, bare}}, nil, []check{tdxInitrd}},
		{"line measured second", []softEvent{k, {3, 0, other}, {3, loadOptionsTag, bare}, {3, initrdTag, initrd}}, nil, []check{tdxCommandLine, tdxInitrd}},
		{"line in another register", []softEvent{k, {4, loadOptionsTag, bare}, {4, initrdTag, initrd}}, nil, []check{tdxCommandLine, tdxInitrd}},
		{"by another name", []softEvent{k, {3, 0, bare}, {3, initrdTag, initrd}}, nil, []check{tdxCommandLine}},
		{"any kernel", []softEvent{k, {3, loadOptionsTag, bare}, {3, initrdTag, initrd}}, func(p *TDXPolicy) { p.RTMRs[1] = RTMRRule{Any: true} }, []check{tdxCommandLine}},
		{"another kernel", []softEvent{{2, 0, other}, {3, loadOptionsTag, bare}, {3, initrdTag, initrd}}, nil, []check{tdxRTMR1}},
		{"any initrd", []softEvent{k, {3, loadOptionsTag, bare}, {3, initrdTag, initrd}}, func(p *TDXPolicy) { p.Initrds = nil }, []check{tdxCommandLine}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSoftTD(t)
			log := softLog(c.events...)
			events, err := parseEventLog(log)
			if err != nil {
				t.Fatal(err)
			}
			s.body.rtmrs = replay(events)
			pol := s.policy()
			wanted := replay([]logEvent{{register: 1, digest: kernel}})
			pol.TDX.RTMRs = [4]RTMRRule{{Any: true}, {Values: [][]byte{wanted[1][:]}}, {Any: true}, {Any: true}}
			pol.TDX.CommandLine, pol.TDX.Initrds = line, [][]byte{initrd[:]}
			if c.policy != nil {
				c.policy(pol.TDX)
			}
			res, r := judged(t, Evidence{TEE: TDX, Report: s.quote(), EventLog: log}, s.collateral(), pol, s.now)
			var want []string
			for _, f := range c.failed {
				want = append(want, tdxTable[f].Name)
			}
			if got := failed(r); !slices.Equal(got, want) {
				t.Errorf("failed checks: %q, want %q", got, want)
			}
			if r == nil && !res.TDX.EventLog {
				t.Error("the result does not say that the log was believed")
			}
		})
	}
}

func TestTDXPolicyDocument(t *testing.T) {
	s := newSoftTD(t)
	pol := *s.policy().TDX
	pol.RTMRs[3] = RTMRRule{Any: true}
	pol.ServiceTDs, pol.Initrds = [][]byte{slices.Repeat([]byte{1}, 48)}, [][]byte{slices.Repeat([]byte{2}, 48)}
	pol.CommandLine, pol.MinEvaluationNumber, pol.RequireEventLog = "quiet", 3, true
	pol.MRConfigID[1], pol.MROwner[2], pol.MROwnerConfig[3] = 1, 2, 3
	data, err := json.Marshal(pol)
	if err != nil {
		t.Fatal(err)
	}
	var again TDXPolicy
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(again); err != nil || string(out) != string(data) {
		t.Errorf("%v\n%s\n%s", err, data, out)
	}
	for from, to := range map[string]string{
		`"UpToDate"`:                `"Revoked"`,
		`"v4"`:                      `"v3"`,
		`"any":true`:                `"any":true,"x":1`,
		`"quotes"`:                  `"quote"`,
		`"command_line":"qui`:       `"command_line":"\u0007qui`,
		`"initrds":["`:              `"initrds":[],"initrds_":["`,
		`"min_evaluation_number":3`: `"min_evaluation_number":-3`,
		`"mask":"0xffffffffffffffff","value":"0x10000000"`: `"mask":"0x1","value":"0x10000000"`,
		`"any":true,"values":[]`:                           `"any":true,"values":["` + strings.Repeat("00", 48) + `"]`,
		`"mrtd":["d0`:                                      `"mrtd":["`,
	} {
		changed := strings.Replace(string(data), from, to, 1)
		if changed == string(data) {
			t.Fatalf("%s is not in the document: %s", from, data)
		}
		if err := json.Unmarshal([]byte(changed), &again); err == nil {
			t.Errorf("read although %s became %s", from, to)
		}
	}
	if err := json.Unmarshal(append(data, '1'), &again); err == nil {
		t.Error("read with something behind it")
	}
}

func TestTDXPolicyNarrows(t *testing.T) {
	parent := *newSoftTD(t).policy().TDX
	parent.ServiceTDs = [][]byte{make([]byte, 48)}
	parent.RTMRs[3] = RTMRRule{Any: true}
	parent.RTMRs[0].Values = append(parent.RTMRs[0].Values, slices.Repeat([]byte{9}, 48))
	parent.TCBStatuses = []string{"UpToDate", "OutOfDate"}
	parent.Attributes.Mask = 0xffff_ffff
	parent.MinEvaluationNumber = 4
	for name, c := range map[string]struct {
		change func(*TDXPolicy)
		ok     bool
	}{
		"the same":             {func(*TDXPolicy) {}, true},
		"fewer statuses":       {func(p *TDXPolicy) { p.TCBStatuses = p.TCBStatuses[:1] }, true},
		"wider mask":           {func(p *TDXPolicy) { p.Attributes.Mask = ^uint64(0) }, true},
		"named register":       {func(p *TDXPolicy) { p.RTMRs[3] = RTMRRule{Values: [][]byte{make([]byte, 48)}} }, true},
		"fewer values":         {func(p *TDXPolicy) { p.RTMRs[0].Values = p.RTMRs[0].Values[:1] }, true},
		"command line":         {func(p *TDXPolicy) { p.CommandLine, p.Initrds = "quiet", [][]byte{make([]byte, 48)} }, true},
		"higher floor":         {func(p *TDXPolicy) { p.MinEvaluationNumber = 5 }, true},
		"other status":         {func(p *TDXPolicy) { p.TCBStatuses = []string{"SWHardeningNeeded"} }, false},
		"narrower mask":        {func(p *TDXPolicy) { p.Attributes.Mask = tdSEPTVEOff }, false},
		"other attribute":      {func(p *TDXPolicy) { p.Attributes.Value = 0 }, false},
		"other feature":        {func(p *TDXPolicy) { p.XFAM.Value = 3 }, false},
		"other platform":       {func(p *TDXPolicy) { p.Platforms = [][]byte{make([]byte, 16)} }, false},
		"other MRTD":           {func(p *TDXPolicy) { p.MRTDs = [][]byte{make([]byte, 48)} }, false},
		"register opened":      {func(p *TDXPolicy) { p.RTMRs[1] = RTMRRule{Any: true} }, false},
		"other register value": {func(p *TDXPolicy) { p.RTMRs[2] = RTMRRule{Values: [][]byte{make([]byte, 48)}} }, false},
		"other service TD":     {func(p *TDXPolicy) { p.ServiceTDs = [][]byte{slices.Repeat([]byte{1}, 48)} }, false},
		"other owner":          {func(p *TDXPolicy) { p.MROwner[0] = 1 }, false},
		"lower floor":          {func(p *TDXPolicy) { p.MinEvaluationNumber = 3 }, false},
		"other form":           {func(p *TDXPolicy) { p.Quotes = []string{"v3"} }, false},
	} {
		child := parent
		child.RTMRs = parent.RTMRs
		child.TCBStatuses = slices.Clone(parent.TCBStatuses)
		c.change(&child)
		if err := child.narrows(&parent); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	withLog := parent
	withLog.RequireEventLog, withLog.CommandLine, withLog.Initrds = true, "quiet", [][]byte{make([]byte, 48)}
	for _, change := range []func(*TDXPolicy){
		func(p *TDXPolicy) { p.CommandLine = "loud" },
		func(p *TDXPolicy) { p.Initrds = nil },
		func(p *TDXPolicy) { p.RequireEventLog, p.CommandLine, p.Initrds = false, "", nil },
	} {
		child := withLog
		change(&child)
		if child.narrows(&withLog) == nil {
			t.Error("wider than a parent that names a line")
		}
	}
}
