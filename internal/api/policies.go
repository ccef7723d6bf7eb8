package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/policy"
)

func (h *handlers) CreatePolicy(ctx context.Context, r gen.CreatePolicyRequestObject) (gen.CreatePolicyResponseObject, error) {
	if err := h.allow(ctx, "policy.create", "", authz.Object{Kind: "policy"}, ""); err != nil {
		return nil, err
	}
	document, err := json.Marshal(r.Body.Document)
	if err != nil {
		return nil, kindMalformed.because("The document cannot be read.")
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Policy, audit.ID, error) {
		v, id, err := h.cfg.Policies.Create(ctx, tx, callOf(ctx).actor(), policy.Scope{Kind: string(r.Body.Kind), Name: r.Body.Scope}, document, r.Body.Note)
		if err != nil {
			return gen.Policy{}, 0, err
		}
		view, err := policyView(v)
		return view, id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreatePolicy201JSONResponse{Body: view, Headers: gen.CreatePolicy201ResponseHeaders{Location: "/v1/policies/" + view.ID}}, nil
}

func (h *handlers) ListPolicies(ctx context.Context, r gen.ListPoliciesRequestObject) (gen.ListPoliciesResponseObject, error) {
	if err := h.allow(ctx, "policy.list", "", authz.Object{Kind: "policies"}, ""); err != nil {
		return nil, err
	}
	f := policy.Filter{Kind: pointer(r.Params.Kind), Scope: pointer(r.Params.Scope), State: pointer(r.Params.State)}
	page := h.pager(ctx, r.Params.Limit, "policies", f.Kind, f.Scope, f.State)
	var err error
	if f.Before, err = page.after(r.Params.Cursor); err != nil {
		return nil, err
	}
	f.Limit = page.limit + 1
	list, err := h.cfg.Policies.List(ctx, f)
	if err != nil {
		return nil, err
	}
	views := make([]gen.Policy, len(list))
	for i, v := range list {
		if views[i], err = policyView(v); err != nil {
			return nil, err
		}
	}
	items, next := cut(page, views, func(v gen.Policy) string { return v.ID }, func(v gen.Policy) gen.Policy { return v })
	return gen.ListPolicies200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetPolicy(ctx context.Context, r gen.GetPolicyRequestObject) (gen.GetPolicyResponseObject, error) {
	v, err := h.policy(ctx, "policy.get", r.Policy)
	if err != nil {
		return nil, err
	}
	view, err := policyView(v)
	return gen.GetPolicy200JSONResponse(view), err
}

func (h *handlers) ProposePolicy(ctx context.Context, r gen.ProposePolicyRequestObject) (gen.ProposePolicyResponseObject, error) {
	view, err := h.movePolicy(ctx, "policy.propose", r.Policy, h.cfg.Policies.Propose)
	return gen.ProposePolicy200JSONResponse(view), err
}

func (h *handlers) ActivatePolicy(ctx context.Context, r gen.ActivatePolicyRequestObject) (gen.ActivatePolicyResponseObject, error) {
	view, err := h.movePolicy(ctx, "policy.activate", r.Policy, h.cfg.Policies.Activate)
	return gen.ActivatePolicy200JSONResponse(view), err
}

func (h *handlers) RetirePolicy(ctx context.Context, r gen.RetirePolicyRequestObject) (gen.RetirePolicyResponseObject, error) {
	view, err := h.movePolicy(ctx, "policy.retire", r.Policy, h.cfg.Policies.Retire)
	return gen.RetirePolicy200JSONResponse(view), err
}

// movePolicy is one change of a version's state.
func (h *handlers) movePolicy(ctx context.Context, op authz.Operation, id string,
	move func(context.Context, pgx.Tx, audit.Actor, string) (policy.Version, audit.ID, error),
) (gen.Policy, error) {
	v, err := h.policy(ctx, op, id)
	if err != nil {
		return gen.Policy{}, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Policy, audit.ID, error) {
		v, entry, err := move(ctx, tx, callOf(ctx).actor(), id)
		if err != nil {
			return gen.Policy{}, 0, err
		}
		view, err := policyView(v)
		return view, entry, err
	})
	if err != nil {
		return gen.Policy{}, h.refusedBy(ctx, err, op, policyObject(v), projectOf(v))
	}
	return view, nil
}

func (h *handlers) TestPolicy(ctx context.Context, r gen.TestPolicyRequestObject) (gen.TestPolicyResponseObject, error) {
	if _, err := h.policy(ctx, "policy.test", r.Policy); err != nil {
		return nil, err
	}
	var until time.Time
	if r.Body.Until != nil {
		until = *r.Body.Until
	}
	report, err := h.cfg.Policies.Test(ctx, r.Policy, r.Body.Since, until)
	if err != nil {
		return nil, err
	}
	view := gen.TestPolicy200JSONResponse{
		Policy: report.Policy, Since: report.Since.UTC(), Until: report.Until.UTC(), Judged: report.Judged, NotReplayable: report.NotReplayable,
		WithoutEvidence: report.Bare, Truncated: report.Truncated, Changes: make([]gen.PolicyChange, len(report.Changes)),
	}
	for i, c := range report.Changes {
		view.Changes[i] = gen.PolicyChange{
			Decision: c.Decision, Workspace: c.Workspace, Project: c.Project, Site: c.Site, At: c.At.UTC(),
			Was: gen.PolicyChangeWas(c.Was), WasCode: optional(c.WasCode), Becomes: gen.PolicyChangeBecomes(c.Becomes), Code: optional(c.Code),
			Check: optional(c.Check), Expected: optional(c.Expected), Got: optional(c.Got), Advice: optional(c.Advice),
		}
	}
	return view, nil
}

// policy returns a version to which the caller may do the operation.
func (s *Server) policy(ctx context.Context, op authz.Operation, id string) (policy.Version, error) {
	v, err := s.cfg.Policies.Get(ctx, id)
	if errors.Is(err, policy.ErrNotFound) {
		return v, s.missing(ctx, op, "policy", id)
	}
	if err != nil {
		return v, err
	}
	return v, s.allow(ctx, op, "policy.get", policyObject(v), projectOf(v))
}

func policyObject(v policy.Version) authz.Object {
	o := authz.Object{Kind: "policy", ID: v.ID, Owner: v.CreatedBy, Authors: []string{v.CreatedBy}}
	if v.ProposedBy != nil {
		o.Authors = append(o.Authors, *v.ProposedBy)
	}
	return o
}

func projectOf(v policy.Version) string {
	if v.ScopeKind == "project" {
		return v.Scope
	}
	return ""
}

func policyView(v policy.Version) (gen.Policy, error) {
	view := gen.Policy{
		ID: v.ID, Kind: gen.PolicyScopeKind(v.ScopeKind), Scope: v.Scope, Version: v.Version, Sha256: hex.EncodeToString(v.Document),
		Note: v.Note, State: gen.PolicyState(v.State), CreatedBy: v.CreatedBy, ProposedBy: v.ProposedBy, ActivatedBy: v.ActivatedBy,
		RetiringBy: v.RetiringBy, RetiredBy: v.RetiredBy, SupersededBy: v.SupersededBy, CreatedAt: v.CreatedAt.UTC(), ChangedAt: v.ChangedAt.UTC(),
	}
	return view, json.Unmarshal(v.Body, &view.Document)
}
