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

func (h *handlers) CreateProject(ctx context.Context, r gen.CreateProjectRequestObject) (gen.CreateProjectResponseObject, error) {
	if err := h.allow(ctx, "project.create", "", authz.Object{Kind: "project", ID: r.Body.ID}, r.Body.ID); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Project, audit.ID, error) {
		p := permit.Project{ID: r.Body.ID, Name: r.Body.Name, ValidUntil: r.Body.ValidUntil}
		if r.Body.Members != nil {
			p.Members = *r.Body.Members
		}
		p, id, err := h.cfg.Permits.CreateProject(ctx, tx, callOf(ctx).actor(), p)
		return projectView(p), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateProject201JSONResponse{Body: view, Headers: gen.CreateProject201ResponseHeaders{
		Location: "/v1/projects/" + view.ID, ETag: etag(view),
	}}, nil
}

func (h *handlers) ListProjects(ctx context.Context, r gen.ListProjectsRequestObject) (gen.ListProjectsResponseObject, error) {
	if err := h.allow(ctx, "project.list", "", authz.Object{Kind: "projects"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "projects")
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	member := callOf(ctx).who.Subject
	if h.may(ctx, "project.get", authz.Object{Kind: "project"}) { // even one of strangers
		member = ""
	}
	list, err := h.cfg.Permits.Projects(ctx, member, after, page.limit+1)
	if err != nil {
		return nil, err
	}
	if member != "" && !h.may(ctx, "project.get", authz.Object{Kind: "project", Members: []string{member}}) {
		list = nil
	}
	items, next := cut(page, list, func(p permit.Project) string { return p.ID }, projectView)
	return gen.ListProjects200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetProject(ctx context.Context, r gen.GetProjectRequestObject) (gen.GetProjectResponseObject, error) {
	p, err := h.project(ctx, "project.get", r.Project)
	if err != nil {
		return nil, err
	}
	view := projectView(p)
	return gen.GetProject200JSONResponse{Body: view, Headers: gen.GetProject200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) SetProjectMembers(ctx context.Context, r gen.SetProjectMembersRequestObject) (gen.SetProjectMembersResponseObject, error) {
	p, err := h.project(ctx, "project.update", r.Project)
	if err != nil {
		return nil, err
	}
	if err := matches(r.Params.IfMatch, projectView(p)); err != nil {
		return nil, err
	}
	p.Members = r.Body.Members
	// The update names the version that was compared: one that came between is not overwritten.
	updated, id, err := effect(ctx, h.Server, func(tx pgx.Tx) (permit.Project, audit.ID, error) {
		return h.cfg.Permits.UpdateProject(ctx, tx, callOf(ctx).actor(), p, p.Version)
	})
	if err != nil {
		return nil, err
	}
	if err := h.await(ctx, id); err != nil {
		return nil, err
	}
	view := projectView(updated)
	return gen.SetProjectMembers200JSONResponse{Body: view, Headers: gen.SetProjectMembers200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) CloseProject(ctx context.Context, r gen.CloseProjectRequestObject) (gen.CloseProjectResponseObject, error) {
	p, err := h.project(ctx, "project.close", r.Project)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Project, audit.ID, error) {
		p.State = permit.ProjectClosed
		closed, id, err := h.cfg.Permits.UpdateProject(ctx, tx, callOf(ctx).actor(), p, p.Version)
		return projectView(closed), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CloseProject200JSONResponse{Body: view, Headers: gen.CloseProject200ResponseHeaders{ETag: etag(view)}}, nil
}

// project returns a project to which the caller may do the operation.
func (s *Server) project(ctx context.Context, op authz.Operation, id string) (permit.Project, error) {
	p, err := s.cfg.Permits.Project(ctx, id)
	if errors.Is(err, permit.ErrNotFound) {
		return p, s.missing(ctx, op, "project", id)
	}
	if err != nil {
		return p, err
	}
	return p, s.allow(ctx, op, "project.get", authz.Object{Kind: "project", ID: p.ID, Members: p.Members}, p.ID)
}

func projectView(p permit.Project) gen.Project {
	members := p.Members
	if members == nil {
		members = []string{}
	}
	return gen.Project{
		ID: p.ID, Name: p.Name, State: gen.ProjectState(p.State), ValidUntil: p.ValidUntil.UTC(), Members: members, CreatedAt: p.CreatedAt.UTC(),
	}
}
