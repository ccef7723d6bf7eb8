package api

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/quarantine"
)

func (h *handlers) CreateQuarantine(ctx context.Context, r gen.CreateQuarantineRequestObject) (gen.CreateQuarantineResponseObject, error) {
	if err := h.allow(ctx, "quarantine.create", "", authz.Object{Kind: "quarantine"}, ""); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Quarantine, audit.ID, error) {
		q, id, err := h.cfg.Quarantines.Place(ctx, tx, callOf(ctx).actor(), permit.FreezeKind(r.Body.Kind), r.Body.Value, r.Body.Reason)
		return quarantineView(q), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateQuarantine201JSONResponse{Body: view, Headers: gen.CreateQuarantine201ResponseHeaders{Location: "/v1/quarantines/" + view.ID}}, nil
}

func (h *handlers) ListQuarantines(ctx context.Context, r gen.ListQuarantinesRequestObject) (gen.ListQuarantinesResponseObject, error) {
	if err := h.allow(ctx, "quarantine.list", "", authz.Object{Kind: "quarantines"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "quarantines")
	before, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Quarantines.List(ctx, before, page.limit+1)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(q quarantine.Order) string { return q.ID }, quarantineView)
	return gen.ListQuarantines200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetQuarantine(ctx context.Context, r gen.GetQuarantineRequestObject) (gen.GetQuarantineResponseObject, error) {
	q, err := h.quarantine(ctx, "quarantine.get", r.Quarantine)
	if err != nil {
		return nil, err
	}
	return gen.GetQuarantine200JSONResponse(quarantineView(q)), nil
}

func (h *handlers) LiftQuarantine(ctx context.Context, r gen.LiftQuarantineRequestObject) (gen.LiftQuarantineResponseObject, error) {
	q, err := h.quarantine(ctx, "quarantine.lift", r.Quarantine)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Quarantine, audit.ID, error) {
		lifted, id, err := h.cfg.Quarantines.Lift(ctx, tx, callOf(ctx).actor(), q.ID)
		return quarantineView(lifted), id, err
	})
	if err != nil {
		return nil, h.refusedBy(ctx, err, "quarantine.lift", quarantineObject(q), "")
	}
	return gen.LiftQuarantine200JSONResponse(view), nil
}

// quarantine returns a quarantine to which the caller may do the operation.
func (s *Server) quarantine(ctx context.Context, op authz.Operation, id string) (quarantine.Order, error) {
	q, err := s.cfg.Quarantines.Get(ctx, id)
	if errors.Is(err, permit.ErrNotFound) {
		return q, s.missing(ctx, op, "quarantine", id)
	}
	if err != nil {
		return q, err
	}
	return q, s.allow(ctx, op, "quarantine.get", quarantineObject(q), "")
}

func quarantineObject(q quarantine.Order) authz.Object {
	return authz.Object{Kind: "quarantine", ID: q.ID, Owner: q.PlacedBy}
}

func quarantineView(q quarantine.Order) gen.Quarantine {
	view := gen.Quarantine{
		ID: q.ID, Kind: gen.QuarantineKind(q.Kind), Value: q.Value, Reason: q.Reason, State: gen.QuarantineState(q.State),
		PlacedBy: q.PlacedBy, LiftedBy: q.LiftedBy, CreatedAt: q.CreatedAt.UTC(),
	}
	if q.Hits != nil {
		hits := make([]gen.QuarantineHit, len(q.Hits))
		for i, hit := range q.Hits {
			hits[i] = gen.QuarantineHit{
				Workspace: hit.Workspace, Project: hit.Project, Site: hit.Site, Generation: hit.Generation,
				Lease: optional(hit.Lease), Chip: optional(hit.Chip), Host: optional(hit.Host),
			}
		}
		view.Hits = &hits
	}
	return view
}
