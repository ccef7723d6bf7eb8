package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/floor"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// FloorReport says what a floor file would refuse.
type FloorReport struct {
	Issued        time.Time
	Judged        int
	NotReplayable int
	Unseen        int
	Hosts         []FloorHost
	Failing       []FloorFailure
}

// FloorHost is a machine below the floor, with how many of the guests that it runs would fail.
type FloorHost struct {
	Site, Host, Chip string
	Workspaces       int
}

// FloorFailure is a guest whose newest evidence would not be accepted any more.
type FloorFailure struct {
	Workspace, Project, Site string
	Lease, Chip, Host        string
	Decision                 string
	Code, Check              string
	Expected, Got            string
	Advisories               []string
}

// CheckFloor judges the newest accepted evidence of every armed guest again under the floors that would be in force with
// this file. It changes nothing; its answer is what to patch first.
func (s *Service) CheckFloor(ctx context.Context, body []byte) (FloorReport, error) {
	doing := func(err error) error { return fmt.Errorf("checking a floor file: %w", err) }
	file, err := floor.Verify(body, s.FloorKeys)
	if err != nil {
		return FloorReport{}, doing(err)
	}
	guests, err := s.Archive.Standing(ctx)
	if err != nil {
		return FloorReport{}, doing(err)
	}
	r := FloorReport{Issued: file.Issued}
	hosts := map[FloorHost]int{}
	for _, g := range guests {
		if g.Decision == "" {
			r.Unseen++
			continue
		}
		stored, err := s.Archive.Load(ctx, g.Decision)
		if errors.Is(err, keybroker.ErrNotKept) {
			r.NotReplayable++
			continue
		}
		if err != nil {
			return FloorReport{}, doing(err)
		}
		r.Judged++
		f, err := s.below(file, g, stored)
		if err != nil {
			return FloorReport{}, doing(err)
		}
		if f != nil {
			r.Failing = append(r.Failing, *f)
			hosts[FloorHost{Site: f.Site, Host: f.Host, Chip: f.Chip}]++
		}
	}
	for host, n := range hosts {
		host.Workspaces = n
		r.Hosts = append(r.Hosts, host)
	}
	slices.SortFunc(r.Hosts, func(a, b FloorHost) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Chip, b.Chip))
	})
	return r, nil
}

// below says how a guest's evidence falls short of a file, nil if it does not.
func (s *Service) below(file floor.File, g keybroker.Standing, stored keybroker.Stored) (*FloorFailure, error) {
	policy, err := raise(file, stored.Policy)
	if err != nil {
		return nil, err
	}
	c := change(stored)
	if err := s.judge(stored, policy, &c); err != nil {
		return nil, err
	}
	if c.Becomes == attest.Accepted {
		return nil, nil
	}
	f := &FloorFailure{
		Workspace: g.Workspace, Project: g.Project, Site: g.Site, Lease: g.Lease, Chip: g.Chip, Decision: stored.ID,
		Code: c.Code, Check: c.Check, Expected: c.Expected, Got: c.Got,
	}
	if s.Host != nil && f.Chip != "" {
		f.Host = s.Host(g.Site, f.Chip)
	}
	for _, product := range stored.Policy.Products {
		if g.Product != "" && product != g.Product {
			continue
		}
		_, because := file.MinTCB(product, stored.Policy.MinTCB[product])
		f.Advisories = append(f.Advisories, because...)
	}
	if stored.Policy.TDX != nil {
		_, f.Advisories = file.MinEvaluation(stored.Policy.TDX.MinEvaluationNumber)
	}
	slices.Sort(f.Advisories)
	f.Advisories = slices.Compact(f.Advisories)
	return f, nil
}
