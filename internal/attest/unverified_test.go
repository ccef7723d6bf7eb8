package attest

import (
	"bytes"
	"slices"
	"testing"
)

// What finds a policy is read before anything is judged: from where the vendor has it, and from nothing that is too short.
func TestUnverifiedMeasurement(t *testing.T) {
	s := newSoftTD(t)
	for _, form := range quoteForms {
		s.form = form
		s.body.rtmrs[2] = [48]byte(bytes.Repeat([]byte{0xc2}, 48))
		if got := UnverifiedMeasurement(Evidence{TEE: TDX, Report: s.quote()}); !bytes.Equal(got, s.body.rtmrs[2][:]) {
			t.Errorf("%s: %x, not RTMR2", form, got)
		}
	}
	report := make([]byte, 1184)
	copy(report[0x90:], bytes.Repeat([]byte{0x42}, 48))
	if got := UnverifiedMeasurement(Evidence{TEE: SEVSNP, Report: report}); !bytes.Equal(got, bytes.Repeat([]byte{0x42}, 48)) {
		t.Errorf("%x, not the launch digest", got)
	}
	quote := s.quote()
	unknown := slices.Clone(quote)
	unknown[0] = 6
	body := slices.Clone(quote)
	body[quoteHeaderSize] = 9
	for name, ev := range map[string]Evidence{
		"no quote":                  {TEE: TDX},
		"a report as a quote":       {TEE: TDX, Report: report[:100]},
		"a quote cut off":           {TEE: TDX, Report: quote[:minQuoteBytes-1]},
		"a quote beyond the bound":  {TEE: TDX, Report: append(slices.Clone(quote), make([]byte, maxQuoteBytes)...)},
		"a version that is unknown": {TEE: TDX, Report: unknown},
		"a body that is unknown":    {TEE: TDX, Report: body},
		"a quote as a report":       {TEE: SEVSNP, Report: quote},
		"another kind":              {TEE: "sample", Report: quote},
	} {
		if got := UnverifiedMeasurement(ev); got != nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}
