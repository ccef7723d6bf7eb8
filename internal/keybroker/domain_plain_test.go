//go:build !devtee

package keybroker

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

func newDomains(testing.TB) platform { return domainPlatform{} }

// domainPlatform makes quotes (format 4) that are unsigned, and judges RTMR2 and report data alone. It stands for the verifier
// of quotes in what matters here: a trust domain's REPORT_ID is another with each challenge. With tag devtee the soft TD makes
// real quotes, and the real verifier judges them.
type domainPlatform struct{ plainPlatform }

const (
	domainBytes      = 2048
	domainRTMR2      = 48 + 424
	domainReportData = 48 + 520
)

var domainLine = bytes.Repeat([]byte{0xc2}, 48)

func (domainPlatform) boot(testing.TB) machine { return domainPlatform{} }

func (domainPlatform) report(data [64]byte) ([]byte, []byte) {
	b := make([]byte, domainBytes)
	binary.LittleEndian.PutUint16(b, 4)
	copy(b[domainRTMR2:], domainLine)
	copy(b[domainReportData:], data[:])
	return b, nil
}

func (domainPlatform) policy() attest.Policy {
	tdx := attest.NovaTDXPolicy()
	tdx.Platforms, tdx.MRTDs = [][]byte{bytes.Repeat([]byte{0x50}, 16)}, [][]byte{bytes.Repeat([]byte{0xd0}, 48)}
	tdx.RTMRs[1].Values, tdx.RTMRs[2].Values = [][]byte{bytes.Repeat([]byte{0xc1}, 48)}, [][]byte{domainLine}
	tdx.RTMRs[0].Any, tdx.RTMRs[3].Any, tdx.XFAM = true, true, attest.MaskedBits{Mask: 3, Value: 3}
	tdx.CommandLine, tdx.Initrds = "siesta.ws=w", [][]byte{bytes.Repeat([]byte{0xaa}, 48)}
	return attest.Policy{TDX: &tdx}
}

func (p domainPlatform) verifier() Verifier { return p }

func (domainPlatform) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	if ev.TEE != attest.TDX || !bytes.Equal(ev.Report[domainRTMR2:domainRTMR2+48], pol.TDX.RTMRs[2].Values[0]) || [64]byte(ev.Report[domainReportData:]) != pol.ReportData {
		return nil, &attest.Refusal{Code: attest.CodeReportData, Checks: []attest.Check{{Name: "report data", Status: attest.Failed, Code: attest.CodeReportData}}}
	}
	res := &attest.Result{TEE: attest.TDX, Product: "a0b1c2d3e4f5", ReportID: sha256.Sum256(pol.ReportData[:]), ReportData: pol.ReportData, TCBStatus: "UpToDate"}
	copy(res.ChipID[:], pol.TDX.Platforms[0])
	return res, nil
}
