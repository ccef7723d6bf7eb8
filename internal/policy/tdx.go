package policy

import (
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/floor"
)

// filledTDX says with parent's words what a document says nothing about.
func filledTDX(document, parent *attest.TDXPolicy) *attest.TDXPolicy {
	if document == nil || parent == nil {
		return parent
	}
	out := *document
	out.Quotes = orElse(out.Quotes, parent.Quotes)
	out.Platforms = orElse(out.Platforms, parent.Platforms)
	out.MRTDs = orElse(out.MRTDs, parent.MRTDs)
	out.ServiceTDs = orElse(out.ServiceTDs, parent.ServiceTDs)
	out.TCBStatuses = orElse(out.TCBStatuses, parent.TCBStatuses)
	out.Initrds = orElse(out.Initrds, parent.Initrds)
	for i, rule := range out.RTMRs {
		if !rule.Any && len(rule.Values) == 0 {
			out.RTMRs[i] = parent.RTMRs[i]
		}
	}
	if out.Attributes.Mask == 0 {
		out.Attributes = parent.Attributes
	}
	if out.XFAM.Mask == 0 {
		out.XFAM = parent.XFAM
	}
	for _, id := range []struct{ own, parents *[48]byte }{
		{&out.MRConfigID, &parent.MRConfigID}, {&out.MROwner, &parent.MROwner}, {&out.MROwnerConfig, &parent.MROwnerConfig},
	} {
		if *id.own == [48]byte{} {
			*id.own = *id.parents
		}
	}
	if out.CommandLine == "" {
		out.CommandLine = parent.CommandLine
	}
	out.RequireEventLog = out.RequireEventLog || parent.RequireEventLog
	out.MinEvaluationNumber = max(out.MinEvaluationNumber, parent.MinEvaluationNumber)
	return &out
}

// intersectTDX takes from a filled document what asked does not admit. What cannot be joined is left as the document has it,
// and refused by the proof that follows.
func intersectTDX(filled, asked *attest.TDXPolicy) *attest.TDXPolicy {
	if filled == nil || asked == nil {
		return nil
	}
	out := *filled
	same := func(a, b string) bool { return a == b }
	out.Quotes, out.TCBStatuses = both(out.Quotes, asked.Quotes, same), both(out.TCBStatuses, asked.TCBStatuses, same)
	out.Platforms, out.MRTDs = both(out.Platforms, asked.Platforms, slices.Equal), both(out.MRTDs, asked.MRTDs, slices.Equal)
	out.ServiceTDs = both(out.ServiceTDs, asked.ServiceTDs, slices.Equal)
	if len(asked.Initrds) > 0 {
		out.Initrds = both(out.Initrds, asked.Initrds, slices.Equal)
	}
	for i, rule := range asked.RTMRs {
		switch {
		case rule.Any:
		case out.RTMRs[i].Any:
			out.RTMRs[i] = rule
		default:
			out.RTMRs[i].Values = both(out.RTMRs[i].Values, rule.Values, slices.Equal)
		}
	}
	out.Attributes, out.XFAM = joined(out.Attributes, asked.Attributes), joined(out.XFAM, asked.XFAM)
	return &out
}

// withMeasurements lends a site, which measures nothing of its own, the measurements of a document.
func withMeasurements(site, document *attest.TDXPolicy) *attest.TDXPolicy {
	if site == nil || document == nil {
		return site
	}
	out := *site
	out.MRTDs = orElse(site.MRTDs, document.MRTDs)
	for i, rule := range site.RTMRs {
		if !rule.Any && len(rule.Values) == 0 {
			out.RTMRs[i] = document.RTMRs[i]
		}
	}
	return &out
}

// joined asks for the bits of both.
func joined(a, b attest.MaskedBits) attest.MaskedBits {
	a.Value |= b.Value &^ a.Mask & b.Mask
	a.Mask |= b.Mask
	return a
}

// raiseTDX puts a file's floor for Intel's data set under a policy.
func raiseTDX(file floor.File, p *attest.TDXPolicy) *attest.TDXPolicy {
	if p == nil {
		return nil
	}
	out := *p
	out.MinEvaluationNumber, _ = file.MinEvaluation(p.MinEvaluationNumber)
	return &out
}

func orElse[T any](own, parents []T) []T {
	if len(own) == 0 {
		return parents
	}
	return own
}
