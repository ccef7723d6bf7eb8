package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// appraise judges the platform by what Intel publishes: revocation, the quoting
// enclave's identity, and the patch levels of platform, module and enclave.
func (j *judgement) appraise(q *quote, p *platform, pol *TDXPolicy, res *Result) {
	col := j.col.TDX
	if col == nil {
		for _, c := range []check{tdxRootList, tdxPlatformList, tdxInfo, tdxQE} {
			j.fail(c, "valid at this time", "none", "there is no collateral of Intel")
		}
		return
	}
	var infos []*tcbInfo
	for _, t := range col.infos {
		if t.fmspc == p.fmspc {
			infos = append(infos, t)
		}
	}
	info, infoCurrent := current(infos, j.at)
	qe, qeCurrent := current(col.identities, j.at)
	j.revocationOfTDX(p, info, qe)

	if info == nil {
		j.fail(tdxInfo, "for FMSPC "+p.fmspc, "none", "there is no TCB info for this kind of platform")
	} else {
		j.dated(tdxInfo, &info.signedObject, infoCurrent)
		j.judge(tdxInfoPlatform, info.pceID == p.pceID, "PCE-ID "+info.pceID, p.pceID, "the TCB info is for another provisioning enclave")
		j.judgeEvaluation(info, qe, pol)
		res.EvaluationNumber = info.evaluation
	}
	var enclave *level
	if qe == nil {
		j.fail(tdxQE, "valid at this time", "none", "there is no identity of the quoting enclave")
	} else {
		j.dated(tdxQE, &qe.signedObject, qeCurrent)
		enclave = j.enclave(q, qe)
	}
	j.signersOf(info, qe)
	if info != nil {
		j.levels(q, p, info, enclave, pol, res)
	}
}

// dated judges the window, both ends: collateral from the future is no better than
// expired collateral.
func (j *judgement) dated(c check, o *signedObject, valid bool) {
	j.judge(c, valid, window(o.issued, o.next), stamp(j.at), "Intel's statement is not valid at this time")
}

// signersOf judges the certificates with which the objects that count were signed.
func (j *judgement) signersOf(info *tcbInfo, qe *qeIdentity) {
	var by []*x509.Certificate
	if info != nil {
		by = append(by, info.by)
	}
	if qe != nil {
		by = append(by, qe.by)
	}
	for _, c := range by {
		if j.at.Before(c.NotBefore) || j.at.After(c.NotAfter) {
			j.fail(tdxSigner, window(c.NotBefore, c.NotAfter), stamp(j.at), "the certificate that signed the collateral is not valid at this time")
			return
		}
	}
	if len(by) > 0 {
		j.pass(tdxSigner, nameTCBSigning)
	}
}

// revocationOfTDX asks both lists. A list that names a certificate refuses even
// after it has expired.
func (j *judgement) revocationOfTDX(p *platform, info *tcbInfo, qe *qeIdentity) {
	col := j.col.TDX
	under := []*x509.Certificate{p.ca}
	if info != nil {
		under = append(under, info.by)
	}
	if qe != nil {
		under = append(under, qe.by)
	}
	var pckLists []*intelList
	if p.chained {
		// Only a CA that the root vouches for may say which platforms are revoked.
		pckLists = col.pckListsOf(p.ca)
	}
	revoked := slices.ContainsFunc(col.rootLists, func(l *intelList) bool { return l.lists(under...) }) ||
		slices.ContainsFunc(pckLists, func(l *intelList) bool { return l.lists(p.pck) })
	j.judge(tdxRevoked, !revoked, "not revoked", map[bool]string{true: "revoked"}[revoked], "a certificate has been revoked")
	for _, k := range []struct {
		check check
		lists []*intelList
	}{{tdxRootList, col.rootLists}, {tdxPlatformList, pckLists}} {
		l, valid := current(k.lists, j.at)
		if l == nil {
			j.fail(k.check, "a list valid at this time", "none", "there is no revocation list of this CA")
			continue
		}
		j.judge(k.check, valid, "a list valid at this time", window(l.thisUpdate, l.nextUpdate), "there is no revocation list for this time")
	}
}

// enclave judges the quoting enclave's report by its identity and gives its level.
func (j *judgement) enclave(q *quote, id *qeIdentity) *level {
	r := q.qe
	j.judge(tdxQESigner, bytes.Equal(r.GetMrSigner(), id.signer), hex.EncodeToString(id.signer), hex.EncodeToString(r.GetMrSigner()), "somebody else signed the quoting enclave")
	j.judge(tdxQEProduct, r.GetIsvProdId() == id.product, fmt.Sprint(id.product), fmt.Sprint(r.GetIsvProdId()), "the enclave is another product")
	misc := q.qeReport[16:20]
	j.judge(tdxQEMisc, id.misc.admits(misc), hex.EncodeToString(id.misc.value), hex.EncodeToString(misc), "the enclave's MISCSELECT is not Intel's")
	j.judge(tdxQEAttributes, id.attributes.admits(r.GetAttributes()), hex.EncodeToString(id.attributes.value), hex.EncodeToString(r.GetAttributes()),
		"the enclave's attributes are not Intel's")
	l := isvLevel(id.levels, r.GetIsvSvn())
	j.level(tdxQELevel, l, fmt.Sprintf("ISVSVN %d", r.GetIsvSvn()), "the quoting enclave is older than any level that Intel lists")
	return l
}

// level records whether Intel lists one; how good it is, the status says.
func (j *judgement) level(c check, l *level, have, detail string) {
	if l == nil {
		j.fail(c, "a level that Intel lists", have, detail)
		return
	}
	j.pass(c, l.String())
}

// levels judges the patch levels and the status in which they converge.
func (j *judgement) levels(q *quote, p *platform, info *tcbInfo, enclave *level, pol *TDXPolicy, res *Result) {
	have := platformSVNs{components: p.components, pceSVN: p.pceSVN, tee: q.body.TeeTcbSvn}
	var svn2 []byte
	if res.TDX.HasSVN2 {
		svn2 = q.body.TeeTcbSvn2
	}
	a := info.appraise(have, svn2, enclave)
	const notListed, tooOld = "Intel does not list this version of the TDX module, or only newer ones", "the platform is older than any level that Intel lists"
	complete := enclave != nil && a.platform != nil && a.moduleFound(have.tee)
	j.level(tdxLevel, a.platform, svnText(have), tooOld)
	j.moduleChecks(tdxModule, info, q, have.tee, a.module, a.moduleFound(have.tee), notListed)
	if svn2 == nil {
		j.skip(tdxLevelNow, "this form of the quote does not tell")
		j.skip(tdxModuleNow, "this form of the quote does not tell")
	} else {
		now := have
		now.tee = svn2
		complete = complete && a.now != nil && a.moduleNowFound(svn2)
		j.level(tdxLevelNow, a.now, svnText(now), tooOld)
		j.moduleChecks(tdxModuleNow, info, q, svn2, a.moduleNow, a.moduleNowFound(svn2), notListed)
	}
	if !complete {
		// Without a level for each part no status exists, not even a bad one.
		j.skip(tdxStatus, "a part has no TCB level")
		if a.status == tcbRevoked {
			j.fail(tdxTCBRevoked, "not "+tcbRevoked.String(), tcbRevoked.String(), "Intel has revoked this TCB")
		}
		return
	}
	status := a.status.String()
	j.judge(tdxTCBRevoked, a.status != tcbRevoked, "not "+tcbRevoked.String(), status, "Intel has revoked this TCB")
	got := status
	if len(a.advisories) > 0 {
		got += " " + strings.Join(a.advisories, " ")
	}
	j.judge(tdxStatus, slices.Contains(pol.TCBStatuses, status) && a.status != tcbRevoked, strings.Join(pol.TCBStatuses, ", "), got,
		"the policy does not admit this TCB status")
	res.TCBStatus, res.Advisories = status, a.advisories
	res.TDX.PlatformStatus, res.TDX.QEStatus = statusOf(a.platform).String(), statusOf(enclave).String()
	res.TDX.ModuleStatus = statusOf(a.module).String()
}

func (a *appraisal) moduleFound(svn []byte) bool {
	return a.moduleKnown && (a.module != nil || svn[1] == 0)
}

func (a *appraisal) moduleNowFound(svn []byte) bool {
	return a.moduleNowKnown && (a.moduleNow != nil || svn[1] == 0)
}

// moduleChecks holds the module's signer and attributes against the identity of
// its version, and records its level.
func (j *judgement) moduleChecks(c check, info *tcbInfo, q *quote, svn []byte, l *level, found bool, detail string) {
	signer, attributes := info.signer, info.attributes
	if m := info.module(svn[1]); m != nil && svn[1] != 0 {
		signer, attributes = m.signer, m.attributes
	}
	if !bytes.Equal(q.body.MrSignerSeam, signer) {
		j.fail(tdxSeamSigner, zeroOr(signer), zeroOr(q.body.MrSignerSeam), "the TDX module was signed by somebody else")
	}
	if !attributes.admits(q.body.SeamAttributes) {
		j.fail(tdxSeamAttributes, zeroOr(attributes.value), zeroOr(q.body.SeamAttributes), "the TDX module's attributes are not those that Intel lists")
	}
	version := fmt.Sprintf("version %d, ISVSVN %d", svn[1], svn[0])
	switch {
	case !found:
		j.fail(c, "a level that Intel lists", version, detail)
	case l == nil:
		j.pass(c, version+", judged with the platform")
	default:
		j.pass(c, l.String())
	}
}

// judgeEvaluation holds Intel's data set against the policy's floor. Intel raises
// the number with each recovery; the standard set is that of all platforms after
// the time for updates, and nothing here asks for the early one.
func (j *judgement) judgeEvaluation(info *tcbInfo, qe *qeIdentity, pol *TDXPolicy) {
	least := info.evaluation
	if qe != nil && qe.evaluation < least {
		least = qe.evaluation
	}
	j.judge(tdxEvaluation, least >= pol.MinEvaluationNumber, fmt.Sprintf("at least %d", pol.MinEvaluationNumber), fmt.Sprint(least),
		"Intel's data set is older than the policy's floor")
}

func svnText(s platformSVNs) string {
	return fmt.Sprintf("CPUSVN %x, PCESVN %d, TEE TCB SVN %x", s.components, s.pceSVN, s.tee)
}
