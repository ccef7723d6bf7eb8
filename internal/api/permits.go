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

func (h *handlers) GrantPermit(ctx context.Context, r gen.GrantPermitRequestObject) (gen.GrantPermitResponseObject, error) {
	d, err := h.cfg.Permits.Dataset(ctx, r.Body.Dataset)
	if errors.Is(err, permit.ErrNotFound) {
		return nil, h.missing(ctx, "permit.grant", "dataset", r.Body.Dataset)
	}
	if err != nil {
		return nil, err
	}
	object := authz.Object{Kind: "dataset", ID: d.ID, Custodian: d.Custodian}
	if err := h.allow(ctx, "permit.grant", "dataset.get", object, r.Body.Project); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Permit, audit.ID, error) {
		p, id, err := h.cfg.Permits.Grant(ctx, tx, callOf(ctx).actor(), permit.Permit{
			Project: r.Body.Project, Dataset: d.ID, People: r.Body.People, Until: r.Body.Until,
		})
		return permitView(p), id, err
	})
	if err != nil {
		return nil, h.refusedBy(ctx, err, "permit.grant", object, r.Body.Project)
	}
	return gen.GrantPermit201JSONResponse{Body: view, Headers: gen.GrantPermit201ResponseHeaders{
		Location: "/v1/permits/" + view.ID, ETag: etag(view),
	}}, nil
}

func (h *handlers) ListPermits(ctx context.Context, r gen.ListPermitsRequestObject) (gen.ListPermitsResponseObject, error) {
	if err := h.allow(ctx, "permit.list", "", authz.Object{Kind: "permits"}, ""); err != nil {
		return nil, err
	}
	project := pointer(r.Params.Project)
	page := h.pager(ctx, r.Params.Limit, "permits", project)
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	items, next, err := sift(page, after, func(after string) ([]permit.Permit, error) {
		return h.cfg.Permits.Permits(ctx, project, "", after, page.limit+1)
	}, func(p permit.Permit) string { return p.ID }, func(p permit.Permit) (bool, error) {
		object, err := h.permitObject(ctx, p)
		return err == nil && h.may(ctx, "permit.get", object), err // shown to whom permit.get would show it
	}, permitView)
	if err != nil {
		return nil, err
	}
	return gen.ListPermits200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetPermit(ctx context.Context, r gen.GetPermitRequestObject) (gen.GetPermitResponseObject, error) {
	p, err := h.permit(ctx, "permit.get", r.Permit)
	if err != nil {
		return nil, err
	}
	view := permitView(p)
	return gen.GetPermit200JSONResponse{Body: view, Headers: gen.GetPermit200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) EndPermit(ctx context.Context, r gen.EndPermitRequestObject) (gen.EndPermitResponseObject, error) {
	p, err := h.permit(ctx, "permit.end", r.Permit)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Permit, audit.ID, error) {
		ended, id, err := h.cfg.Permits.End(ctx, tx, callOf(ctx).actor(), p.ID)
		return permitView(ended), id, err
	})
	if err != nil {
		return nil, h.refusedBy(ctx, err, "permit.end", authz.Object{Kind: "permit", ID: p.ID}, p.Project)
	}
	return gen.EndPermit200JSONResponse{Body: view, Headers: gen.EndPermit200ResponseHeaders{ETag: etag(view)}}, nil
}

// permit returns a permit to which the caller may do the operation.
func (s *Server) permit(ctx context.Context, op authz.Operation, id string) (permit.Permit, error) {
	p, err := s.cfg.Permits.Permit(ctx, id)
	if errors.Is(err, permit.ErrNotFound) {
		return p, s.missing(ctx, op, "permit", id)
	}
	if err != nil {
		return p, err
	}
	object, err := s.permitObject(ctx, p)
	if err != nil {
		return p, err
	}
	return p, s.allow(ctx, op, "permit.get", object, p.Project)
}

func (s *Server) permitObject(ctx context.Context, p permit.Permit) (authz.Object, error) {
	d, err := s.cfg.Permits.Dataset(ctx, p.Dataset)
	if err != nil {
		return authz.Object{}, err
	}
	return authz.Object{Kind: "permit", ID: p.ID, Custodian: d.Custodian, Members: p.People}, nil
}

func permitView(p permit.Permit) gen.Permit {
	return gen.Permit{
		ID: p.ID, Project: p.Project, Dataset: p.Dataset, People: p.People, State: gen.PermitState(p.State), Until: p.Until.UTC(),
		GrantedBy: p.GrantedBy, EndedBy: p.EndedBy, CreatedAt: p.CreatedAt.UTC(),
	}
}
