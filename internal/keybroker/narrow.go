package keybroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Policies are the documents that people have put into force. They only ever narrow what a workspace asks for.
type Policies interface {
	// Narrow returns what asked becomes under the documents that are active for the site and the project; ErrDocuments if no
	// evidence could meet them all.
	Narrow(ctx context.Context, tx pgx.Tx, site, project string, asked attest.Policy) (attest.Policy, error)
	// Raise returns p with its floors raised to those of the floor file of this digest.
	Raise(ctx context.Context, floor [32]byte, p attest.Policy) (attest.Policy, error)
}

// narrow is what Arm arms for a policy that was asked for.
func (b *Broker) narrow(ctx context.Context, tx pgx.Tx, a Arm) (attest.Policy, error) {
	if b.Policies == nil {
		return a.Policy, nil
	}
	armed, err := b.Policies.Narrow(ctx, tx, a.Site, a.Project, a.Policy)
	if err != nil {
		return attest.Policy{}, fmt.Errorf("narrowing the policy: %w", err)
	}
	if err := armable(armed); err != nil {
		return attest.Policy{}, fmt.Errorf("%w: those of site %s and project %s: %w", ErrDocuments, a.Site, a.Project, err)
	}
	return armed, nil
}

// armable refuses a policy under which no evidence, or evidence of two kinds, could get the key: a workspace's guest is launched
// on one kind of hardware. What it must name is what a guest is bound to its workspace by.
func armable(p attest.Policy) error {
	snp := len(p.Products)+len(p.Chips)+len(p.Measurements) > 0
	t := p.TDX
	switch {
	case p.ReportData != [64]byte{}:
		return errors.New("the policy holds report data, which differ with every challenge")
	case snp == (t != nil):
		return errors.New("the policy must be for SEV-SNP or for TDX, one of them")
	case snp && (len(p.Measurements) == 0 || len(p.Chips) == 0 || len(p.Products) == 0):
		return errors.New("the policy names no measurement, no chip or no product line")
	case snp:
		return nil
	case len(t.Platforms) == 0 || len(t.MRTDs) == 0:
		return errors.New("the policy names no platform or no firmware (mrtd)")
	case t.CommandLine == "" || len(t.Initrds) == 0 || t.RTMRs[1].Any || t.RTMRs[2].Any:
		return errors.New("the policy names no command line, no initrd, or any kernel or line (rtmr 1, rtmr 2)")
	case len(t.Quotes) == 0 || len(t.TCBStatuses) == 0 || t.Attributes.Mask == 0 || t.XFAM.Mask == 0:
		return errors.New("the policy admits no form of the quote, no TCB status, no attributes or no processor features")
	}
	for i, rule := range t.RTMRs {
		if !rule.Any && len(rule.Values) == 0 {
			return fmt.Errorf("the policy admits no value of rtmr %d", i)
		}
	}
	return nil
}

// findable lists what a policy is found by, where evidence names no workspace: launch digests, or the values of RTMR2, which
// holds the line.
func findable(p attest.Policy) [][]byte {
	if p.TDX != nil {
		return p.TDX.RTMRs[2].Values
	}
	return p.Measurements
}

// raised is a policy under one floor file: what a verdict is given under, and the bytes that are kept with it.
type raised struct {
	policy attest.Policy
	hash   [32]byte
	body   []byte // nil where the floor changed nothing
}

type raisedKey struct{ policy, floor [32]byte }

// raise puts the security floor that was in force with the challenge under an armed policy. The release transaction looks
// again (errFloorMoved), so a floor holds from the commit of its activation on, in every process.
func (b *Broker) raise(ctx context.Context, a *attempt, armed attest.Policy) (attest.Policy, error) {
	a.policyHash, a.policyBody = a.armed, nil
	if len(a.floor) == 0 {
		return armed, nil
	}
	if b.Policies == nil || len(a.floor) != 32 {
		return attest.Policy{}, errors.New("a security floor is in force, and this process cannot read it")
	}
	key := raisedKey{a.armed, [32]byte(a.floor)}
	r, ok := b.raises.get(key)
	if !ok {
		policy, err := b.Policies.Raise(ctx, key.floor, armed)
		if err != nil {
			return attest.Policy{}, fmt.Errorf("applying the security floor: %w", err)
		}
		r = raised{policy: policy, hash: policy.Hash()}
		if r.hash != a.armed {
			if r.body, err = policy.MarshalJSON(); err != nil {
				return attest.Policy{}, fmt.Errorf("applying the security floor: %w", err)
			}
		}
		b.raises.put(key, r)
	}
	a.policyHash, a.policyBody = r.hash, r.body
	return r.policy, nil
}
