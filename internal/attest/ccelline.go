package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"unicode/utf16"
)

// The Linux EFI stub extends RTMR2 first with the load options, then with the
// initrd, before it reads either, and names them so in the log.
const (
	registerOfLine = 2
	// registerOfKernel holds the kernel's image, measured by the firmware.
	registerOfKernel = 1
	loadOptionsTag   = 0x8f3b22ed
	initrdTag        = 0x8f3b22ec
	// OVMF adds this to the line of a directly booted kernel that has an initrd: at
	// its end, and from edk2-stable202508 on at its beginning (QemuLoadImageLib,
	// a2ac0fea49).
	ovmfInitrdSuffix = " initrd=initrd"
	ovmfInitrdPrefix = "initrd=initrd "
)

// lineDigests are the digests that a line may have: the load options are UTF-16
// with their NUL, as they stood on QEMU's command line or with what OVMF adds.
func lineDigests(line string) [3][48]byte {
	var out [3][48]byte
	for i, s := range []string{line, line + ovmfInitrdSuffix, ovmfInitrdPrefix + line} {
		var b []byte
		for _, u := range utf16.Encode([]rune(s + "\x00")) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		out[i] = sha512.Sum384(b)
	}
	return out
}

// tagged says that the event calls itself by this tag. It is what the log says,
// not what was measured: position and digest decide.
func (e logEvent) tagged(id uint32) bool {
	return e.kind == eventTag && len(e.data) >= 8 && binary.LittleEndian.Uint32(e.data) == id
}

// registers judges the run-time registers, by the policy's values and by the log.
func (j *judgement) registers(log []byte, pol *TDXPolicy, res *Result) {
	rtmrs := res.TDX.RTMRs
	for i, rule := range pol.RTMRs {
		got := hex.EncodeToString(rtmrs[i][:])
		if rule.Any {
			j.judge(tdxRTMR0+check(i), true, "any", got, "")
			continue
		}
		j.judge(tdxRTMR0+check(i), contains(rule.Values, rtmrs[i][:]), oneOf(rule.Values), got, fmt.Sprintf("RTMR%d is not one of the policy's", i))
	}
	events, ok := j.eventLog(log, pol, rtmrs)
	res.TDX.EventLog = ok
	j.line(events, ok, pol)
}

// eventLog reads the log and replays it. Nothing in it is believed before it gives
// all registers of the quote; a log that does not refuses, whether or not the
// policy asks for one.
func (j *judgement) eventLog(log []byte, pol *TDXPolicy, rtmrs [registers][48]byte) ([]logEvent, bool) {
	if len(log) == 0 {
		if pol.needsEventLog() {
			j.fail(tdxEventLog, "a log", "none", "the policy needs the event log, and none came with the quote")
		} else {
			j.skip(tdxEventLog, "none came, and the policy does not ask")
		}
		return nil, false
	}
	events, err := parseEventLog(log)
	if err != nil {
		j.fail(tdxEventLog, "", "", err.Error())
		return nil, false
	}
	got := replay(events)
	for i := range rtmrs {
		if got[i] != rtmrs[i] {
			j.fail(tdxEventLog, hex.EncodeToString(rtmrs[i][:]), hex.EncodeToString(got[i][:]), fmt.Sprintf("the event log does not give RTMR%d of the quote", i))
			return nil, false
		}
	}
	j.pass(tdxEventLog, fmt.Sprintf("%d events", len(events)))
	return events, true
}

// line judges the measured command line and initrd: the first two events of RTMR2.
// The position is what makes them the kernel's own words. The log may call any
// digest by any name, but with firmware (MRTD) and kernel (RTMR1) of the policy,
// nothing extends RTMR2 before the kernel's stub does. That holds of firmware that
// measures the kernel before it runs, has no way to a TPM, and of a kernel whose
// stub measures: TDLaunch.Reference gives no values for others, and who writes
// values of his own into a policy vouches for it.
func (j *judgement) line(events []logEvent, proved bool, pol *TDXPolicy) {
	if pol.CommandLine == "" && len(pol.Initrds) == 0 {
		j.skip(tdxCommandLine, "the policy does not ask")
		j.skip(tdxInitrd, "the policy does not ask")
		return
	}
	const anchored = "firmware, kernel, line and initrd in the policy"
	if pol.CommandLine == "" || len(pol.Initrds) == 0 || pol.RTMRs[registerOfKernel].Any || len(pol.RTMRs[registerOfKernel].Values) == 0 {
		j.fail(tdxCommandLine, anchored, "", "a command line says nothing unless the policy names the kernel and the initrd as well")
		return
	}
	if !proved {
		j.fail(tdxCommandLine, "an event log that gives RTMR2", "none", "there is no event log that could be believed")
		j.fail(tdxInitrd, "an event log that gives RTMR2", "none", "there is no event log that could be believed")
		return
	}
	var measured []logEvent
	for _, e := range events {
		if e.register == registerOfLine && len(measured) < 2 {
			measured = append(measured, e)
		}
	}
	wanted := lineDigests(pol.CommandLine)
	line := len(measured) > 0 && measured[0].tagged(loadOptionsTag) && slices.Contains(wanted[:], measured[0].digest)
	j.judge(tdxCommandLine, line, hex.EncodeToString(wanted[0][:]), digestText(measured, 0), "the first measurement of RTMR2 is not that of the policy's command line")
	initrd := len(measured) > 1 && measured[1].tagged(initrdTag) && contains(pol.Initrds, measured[1].digest[:])
	j.judge(tdxInitrd, initrd, oneOf(pol.Initrds), digestText(measured, 1), "the second measurement of RTMR2 is not that of the policy's initrd")
}

func digestText(events []logEvent, i int) string {
	if i >= len(events) {
		return "none"
	}
	return hex.EncodeToString(bytes.Clone(events[i].digest[:]))
}
