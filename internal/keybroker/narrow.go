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
	// Narrow returns what asked becomes under the documents that are active for the site and the project. An error means
	// that no evidence could meet them all.
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
	if len(armed.Measurements) == 0 || armed.ReportData != [64]byte{} {
		return attest.Policy{}, errors.New("narrowing the policy: it names no measurement any more, or holds report data")
	}
	return armed, nil
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
