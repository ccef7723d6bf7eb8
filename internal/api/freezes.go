package api

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/permit"
)

func (h *handlers) CreateFreeze(ctx context.Context, r gen.CreateFreezeRequestObject) (gen.CreateFreezeResponseObject, error) {
	if err := h.allow(ctx, "freeze.create", "", authz.Object{Kind: "freeze"}, ""); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Freeze, audit.ID, error) {
		f, id, err := h.cfg.Permits.Place(ctx, tx, callOf(ctx).actor(), permit.Freeze{
			Kind: permit.FreezeKind(r.Body.Kind), Value: r.Body.Value, Reason: r.Body.Reason,
		})
		return freezeView(f), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateFreeze201JSONResponse{Body: view, Headers: gen.CreateFreeze201ResponseHeaders{Location: "/v1/freezes/" + view.ID}}, nil
}

func (h *handlers) ListFreezes(ctx context.Context, r gen.ListFreezesRequestObject) (gen.ListFreezesResponseObject, error) {
	if err := h.allow(ctx, "freeze.list", "", authz.Object{Kind: "freezes"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "freezes")
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Permits.Freezes(ctx, after, page.limit+1)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(f permit.Freeze) string { return f.ID }, freezeView)
	return gen.ListFreezes200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetFreeze(ctx context.Context, r gen.GetFreezeRequestObject) (gen.GetFreezeResponseObject, error) {
	f, err := h.freeze(ctx, "freeze.get", r.Freeze)
	if err != nil {
		return nil, err
	}
	return gen.GetFreeze200JSONResponse(freezeView(f)), nil
}

func (h *handlers) LiftFreeze(ctx context.Context, r gen.LiftFreezeRequestObject) (gen.LiftFreezeResponseObject, error) {
	f, err := h.freeze(ctx, "freeze.lift", r.Freeze)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Freeze, audit.ID, error) {
		lifted, id, err := h.cfg.Permits.Lift(ctx, tx, callOf(ctx).actor(), f.ID)
		return freezeView(lifted), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.LiftFreeze200JSONResponse(view), nil
}

// freeze returns a freeze to which the caller may do the operation.
func (s *Server) freeze(ctx context.Context, op authz.Operation, id string) (permit.Freeze, error) {
	f, err := s.cfg.Permits.Freeze(ctx, id)
	if errors.Is(err, permit.ErrNotFound) {
		return f, s.missing(ctx, op, "freeze", id)
	}
	if err != nil {
		return f, err
	}
	return f, s.allow(ctx, op, "freeze.get", authz.Object{Kind: "freeze", ID: f.ID, Owner: f.PlacedBy}, "")
}

func freezeView(f permit.Freeze) gen.Freeze {
	return gen.Freeze{
		ID: f.ID, Kind: gen.FreezeKind(f.Kind), Value: f.Value, Reason: f.Reason, State: gen.FreezeState(f.State),
		PlacedBy: f.PlacedBy, LiftedBy: f.LiftedBy, Quarantine: optional(f.Quarantine), CreatedAt: f.CreatedAt.UTC(),
	}
}
