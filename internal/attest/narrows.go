package attest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Narrows returns nil if every guest that p admits is admitted by parent, too. The
// error says where p is wider. ReportData is left out, for each challenge has its
// own.
func (p Policy) Narrows(parent Policy) error {
	if p.Simulated != parent.Simulated {
		return errors.New("wider: simulated and genuine hardware do not stand in for each other")
	}
	if err := p.narrowsSNP(parent); err != nil {
		return err
	}
	switch {
	case p.TDX == nil:
		// No quote is admitted at all.
		return nil
	case parent.TDX == nil:
		return errors.New("wider: tdx is not admitted by the parent")
	}
	if err := p.TDX.narrows(parent.TDX); err != nil {
		return fmt.Errorf("tdx: %w", err)
	}
	return nil
}

func (p Policy) narrowsSNP(parent Policy) error {
	if len(p.Products) == 0 || len(p.Chips) == 0 || len(p.Measurements) == 0 {
		// No report is admitted at all.
		return nil
	}
	for _, line := range p.Products {
		floor, set := p.MinTCB[line]
		if !set {
			continue
		}
		above, known := parent.MinTCB[line]
		switch {
		case !slices.Contains(parent.Products, line):
			return fmt.Errorf("wider: the parent does not admit %s", line)
		case !known:
			return fmt.Errorf("wider: the parent has no TCB floor for %s", line)
		case !floor.AtLeast(above):
			return fmt.Errorf("wider: the TCB floor for %s (%s) is below the parent's (%s)", line, floor, above)
		}
	}
	switch {
	case !subset(p.Chips, parent.Chips):
		return errors.New("wider: a chip is not one of the parent's")
	case !subset(p.Measurements, parent.Measurements):
		return errors.New("wider: a measurement is not one of the parent's")
	case p.RequirePolicy != parent.RequirePolicy:
		return fmt.Errorf("wider: guest policy 0x%x is not the parent's 0x%x", p.RequirePolicy, parent.RequirePolicy)
	case parent.RequireAliasCheck && !p.RequireAliasCheck:
		return errors.New("wider: the parent asks for the memory alias check")
	case p.RequireMitigations&parent.RequireMitigations != parent.RequireMitigations:
		return errors.New("wider: the parent asks for more mitigations")
	case p.VLEKProvider != parent.VLEKProvider:
		return errors.New("wider: the parent names another provider's key, or none")
	case parent.Revocation != RevocationNotJudged && p.Revocation == RevocationNotJudged:
		return errors.New("wider: the parent asks for revocation lists")
	}
	rules := parent.Platform.list()
	for i, r := range p.Platform.list() {
		if rules[i].rule != Any && rules[i].rule != r.rule {
			return fmt.Errorf("wider: the parent has another rule on %s", r.name)
		}
	}
	return nil
}

func subset(list, of [][]byte) bool {
	return !slices.ContainsFunc(list, func(x []byte) bool {
		return !slices.ContainsFunc(of, func(y []byte) bool { return bytes.Equal(x, y) })
	})
}
