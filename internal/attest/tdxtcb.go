package attest

import (
	"fmt"
	"slices"
	"strings"
)

// tcbStatus is a set of findings. The status of a whole is the union of those of
// its parts: that is Intel's convergence, written so that no pair is forgotten.
type tcbStatus uint8

const (
	tcbHardening tcbStatus = 1 << iota
	tcbConfiguration
	tcbRelaunch
	tcbOutOfDate
	tcbRevoked
	tcbUpToDate tcbStatus = 0
)

// tcbStatusNames are Intel's words (Intel PCS API v4, TDX TCB info; the two of a
// relaunch are of the Quote Verification Library).
var tcbStatusNames = map[tcbStatus]string{
	tcbUpToDate:                     "UpToDate",
	tcbHardening:                    "SWHardeningNeeded",
	tcbConfiguration:                "ConfigurationNeeded",
	tcbConfiguration | tcbHardening: "ConfigurationAndSWHardeningNeeded",
	tcbRelaunch:                     "TDRelaunchAdvised",
	tcbRelaunch | tcbConfiguration:  "TDRelaunchAdvisedConfigurationNeeded",
	tcbOutOfDate:                    "OutOfDate",
	tcbOutOfDate | tcbConfiguration: "OutOfDateConfigurationNeeded",
	tcbRevoked:                      "Revoked",
}

func (s tcbStatus) String() string { return tcbStatusNames[s.normal()] }

// normal drops what a graver finding covers, as Intel's words do: a platform that
// is out of date is not also said to need hardening, and a revoked one is only that.
func (s tcbStatus) normal() tcbStatus {
	switch {
	case s&tcbRevoked != 0:
		return tcbRevoked
	case s&tcbOutOfDate != 0:
		return s & (tcbOutOfDate | tcbConfiguration)
	case s&tcbRelaunch != 0:
		return s & (tcbRelaunch | tcbConfiguration)
	}
	return s
}

// converge is the status of a whole whose parts have these.
func converge(parts ...tcbStatus) tcbStatus {
	var all tcbStatus
	for _, p := range parts {
		all |= p
	}
	return all.normal()
}

// publishedStatus reads a status that Intel publishes; a relaunch is a conclusion,
// never published.
func publishedStatus(name string) (tcbStatus, error) {
	for s, n := range tcbStatusNames {
		if n == name && s&tcbRelaunch == 0 {
			return s, nil
		}
	}
	return tcbRevoked, fmt.Errorf("TCB status is not one of Intel's")
}

// level is one entry of Intel's lists, newest first.
type level struct {
	sgx, tdx   []byte
	pceSVN     uint16
	isvSVN     uint32
	date       string
	status     tcbStatus
	advisories []string
}

func (l *level) String() string {
	s := l.status.String() + " (level of " + strings.TrimSuffix(l.date, "T00:00:00Z") + ")"
	if len(l.advisories) > 0 {
		s += " " + strings.Join(l.advisories, " ")
	}
	return s
}

// platformSVNs is what a platform and a quote report of their versions.
type platformSVNs struct {
	components []byte // of the platform's certificate
	pceSVN     uint16
	tee        []byte // TEE_TCB_SVN or TEE_TCB_SVN2
}

// match finds the first level that the platform's own versions reach, and the
// first that those of the TDX parts reach, too (Intel PCS API v4, TDX TCB info;
// QVL TcbLevelCheck).
func match(levels []level, have platformSVNs) (sgx, tdx *level) {
	for i := range levels {
		l := &levels[i]
		if !reaches(have.components, l.sgx, 0) || have.pceSVN < l.pceSVN {
			continue
		}
		if sgx == nil {
			sgx = l
		}
		// With a module version (index 1) above zero the module has a list of its own,
		// and its two bytes take no part here.
		from := 0
		if have.tee[1] > 0 {
			from = 2
		}
		if reaches(have.tee, l.tdx, from) {
			return sgx, l
		}
	}
	return sgx, nil
}

func reaches(have, want []byte, from int) bool {
	for i := from; i < len(want); i++ {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

// isvLevel finds the first level whose ISVSVN is reached.
func isvLevel(levels []level, svn uint32) *level {
	for i := range levels {
		if svn >= levels[i].isvSVN {
			return &levels[i]
		}
	}
	return nil
}

// appraisal is what Intel's lists say of one quote.
type appraisal struct {
	sgx, platform  *level
	module         *level // nil with pass means a module without a list of its own
	moduleKnown    bool
	status         tcbStatus
	advisories     []string
	now            *level // platform level by TEE_TCB_SVN2
	moduleNow      *level
	moduleNowKnown bool
	relaunched     bool
}

// appraise takes Intel's lists for the versions at launch, and, where the quote
// has them, for those now running. The status is the worst of platform, module
// and quoting enclave, at launch and now; one thing is milder, as in Intel's
// verification library: a guest whose platform is current but which was launched
// before the module was updated is told to relaunch.
func (t *tcbInfo) appraise(have platformSVNs, svn2 []byte, qe *level) appraisal {
	a := appraisal{}
	a.sgx, a.platform = match(t.levels, have)
	a.module, a.moduleKnown = t.moduleLevel(have.tee)
	used := []*level{a.platform, a.module, qe}
	parts := []tcbStatus{statusOf(qe)}
	// Revoked is terminal wherever it stands, in the level that is reached without
	// the TDX parts as well.
	parts = append(parts, statusOf(a.sgx)&tcbRevoked)
	launch := converge(statusOf(a.platform), statusOf(a.module))
	if svn2 != nil {
		later := have
		later.tee = svn2
		_, a.now = match(t.levels, later)
		a.moduleNow, a.moduleNowKnown = t.moduleLevel(svn2)
		used = append(used, a.now, a.moduleNow)
		parts = append(parts, statusOf(a.now), statusOf(a.moduleNow))
		if a.relaunch(t, svn2, launch, qe) {
			a.relaunched = true
			launch = tcbRelaunch | (launch|statusOf(a.sgx))&tcbConfiguration
		}
	}
	a.status = converge(append(parts, launch)...)
	for _, l := range used {
		if l != nil {
			a.advisories = append(a.advisories, l.advisories...)
		}
	}
	slices.Sort(a.advisories)
	a.advisories = slices.Compact(a.advisories)
	return a
}

// statusOf a level that was not found is no finding: the missing level is a
// failed check of its own.
func statusOf(l *level) tcbStatus {
	if l == nil {
		return tcbUpToDate
	}
	return l.status
}

// relaunch follows QVL TDRelaunchCheck: quoting enclave and platform are current,
// the module was out of date at launch, and what runs now is the newest.
func (a *appraisal) relaunch(t *tcbInfo, svn2 []byte, launch tcbStatus, qe *level) bool {
	const stale = tcbOutOfDate | tcbRevoked
	if a.module == nil || a.sgx == nil || a.platform == nil ||
		statusOf(qe)&stale != 0 || a.sgx.status&stale != 0 || a.module.status != tcbOutOfDate || launch&tcbRevoked != 0 {
		return false
	}
	newest := t.levels[0]
	if svn2[2] < newest.tdx[2] {
		return false
	}
	if svn2[1] == 0 {
		return svn2[0] >= newest.tdx[0]
	}
	m := t.module(svn2[1])
	return m != nil && len(m.levels) > 0 && uint32(svn2[0]) >= m.levels[0].isvSVN
}

// moduleLevel is the level of the TDX module that these versions name; known says
// whether Intel lists the module at all. Version 0 is in the platform's levels.
func (t *tcbInfo) moduleLevel(svn []byte) (l *level, known bool) {
	if svn[1] == 0 {
		return nil, true
	}
	m := t.module(svn[1])
	if m == nil {
		return nil, false
	}
	return isvLevel(m.levels, uint32(svn[0])), true
}

// module finds the identity of a module's version (QVL TdxModuleCheck).
func (t *tcbInfo) module(version byte) *moduleIdentity {
	id := fmt.Sprintf("TDX_%02X", version)
	for i := range t.modules {
		if strings.EqualFold(t.modules[i].id, id) {
			return &t.modules[i]
		}
	}
	return nil
}
