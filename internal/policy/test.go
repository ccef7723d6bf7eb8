package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// maxTested bounds one test, so that it ends within a request. The newest decisions say most.
const maxTested = 2000

// maxListed bounds the changes that an answer lists.
const maxListed = 500

// Change is a decision that would come out otherwise.
type Change struct {
	Decision, Workspace, Project, Site string
	At                                 time.Time
	Was, WasCode                       string
	Becomes, Code                      string
	Check, Expected, Got, Advice       string
}

// Report is what a test found.
type Report struct {
	Policy        string
	Since, Until  time.Time
	Judged        int
	NotReplayable int
	// Bare decisions had no evidence: they were refused before any was judged.
	Bare      int
	Truncated bool
	Changes   []Change
}

// Test judges the decisions of a period again, each at its own time and with its own evidence and collateral, under what its
// workspace would have been armed with if this version were in force. It changes nothing.
func (s *Service) Test(ctx context.Context, id string, since, until time.Time) (Report, error) {
	v, err := s.Get(ctx, id)
	if err != nil {
		return Report{}, err
	}
	if until.IsZero() {
		until = s.Now()
	}
	r := Report{Policy: id, Since: since, Until: until}
	if !since.Before(until) {
		return Report{}, fmt.Errorf("testing policy %s: %w", id, invalid("the period is empty"))
	}
	doing := func(err error) error { return fmt.Errorf("testing policy %s: %w", id, err) }
	document, err := attest.ParsePolicy(v.Body)
	if err != nil {
		return Report{}, doing(err)
	}
	period := keybroker.Period{Since: since, Until: until, Limit: maxTested}
	if v.ScopeKind == "site" {
		period.Site = v.Scope
	} else {
		period.Project = v.Scope
	}
	ids, more, err := s.Archive.In(ctx, period)
	if err != nil {
		return Report{}, doing(err)
	}
	r.Truncated = more
	if r.Bare, err = s.Archive.Bare(ctx, period); err != nil {
		return Report{}, doing(err)
	}
	others := map[Scope][]attest.Policy{}
	for _, decision := range ids {
		stored, err := s.Archive.Load(ctx, decision)
		if errors.Is(err, keybroker.ErrNotKept) {
			r.NotReplayable++
			continue
		}
		if err != nil {
			return Report{}, doing(err)
		}
		place := Scope{stored.Site, stored.Project}
		rest, known := others[place]
		if !known {
			if rest, err = s.othersInForce(ctx, v, place); err != nil {
				return Report{}, doing(err)
			}
			others[place] = rest
		}
		change, err := s.again(stored, append([]attest.Policy{document}, rest...))
		if err != nil {
			return Report{}, doing(err)
		}
		r.Judged++
		if change == nil {
			continue
		}
		if len(r.Changes) == maxListed {
			r.Truncated = true
			continue
		}
		r.Changes = append(r.Changes, *change)
	}
	return r, nil
}

// othersInForce are the documents of the other scope that a guest of this site and project is armed under, too.
func (s *Service) othersInForce(ctx context.Context, v Version, place Scope) ([]attest.Policy, error) {
	f := Filter{Kind: "project", Scope: place.Name, State: "active", Limit: 1}
	if v.ScopeKind == "project" {
		f = Filter{Kind: "site", Scope: place.Kind, State: "active", Limit: 1}
	}
	list, err := s.List(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []attest.Policy
	for _, other := range list {
		p, err := attest.ParsePolicy(other.Body)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// again takes a verdict again under documents; nil when it comes out as it did.
func (s *Service) again(stored keybroker.Stored, documents []attest.Policy) (*Change, error) {
	policy, err := stored.Asked, error(nil)
	for _, d := range documents {
		if policy, err = intersect(d, policy); err != nil {
			break
		}
	}
	c := change(stored)
	if err != nil {
		// No guest could be armed under both, so nothing would have been judged at all.
		c.Becomes, c.Code, c.Check, c.Got = attest.Refused, attest.CodePolicy, "the documents leave nothing to admit", err.Error()
	} else if err := s.judge(stored, policy, &c); err != nil {
		return nil, err
	}
	if c.Becomes == c.Was && c.Code == c.WasCode {
		return nil, nil
	}
	return &c, nil
}

func change(stored keybroker.Stored) Change {
	return Change{
		Decision: stored.ID, Workspace: stored.Workspace, Project: stored.Project, Site: stored.Site, At: stored.At,
		Was: stored.Verdict.Outcome, WasCode: stored.Verdict.Code,
	}
}

// judge fills in what becomes of stored evidence under a policy.
func (s *Service) judge(stored keybroker.Stored, policy attest.Policy, c *Change) error {
	collateral, err := s.Archive.Collateral(stored)
	if err != nil {
		return fmt.Errorf("reading the collateral of decision %s: %w", stored.ID, err)
	}
	_, err = s.Verifier.Verify(stored.Evidence, collateral, policy, stored.At)
	var refusal *attest.Refusal
	switch {
	case err == nil:
		c.Becomes = attest.Accepted
	case errors.As(err, &refusal):
		c.Becomes, c.Code, c.Check = attest.Refused, refusal.Code, refusal.Check
		for _, check := range refusal.Checks {
			if check.Name == refusal.Check && check.Status == attest.Failed {
				c.Expected, c.Got, c.Advice = check.Expected, check.Got, check.Advice
				break
			}
		}
	default:
		return fmt.Errorf("judging decision %s again: %w", stored.ID, err)
	}
	return nil
}
