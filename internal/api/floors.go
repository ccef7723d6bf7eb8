package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/floor"
	"github.com/eosc-siesta/siestad/internal/policy"
)

func (h *handlers) CheckFloor(ctx context.Context, r gen.CheckFloorRequestObject) (gen.CheckFloorResponseObject, error) {
	if err := h.allow(ctx, "floor.check", "", authz.Object{Kind: "floor"}, ""); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r.Body)
	if err != nil {
		return nil, kindMalformed.because("The file cannot be read.")
	}
	report, err := h.cfg.Policies.CheckFloor(ctx, body)
	if err != nil {
		return nil, err
	}
	view := gen.CheckFloor200JSONResponse{
		Issued: report.Issued.UTC(), Judged: report.Judged, NotReplayable: report.NotReplayable, Unseen: report.Unseen,
		Hosts: make([]gen.FloorHost, len(report.Hosts)), Failing: make([]gen.FloorFailure, len(report.Failing)),
	}
	for i, host := range report.Hosts {
		view.Hosts[i] = gen.FloorHost{Site: host.Site, Host: optional(host.Host), Chip: host.Chip, Workspaces: host.Workspaces}
	}
	for i, f := range report.Failing {
		view.Failing[i] = gen.FloorFailure{
			Workspace: f.Workspace, Project: f.Project, Site: f.Site, Lease: optional(f.Lease), Chip: optional(f.Chip), Host: optional(f.Host),
			Decision: f.Decision, Code: f.Code, Check: f.Check, Expected: optional(f.Expected), Got: optional(f.Got), Advisories: &report.Failing[i].Advisories,
		}
		if f.Advisories == nil {
			view.Failing[i].Advisories = nil
		}
	}
	return view, nil
}

func (h *handlers) CreateFloor(ctx context.Context, r gen.CreateFloorRequestObject) (gen.CreateFloorResponseObject, error) {
	if err := h.allow(ctx, "floor.create", "", authz.Object{Kind: "floor"}, ""); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r.Body)
	if err != nil {
		return nil, kindMalformed.because("The file cannot be read.")
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Floor, audit.ID, error) {
		f, id, err := h.cfg.Policies.ProposeFloor(ctx, tx, callOf(ctx).actor(), body)
		if err != nil {
			return gen.Floor{}, 0, err
		}
		view, err := floorView(f)
		return view, id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateFloor201JSONResponse{Body: view, Headers: gen.CreateFloor201ResponseHeaders{Location: "/v1/floors/" + view.ID}}, nil
}

func (h *handlers) ListFloors(ctx context.Context, r gen.ListFloorsRequestObject) (gen.ListFloorsResponseObject, error) {
	if err := h.allow(ctx, "floor.list", "", authz.Object{Kind: "floors"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "floors")
	before, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Policies.Floors(ctx, before, page.limit+1)
	if err != nil {
		return nil, err
	}
	views := make([]gen.Floor, len(list))
	for i, f := range list {
		if views[i], err = floorView(f); err != nil {
			return nil, err
		}
	}
	items, next := cut(page, views, func(v gen.Floor) string { return v.ID }, func(v gen.Floor) gen.Floor { return v })
	return gen.ListFloors200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetFloor(ctx context.Context, r gen.GetFloorRequestObject) (gen.GetFloorResponseObject, error) {
	f, err := h.floor(ctx, "floor.get", r.Floor)
	if err != nil {
		return nil, err
	}
	view, err := floorView(f)
	return gen.GetFloor200JSONResponse(view), err
}

func (h *handlers) ActivateFloor(ctx context.Context, r gen.ActivateFloorRequestObject) (gen.ActivateFloorResponseObject, error) {
	f, err := h.floor(ctx, "floor.activate", r.Floor)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Floor, audit.ID, error) {
		f, id, err := h.cfg.Policies.ActivateFloor(ctx, tx, callOf(ctx).actor(), r.Floor)
		if err != nil {
			return gen.Floor{}, 0, err
		}
		view, err := floorView(f)
		return view, id, err
	})
	if err != nil {
		return nil, h.refusedBy(ctx, err, "floor.activate", floorObject(f), "")
	}
	return gen.ActivateFloor200JSONResponse(view), nil
}

// floor returns a floor file to which the caller may do the operation.
func (s *Server) floor(ctx context.Context, op authz.Operation, id string) (policy.Floor, error) {
	f, err := s.cfg.Policies.Floor(ctx, id)
	if errors.Is(err, policy.ErrNotFound) {
		return f, s.missing(ctx, op, "floor", id)
	}
	if err != nil {
		return f, err
	}
	return f, s.allow(ctx, op, "floor.get", floorObject(f), "")
}

func floorObject(f policy.Floor) authz.Object {
	return authz.Object{Kind: "floor", ID: f.ID, Owner: f.ProposedBy, Authors: []string{f.ProposedBy}}
}

func floorView(f policy.Floor) (gen.Floor, error) {
	view := gen.Floor{
		ID: f.ID, Sha256: hex.EncodeToString(f.SHA256), Issued: f.Issued.UTC(), State: gen.FloorState(f.State),
		ProposedBy: f.ProposedBy, ActivatedBy: f.ActivatedBy, CreatedAt: f.CreatedAt.UTC(), Advisories: []gen.FloorAdvisory{},
	}
	file, err := floor.ReadUnverified(f.Body)
	for _, a := range file.Advisories {
		products := []string{}
		for _, p := range a.Products {
			products = append(products, p.Product)
		}
		view.Advisories = append(view.Advisories, gen.FloorAdvisory{ID: a.ID, Date: a.Date, Title: optional(a.Title), Products: products})
	}
	return view, err
}
