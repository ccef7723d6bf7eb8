package api

import (
	"context"
	"errors"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

func (h *handlers) ListOperations(ctx context.Context, r gen.ListOperationsRequestObject) (gen.ListOperationsResponseObject, error) {
	if _, err := h.workspace(ctx, "operation.get", r.Params.Workspace); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "operations", r.Params.Workspace)
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Workspaces.Operations(ctx, r.Params.Workspace)
	if err != nil {
		return nil, err
	}
	// Newest first, and ids grow with time.
	for after != "" && len(list) > 0 && list[0].ID >= after {
		list = list[1:]
	}
	items, next := cut(page, list, func(o workspace.Operation) string { return o.ID }, h.operationView)
	return gen.ListOperations200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetOperation(ctx context.Context, r gen.GetOperationRequestObject) (gen.GetOperationResponseObject, error) {
	o, err := h.cfg.Workspaces.Operation(ctx, r.Operation)
	if errors.Is(err, workspace.ErrNotFound) {
		return nil, h.missing(ctx, "operation.get", "operation", r.Operation)
	}
	if err != nil {
		return nil, err
	}
	members, err := h.members(ctx, o.Project)
	if err != nil {
		return nil, err
	}
	object := authz.Object{Kind: "operation", ID: o.ID, Members: members}
	if err := h.allow(ctx, "operation.get", "operation.get", object, o.Project); err != nil {
		return nil, err
	}
	return gen.GetOperation200JSONResponse(h.operationView(o)), nil
}

func (s *Server) operationView(o workspace.Operation) gen.Operation {
	v := gen.Operation{
		ID: o.ID, Kind: gen.OperationKind(o.Kind), Workspace: o.Workspace, Project: o.Project, State: gen.OperationState(o.State),
		Detail: optional(o.Detail), Problem: reasonView(o.Problem), Steps: make([]gen.Step, len(o.Steps)),
		CreatedAt: o.CreatedAt.UTC(), EndedAt: utc(o.EndedAt), AgeSeconds: s.age(o.CreatedAt, o.EndedAt),
	}
	for i, step := range o.Steps {
		v.Steps[i] = gen.Step{
			Name: step.Name, State: gen.StepState(step.State), StartedAt: utc(step.StartedAt), EndedAt: utc(step.EndedAt),
			Detail: optional(step.Detail), Problem: reasonView(step.Problem),
		}
		if step.StartedAt != nil {
			age := s.age(*step.StartedAt, step.EndedAt)
			v.Steps[i].AgeSeconds = &age
		}
	}
	return v
}

// age is in whole milliseconds; never negative, although the database's clock is not ours.
func (s *Server) age(from time.Time, to *time.Time) float64 {
	end := s.cfg.Now()
	if to != nil {
		end = *to
	}
	return max(0, float64(end.Sub(from).Milliseconds())/1000)
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
