package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
)

// Bits of the SNP ABI (AMD 56860): guest policy (§4.3) and key information (§7.3).
const (
	policyReservedOne    = 1 << 17
	policyMigrationAgent = 1 << 18
	policyDebug          = 1 << 19
	policyKnown          = 1<<26 - 1
	keyAuthorEnabled     = 1 << 0
	keyMasked            = 1 << 1
	keyKnown             = 1<<5 - 1

	signerVCEK = 0
	signerVLEK = 1
)

// versions that have been seen in genuine reports. A later one may sign fields
// that nobody here has read, so it is refused until it is added.
var reportVersions = []uint32{2, 3, 5}

// judgement is the work of one verification.
type judgement struct {
	*verdict
	cache *chainCache
	col   Collateral
	pol   Policy
	at    time.Time
	sent  []byte // the leaf, if it came with the evidence
}

// snp judges an SEV-SNP report. The result means something only if no check failed.
func (j *judgement) snp(ev Evidence) *Result {
	j.judge(checkTime, !j.at.IsZero(), "set", "", "the time of the verdict is not set")
	if len(ev.Report) != abi.ReportSize {
		j.fail(checkLayout, fmt.Sprintf("%d bytes", abi.ReportSize), fmt.Sprintf("%d bytes", len(ev.Report)),
			"the report has a wrong length")
		return nil
	}
	version := binary.LittleEndian.Uint32(ev.Report)
	j.judge(checkVersion, slices.Contains(reportVersions, version), "2, 3 or 5", fmt.Sprint(version),
		"this version of the report is not known")
	field := reservedField(ev.Report, version)
	j.judge(checkReserved, field == "", "zero", field, "a reserved field of the report is set")
	r, err := abi.ReportToProto(ev.Report)
	if err != nil {
		// The library's text quotes the bytes that it did not like.
		j.fail(checkLayout, "readable", "", "the report cannot be read")
		return nil
	}
	j.pass(checkLayout, fmt.Sprintf("%d bytes", abi.ReportSize))
	j.judge(checkSignatureAlgorithm, r.SignatureAlgo == abi.SignEcdsaP384Sha384, "1 (ECDSA P-384, SHA-384)",
		fmt.Sprint(r.SignatureAlgo), "the report is not signed with ECDSA P-384 and SHA-384")

	signer := j.keyType(r)
	j.guest(r)
	j.platform(r.PlatformInfo)
	j.mitigations(version, r.LaunchMitVector, r.CurrentMitVector)
	res := &Result{
		TEE:                SEVSNP,
		ReportVersion:      r.Version,
		ReportID:           [32]byte(r.ReportId),
		ChipID:             [64]byte(r.ChipId),
		Measurement:        [48]byte(r.Measurement),
		ReportData:         [64]byte(r.ReportData),
		GuestPolicy:        r.Policy,
		PlatformInfo:       r.PlatformInfo,
		LaunchMitigations:  r.LaunchMitVector,
		CurrentMitigations: r.CurrentMitVector,
		TCBStatus:          "at-floor",
	}
	leaf := j.leaf(ev, r, signer)
	res.Product = j.product(ev.Report, version, leaf)
	if res.Product == "" {
		return nil
	}
	j.patchLevels(r, res)
	j.judge(checkProductAllowed, slices.Contains(j.pol.Products, res.Product), fmt.Sprint(j.pol.Products), res.Product,
		"the policy does not admit this product line")
	if leaf != nil {
		j.genuine(ev.Report, r, leaf, res)
	}
	return res
}

// reservedField names the first field in which a bit is set that this version of
// the report does not define (AMD 56860 §7.3; §4.3 for the guest policy). Nobody
// can say what such a bit would mean, so it refuses, signed as it may be.
func reservedField(b []byte, version uint32) string {
	le := binary.LittleEndian
	word := le.Uint64(b[0x008:])
	switch {
	case word&policyReservedOne == 0 || word&^uint64(policyKnown) != 0:
		return "guest policy"
	case le.Uint64(b[0x040:])&^uint64(platformKnown) != 0:
		return "platform information"
	case le.Uint32(b[0x048:])&^uint32(keyKnown) != 0:
		return "key information"
	}
	type span struct {
		from, to int
		name     string
	}
	spans := []span{{0x04c, 0x050, "4Ch"}, {0x18b, 0x1a0, "18Bh"}, {0x1eb, 0x1ec, "1EBh"}, {0x1ef, 0x1f0, "1EFh"}, {0x208, 0x2a0, "208h"}, {0x330, 0x4a0, "behind the signature"}}
	if version < 3 {
		spans = append(spans, span{0x188, 0x18b, "188h"})
	}
	if version < 5 {
		spans = append(spans, span{0x1f8, 0x208, "1F8h"})
	}
	for _, s := range spans {
		if !allZero(b[s.from:s.to]) {
			return s.name
		}
	}
	return ""
}

// keyType judges which key signed. A VLEK speaks for its provider's machines as a
// whole, so it counts only under a policy that names the provider.
func (j *judgement) keyType(r *spb.Report) (signer uint32) {
	signer = r.SignerInfo >> 2 & 7
	names := map[uint32]string{signerVCEK: "VCEK", signerVLEK: "VLEK", 7: "none"}
	want, detail := uint32(signerVCEK), "the report is not signed with the key of the chip itself (VCEK)"
	if j.pol.VLEKProvider != "" {
		want, detail = signerVLEK, "the policy asks for a provider's key (VLEK)"
	}
	j.judge(checkKeyType, signer == want, names[want], names[signer], detail)
	// A chip whose own key is masked cannot have signed with it; under a VLEK that
	// is how the host is meant to be configured. The id may never be hidden.
	masked := allZero(r.ChipId) || signer == signerVCEK && r.SignerInfo&keyMasked != 0
	j.judge(checkMaskedChip, !masked, "", "", "the host hides the chip id, or the chip's own key")
	return signer
}

// guest judges what the report says of the guest; most of it cannot be opened by
// any policy.
func (j *judgement) guest(r *spb.Report) {
	j.judge(checkDebug, r.Policy&policyDebug == 0, "off", "", "the host may debug this guest")
	// Without an agent the firmware writes ones here.
	agent := r.Policy&policyMigrationAgent != 0 || !allOnes(r.ReportIdMa)
	j.judge(checkMigration, !agent, "none", "", "a migration agent may move this guest")
	j.judge(checkVMPL, r.Vmpl == 0, "0", fmt.Sprint(r.Vmpl), "the report was asked for above privilege level 0")

	found := slices.ContainsFunc(j.pol.Measurements, func(m []byte) bool { return bytes.Equal(m, r.Measurement) })
	expected := ""
	if len(j.pol.Measurements) == 1 {
		expected = hex.EncodeToString(j.pol.Measurements[0])
	} else {
		expected = fmt.Sprintf("one of %d", len(j.pol.Measurements))
	}
	j.judge(checkMeasurement, found && !allZero(r.Measurement), expected, hex.EncodeToString(r.Measurement),
		"the guest was launched from other firmware, kernel, initrd, command line or processors")
	// Only the first bytes: the field is a hash over a nonce.
	j.judge(checkReportData, bytes.Equal(r.ReportData, j.pol.ReportData[:]) && !allZero(r.ReportData),
		hex.EncodeToString(j.pol.ReportData[:8])+"…", hex.EncodeToString(r.ReportData[:8])+"…",
		"the report is not bound to this challenge and these keys")
	j.judge(checkGuestPolicy, r.Policy == j.pol.RequirePolicy, fmt.Sprintf("0x%x", j.pol.RequirePolicy), fmt.Sprintf("0x%x", r.Policy),
		"the guest was launched with another guest policy")

	block := r.SignerInfo&keyAuthorEnabled != 0 || !allZero(r.IdKeyDigest) || !allZero(r.AuthorKeyDigest)
	j.judge(checkIDBlock, !block, "id key and author key digests zero", "", "the guest was launched with an identity block")
	j.judge(checkHostData, allZero(r.HostData), "zero", "", "the host put data of its own into the report")
	registered := slices.ContainsFunc(j.pol.Chips, func(c []byte) bool { return bytes.Equal(c, r.ChipId) })
	j.judge(checkChip, registered, fmt.Sprintf("one of %d registered", len(j.pol.Chips)), hex.EncodeToString(r.ChipId),
		"the chip is not registered for this site")
}

// product finds the product line: from the processor's family and model in the
// report, or, for version 2, which lacks them, from the certificate, whose
// signature then proves it. Turin's firmware never wrote version 2: there its TCB
// could be read as Genoa's.
func (j *judgement) product(report []byte, version uint32, leaf *vcek) string {
	const expected = "Milan, Genoa or Turin"
	line := ""
	if version < 3 {
		if leaf == nil {
			return ""
		}
		if line = leaf.line; line == Turin {
			j.fail(checkProduct, "Milan or Genoa", line, "a version 2 report cannot be Turin's")
			return ""
		}
	} else {
		line = productLine(report[0x188], report[0x189])
	}
	if slices.Contains(ProductLines(), line) {
		j.pass(checkProduct, line)
		return line
	}
	got := "the certificate's"
	if version >= 3 {
		got = fmt.Sprintf("family 0x%x model 0x%x", report[0x188], report[0x189])
	}
	j.fail(checkProduct, expected, got, "this processor is not known")
	return ""
}

// productLine maps CPUID family and model to the line whose root signs the chip.
// Bergamo and Siena (0xA0 to 0xAF) are signed by Genoa's.
func productLine(family, model byte) string {
	switch {
	case family == 0x19 && model <= 0x0f:
		return Milan
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa
	case family == 0x1a && model <= 0x11:
		return Turin
	}
	return ""
}

// patchLevels holds all TCBs of the report against the floor of the product line.
func (j *judgement) patchLevels(r *spb.Report, res *Result) {
	readable := true
	for _, t := range []struct {
		to  *TCB
		raw uint64
	}{{&res.CurrentTCB, r.CurrentTcb}, {&res.Reported, r.ReportedTcb}, {&res.Committed, r.CommittedTcb}, {&res.Launch, r.LaunchTcb}} {
		var ok bool
		*t.to, ok = tcbFrom(t.raw, res.Product)
		readable = readable && ok
	}
	j.judge(checkTCBLayout, readable, "zero", "", "reserved bytes of a TCB are set")
	floor, set := j.pol.MinTCB[res.Product]
	for _, t := range []struct {
		check check
		tcb   TCB
	}{{checkReportedTCB, res.Reported}, {checkCommittedTCB, res.Committed}, {checkLaunchTCB, res.Launch}} {
		if !set {
			j.fail(t.check, "a floor", t.tcb.String(), "the policy sets no TCB floor for this product line")
			continue
		}
		j.judge(t.check, t.tcb.AtLeast(floor), "at least "+floor.String(), t.tcb.String(), "the firmware is older than the policy's floor")
	}
	j.judge(checkCurrentTCB, res.CurrentTCB.AtLeast(res.Committed), "at least "+res.Committed.String(), res.CurrentTCB.String(),
		"the running firmware is older than what the machine has committed to")
}

// leaf picks the certificate to judge by, of the kind of key that signed: one of
// the registered chip's or provider's, else one from the evidence; the first that
// names this chip and TCB, else the first at all.
func (j *judgement) leaf(ev Evidence, r *spb.Report, signer uint32) *vcek {
	var first *vcek
	consider := func(ders [][]byte) *vcek {
		for i, der := range ders {
			if i == maxLeafCandidates {
				break
			}
			v := j.read(der)
			if v == nil || (v.provider != "") != (signer == signerVLEK) {
				continue
			}
			chip := signer == signerVLEK || v.names(r.ChipId)
			if tcb, ok := tcbFrom(r.ReportedTcb, v.line); ok && tcb == v.tcb && chip {
				return v
			}
			if first == nil {
				first = v
			}
		}
		return nil
	}
	registered := j.col.VCEKs[ChipKey(r.ChipId)]
	if signer == signerVLEK {
		registered = j.col.VLEKs
	}
	best, sent := consider(registered), false
	if best == nil {
		known := first != nil
		best = consider(splitCertificates(ev.Certificates))
		sent = best != nil || !known
	}
	if best == nil {
		best = first
	}
	if best == nil {
		j.fail(checkLeaf, "a certificate for this chip and TCB", "none", "no readable certificate of the chip came with the evidence or is registered")
		return nil
	}
	if sent {
		j.sent = best.cert.Raw
	}
	j.pass(checkLeaf, hex.EncodeToString(best.sum[:]))
	return best
}

func allZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 })
}

func allOnes(b []byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != 0xff })
}

// genuine judges the chain, its revocation, the signature, and that certificate
// and report speak of the same chip and patch levels.
func (j *judgement) genuine(report []byte, r *spb.Report, leaf *vcek, res *Result) {
	res.VCEK, res.VLEKProvider = leaf.sum, leaf.provider
	if leaf.provider == "" {
		j.judge(checkCertificateChip, leaf.names(r.ChipId), hex.EncodeToString(leaf.hwid), hex.EncodeToString(r.ChipId),
			"the certificate belongs to another chip")
		j.skip(checkProvider, "the chip itself signs")
	} else {
		j.skip(checkCertificateChip, "a VLEK names no chip")
		// The name in the certificate is not echoed before the chain is proved.
		j.judge(checkProvider, leaf.provider == j.pol.VLEKProvider, j.pol.VLEKProvider, "", "the policy names another provider, or none")
	}
	j.judge(checkCertificateTCB, leaf.tcb == res.Reported, leaf.tcb.String(), res.Reported.String(),
		"the certificate is for other patch levels than the report")
	ch := j.prove(leaf, res.Product)
	if ch != nil {
		res.Simulated = ch.by.simulated
		j.judge(checkHardware, ch.by.simulated == j.pol.Simulated, hardware(j.pol.Simulated), hardware(ch.by.simulated),
			"simulated and genuine hardware do not stand in for each other")
		j.revocation(ch)
	}
	// The signature is judged even when the chain is not good, so that a refusal
	// tells a forged report from a strange certificate.
	der, err := abi.ReportToSignatureDER(report)
	if err != nil {
		j.fail(checkSignature, "", "", "the signature is malformed")
		return
	}
	digest := sha512.Sum384(abi.SignedComponent(report))
	j.judge(checkSignature, j.signed(ch, leaf, digest[:], der), "", "", "the report was not signed by the key of this certificate")
}

func hardware(simulated bool) string {
	if simulated {
		return "simulated"
	}
	return "genuine"
}
