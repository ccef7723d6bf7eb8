package attest

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
)

// qvlConverge is Intel's table (QVL, convergeTcbStatusWithTdxModuleStatus and
// convergeTcbStatusWithQeTcbStatus), written out: how the status of a platform
// changes when its module or quoting enclave has one of the three they can have.
var qvlConverge = map[string]map[string]string{
	"UpToDate": {},
	"OutOfDate": {
		"UpToDate": "OutOfDate", "SWHardeningNeeded": "OutOfDate",
		"ConfigurationNeeded": "OutOfDateConfigurationNeeded", "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
	},
	"Revoked": {
		"UpToDate": "Revoked", "SWHardeningNeeded": "Revoked", "ConfigurationNeeded": "Revoked", "ConfigurationAndSWHardeningNeeded": "Revoked",
		"OutOfDate": "Revoked", "OutOfDateConfigurationNeeded": "Revoked",
	},
}

// severity orders by what an operator must do; a convergence never goes down.
var severity = []string{
	"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "TDRelaunchAdvised",
	"TDRelaunchAdvisedConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked",
}

// TestConvergence goes over all pairs of statuses.
func TestConvergence(t *testing.T) {
	for a, nameA := range tcbStatusNames {
		for b, nameB := range tcbStatusNames {
			got := converge(a, b).String()
			if got != converge(b, a).String() || got == "" {
				t.Errorf("%s with %s: %q, and the other way round %q", nameA, nameB, got, converge(b, a))
			}
			if at := slices.Index(severity, got); at < slices.Index(severity, nameA) || at < slices.Index(severity, nameB) {
				t.Errorf("%s with %s is milder than one of them: %s", nameA, nameB, got)
			}
			if (nameA == "Revoked" || nameB == "Revoked") != (got == "Revoked") {
				t.Errorf("%s with %s: %s", nameA, nameB, got)
			}
			if strings.Contains(nameA+nameB, "Configuration") && got != "Revoked" && !strings.Contains(got, "Configuration") {
				t.Errorf("%s with %s forgets the configuration: %s", nameA, nameB, got)
			}
			for c := range tcbStatusNames {
				if converge(converge(a, b), c) != converge(a, b, c) {
					t.Errorf("order of %s, %s and %s matters", nameA, nameB, c)
				}
			}
			if changes, intel := qvlConverge[nameB]; intel && !strings.HasPrefix(nameA, "TDRelaunch") {
				want, changed := changes[nameA]
				if !changed {
					want = nameA
				}
				if got != want {
					t.Errorf("platform %s with part %s: %s, Intel's library says %s", nameA, nameB, got, want)
				}
			}
		}
	}
	if len(severity) != len(tcbStatusNames) {
		t.Error("a status has no place in the order")
	}
}

func TestPublishedStatus(t *testing.T) {
	for _, name := range tcbStatusNames {
		s, err := publishedStatus(name)
		if published := !strings.HasPrefix(name, "TDRelaunch"); published != (err == nil) || published && s.String() != name {
			t.Errorf("%s: %v %v", name, s, err)
		}
	}
	for _, name := range []string{"", "uptodate", "UpToDate ", "Unknown"} {
		if s, err := publishedStatus(name); err == nil || s != tcbRevoked {
			t.Errorf("%q: %v %v", name, s, err)
		}
	}
}

// TestRelaunch follows Intel's rule through all statuses of the parts: advised
// only where platform and enclave are current, the module was out of date at
// launch, and the newest runs now.
func TestRelaunch(t *testing.T) {
	newest := level{sgx: make([]byte, 16), tdx: []byte{5, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}
	for sgx, sgxName := range tcbStatusNames {
		for module, moduleName := range tcbStatusNames {
			for qe, qeName := range tcbStatusNames {
				for _, current := range []bool{true, false} {
					if sgx&tcbRelaunch|module&tcbRelaunch|qe&tcbRelaunch != 0 {
						continue
					}
					top := newest
					top.status = sgx
					info := &tcbInfo{levels: []level{top}, modules: []moduleIdentity{{id: "TDX_01", levels: []level{{isvSVN: 5}, {isvSVN: 3, status: module}}}}}
					svn, svn2 := make([]byte, 16), make([]byte, 16)
					copy(svn, []byte{3, 1, 4})
					copy(svn2, []byte{5, 1, 4})
					if !current {
						svn2[0] = 4
					}
					a := info.appraise(platformSVNs{components: make([]byte, 16), tee: svn}, svn2, &level{status: qe})
					advised := current && moduleName == "OutOfDate" && sgx&(tcbOutOfDate|tcbRevoked) == 0 && qe&(tcbOutOfDate|tcbRevoked) == 0
					if a.relaunched != advised {
						t.Errorf("platform %s, module %s, enclave %s, newest runs %t: advised %t", sgxName, moduleName, qeName, current, a.relaunched)
					}
					if want := converge(sgx, module, qe); !advised && a.status != want {
						t.Errorf("platform %s, module %s, enclave %s: %s, want %s", sgxName, moduleName, qeName, a.status, want)
					}
					if advised && (a.status&tcbRelaunch == 0 || (a.status&tcbConfiguration != 0) != ((sgx|qe)&tcbConfiguration != 0)) {
						t.Errorf("platform %s, enclave %s: %s", sgxName, qeName, a.status)
					}
				}
			}
		}
	}
}

// TestRelaunchOfVersionZero: a module without a list of its own is judged with the
// platform, now as at launch.
func TestRelaunchOfVersionZero(t *testing.T) {
	s := newSoftTD(t)
	s.body.svn, s.body.svn2 = [16]byte{3, 1, 4}, [16]byte{5, 0, 4}
	pol := s.policy()
	pol.TDX.TCBStatuses = []string{"TDRelaunchAdvised"}
	if _, r := s.judge(pol); r != nil {
		t.Error(r)
	}
	s.body.svn2[0] = 4
	if _, r := s.judge(pol); r == nil {
		t.Error("an older module runs now")
	}
}

func TestMatchLevels(t *testing.T) {
	zero := make([]byte, 16)
	with := func(i int, v byte) []byte { b := slices.Clone(zero); b[i] = v; return b }
	for i := range 16 {
		levels := []level{{sgx: with(i, 2), tdx: zero}, {sgx: zero, tdx: zero}}
		if s, l := match(levels, platformSVNs{components: with(i, 1), tee: zero}); s != &levels[1] || l != &levels[1] {
			t.Errorf("component %d is not compared", i)
		}
		if s, l := match(levels, platformSVNs{components: with(i, 2), tee: zero}); s != &levels[0] || l != &levels[0] {
			t.Errorf("component %d that is equal does not match", i)
		}
		levels = []level{{sgx: zero, tdx: with(i, 2)}, {sgx: zero, tdx: zero}}
		if s, l := match(levels, platformSVNs{components: zero, tee: with(i, 1)}); s != &levels[0] || i != 1 && l != &levels[1] {
			t.Errorf("TDX component %d is not compared", i)
		}
	}
	levels := []level{{sgx: zero, tdx: zero, pceSVN: 5}}
	if s, _ := match(levels, platformSVNs{components: zero, tee: zero, pceSVN: 4}); s != nil {
		t.Error("PCESVN is not compared")
	}
	// With a version of its own the module's two bytes take no part.
	levels = []level{{sgx: zero, tdx: []byte{9, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}}
	if _, l := match(levels, platformSVNs{components: zero, tee: []byte{1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}); l == nil {
		t.Error("the module's bytes were compared with the platform's")
	}
	if _, l := match(levels, platformSVNs{components: zero, tee: []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}); l != nil {
		t.Error("the third byte was not compared")
	}
}

// TestRevokedWithoutTheModule: the level that the platform's own versions reach is
// revoked, and a lower one that the TDX parts reach is not. Revoked stays.
func TestRevokedWithoutTheModule(t *testing.T) {
	high := make([]byte, 16)
	high[2] = 9
	info := &tcbInfo{levels: []level{
		{sgx: make([]byte, 16), tdx: high, status: tcbRevoked},
		{sgx: make([]byte, 16), tdx: make([]byte, 16)},
	}}
	a := info.appraise(platformSVNs{components: make([]byte, 16), tee: make([]byte, 16)}, nil, &level{})
	if a.platform != &info.levels[1] || a.status != tcbRevoked {
		t.Errorf("%+v", a)
	}
}

// TestNoRelaunchBelowTheNewest: an older TDX microcode runs now than the newest.
func TestNoRelaunchBelowTheNewest(t *testing.T) {
	s := newSoftTD(t)
	info := s.collateral().TDX.infos[0]
	svn, svn2 := s.body.svn, s.body.svn2
	svn[0], svn2[2] = 3, 3
	if a := info.appraise(platformSVNs{components: softComponents, pceSVN: 13, tee: svn[:]}, svn2[:], &level{}); a.relaunched {
		t.Errorf("%+v", a)
	}
	svn2[2] = 4
	if a := info.appraise(platformSVNs{components: softComponents, pceSVN: 13, tee: svn[:]}, svn2[:], &level{}); !a.relaunched {
		t.Errorf("%+v", a)
	}
}

// TestForgedRevocationLists: lists in the right name, signed by somebody else.
func TestForgedRevocationLists(t *testing.T) {
	s := newSoftTD(t)
	objects := s.objects()
	root := s.certificate(1, nameRootCA, nil, s.signKey, s.signKey, nil)
	if _, err := newTDXCollateralUnder(s.root, []Object{{KindIntelRootCRL, s.list(root, s.signKey, nil)}}); err == nil {
		t.Error("a forged list of the root was read")
	}
	ca := s.certificate(2, namePlatformCA, nil, s.signKey, s.signKey, func(c *x509.Certificate) { c.Subject = s.ca.Subject })
	objects[4] = Object{KindPCKCRL, s.list(ca, s.signKey, nil)}
	col, err := newTDXCollateralUnder(s.root, objects)
	if err != nil {
		t.Fatal(err)
	}
	_, r := judged(t, Evidence{TEE: TDX, Report: s.quote()}, Collateral{TDX: col}, s.policy(), s.now)
	if !slices.Equal(failed(r), []string{tdxTable[tdxPlatformList].Name}) {
		t.Errorf("a forged list of the platform's CA: %v", r)
	}
}
