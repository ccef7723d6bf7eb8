package api

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

func (h *handlers) CreateWorkspace(ctx context.Context, r gen.CreateWorkspaceRequestObject) (gen.CreateWorkspaceResponseObject, error) {
	project, err := h.cfg.Permits.Project(ctx, r.Body.Project)
	if errors.Is(err, permit.ErrNotFound) {
		return nil, h.missing(ctx, "workspace.create", "project", r.Body.Project)
	}
	if err != nil {
		return nil, err
	}
	object := authz.Object{Kind: "project", ID: project.ID, Members: project.Members}
	if err := h.allow(ctx, "workspace.create", "project.get", object, project.ID); err != nil {
		return nil, err
	}
	view, err := h.work(ctx, "workspace.create", object, project.ID, func(tx pgx.Tx, c *call) (workspace.Operation, audit.ID, error) {
		_, op, id, err := h.cfg.Workspaces.Create(ctx, tx, c.actor(), workspace.CreateSpec{
			Name: r.Body.Name, Project: project.ID, Dataset: r.Body.Dataset, Image: r.Body.Image, Site: r.Body.Site,
			Flavor: r.Body.Flavor, DataGiB: r.Body.DataGib, Request: c.id,
		})
		return op, id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateWorkspace202JSONResponse{Body: view, Headers: gen.CreateWorkspace202ResponseHeaders{Location: operationPath(view)}}, nil
}

func (h *handlers) ListWorkspaces(ctx context.Context, r gen.ListWorkspacesRequestObject) (gen.ListWorkspacesResponseObject, error) {
	if err := h.allow(ctx, "workspace.list", "", authz.Object{Kind: "workspaces"}, ""); err != nil {
		return nil, err
	}
	f := workspace.Filter{Site: pointer(r.Params.Site), State: workspace.State(pointer(r.Params.State))}
	if project := pointer(r.Params.Project); project != "" {
		f.Projects = []string{project}
	}
	page := h.pager(ctx, r.Params.Limit, "workspaces", f.Site, string(f.State), pointer(r.Params.Project))
	var err error
	if f.After, err = page.after(r.Params.Cursor); err != nil {
		return nil, err
	}
	f.Limit = page.limit + 1
	if f.Projects, err = h.visible(ctx, "workspace.get", f.Projects); err != nil {
		return nil, err
	}
	var list []workspace.Workspace
	if f.Projects == nil || len(f.Projects) > 0 { // an empty list would mean all to nobody but a careless reader
		if list, err = h.cfg.Workspaces.List(ctx, f); err != nil {
			return nil, err
		}
	}
	items, next := cut(page, list, func(w workspace.Workspace) string { return w.ID }, workspaceView)
	return gen.ListWorkspaces200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetWorkspace(ctx context.Context, r gen.GetWorkspaceRequestObject) (gen.GetWorkspaceResponseObject, error) {
	w, err := h.workspace(ctx, "workspace.get", r.Workspace)
	if err != nil {
		return nil, err
	}
	view := workspaceView(w)
	return gen.GetWorkspace200JSONResponse{Body: view, Headers: gen.GetWorkspace200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) DeleteWorkspace(ctx context.Context, r gen.DeleteWorkspaceRequestObject) (gen.DeleteWorkspaceResponseObject, error) {
	w, err := h.workspace(ctx, "workspace.delete", r.Workspace)
	if err != nil {
		return nil, err
	}
	if err := matches(r.Params.IfMatch, workspaceView(w)); err != nil {
		return nil, err
	}
	// A DELETE has no key: whoever repeats it meets the workspace deleting, and is told so.
	c := callOf(ctx)
	op, _, err := effect(ctx, h.Server, func(tx pgx.Tx) (workspace.Operation, audit.ID, error) {
		_, op, id, err := h.cfg.Workspaces.Delete(ctx, tx, c.actor(), w.ID, c.id)
		return op, id, err
	})
	if err != nil {
		return nil, err
	}
	h.cfg.Workspaces.Wake()
	view := h.operationView(op)
	return gen.DeleteWorkspace202JSONResponse{Body: view, Headers: gen.DeleteWorkspace202ResponseHeaders{Location: operationPath(view)}}, nil
}

func (h *handlers) RebootWorkspace(ctx context.Context, r gen.RebootWorkspaceRequestObject) (gen.RebootWorkspaceResponseObject, error) {
	view, err := h.reboot(ctx, "workspace.reboot", r.Workspace, h.cfg.Workspaces.Reboot)
	if err != nil {
		return nil, err
	}
	return gen.RebootWorkspace202JSONResponse{Body: view, Headers: gen.RebootWorkspace202ResponseHeaders{Location: operationPath(view)}}, nil
}

func (h *handlers) AllowReboot(ctx context.Context, r gen.AllowRebootRequestObject) (gen.AllowRebootResponseObject, error) {
	view, err := h.reboot(ctx, "workspace.allow_reboot", r.Workspace, h.cfg.Workspaces.AllowReboot)
	if err != nil {
		return nil, err
	}
	return gen.AllowReboot202JSONResponse{Body: view, Headers: gen.AllowReboot202ResponseHeaders{Location: operationPath(view)}}, nil
}

type rebooter func(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (workspace.Workspace, workspace.Operation, audit.ID, error)

func (h *handlers) reboot(ctx context.Context, op authz.Operation, id string, do rebooter) (gen.Operation, error) {
	w, err := h.workspace(ctx, op, id)
	if err != nil {
		return gen.Operation{}, err
	}
	return h.work(ctx, op, authz.Object{Kind: "workspace", ID: w.ID}, w.Project, func(tx pgx.Tx, c *call) (workspace.Operation, audit.ID, error) {
		_, started, entry, err := do(ctx, tx, c.actor(), w.ID, c.id)
		return started, entry, err
	})
}

func (h *handlers) ExplainWorkspace(ctx context.Context, r gen.ExplainWorkspaceRequestObject) (gen.ExplainWorkspaceResponseObject, error) {
	if _, err := h.workspace(ctx, "workspace.explain", r.Workspace); err != nil {
		return nil, err
	}
	e, err := h.cfg.Workspaces.Explain(ctx, r.Workspace)
	if err != nil {
		return nil, err
	}
	view := gen.Explanation{
		Workspace: e.Workspace.ID, State: gen.WorkspaceState(e.Workspace.State), Releasable: len(e.Facts) > 0, Facts: factViews(e.Facts),
		Stage: optional(e.Stage), Guest: optional(e.Guest), Refusal: optional(e.Refusal), Suspended: e.Suspended, Next: e.Next,
	}
	for _, f := range e.Facts {
		view.Releasable = view.Releasable && f.Holds
	}
	return gen.ExplainWorkspace200JSONResponse(view), nil
}

// work starts an operation once for the request's Idempotency-Key.
func (s *Server) work(ctx context.Context, op authz.Operation, o authz.Object, project string,
	start func(tx pgx.Tx, c *call) (workspace.Operation, audit.ID, error),
) (gen.Operation, error) {
	view, err := once(ctx, s, 202, flows, func(tx pgx.Tx) (gen.Operation, audit.ID, error) {
		started, id, err := start(tx, callOf(ctx))
		return s.operationView(started), id, err
	})
	if err != nil {
		return gen.Operation{}, s.refusedBy(ctx, err, op, o, project)
	}
	s.cfg.Workspaces.Wake()
	return view, nil
}

// workspace returns a workspace to which the caller may do the operation.
func (s *Server) workspace(ctx context.Context, op authz.Operation, id string) (workspace.Workspace, error) {
	w, err := s.cfg.Workspaces.Get(ctx, id)
	if errors.Is(err, workspace.ErrNotFound) {
		return w, s.missing(ctx, op, "workspace", id)
	}
	if err != nil {
		return w, err
	}
	members, err := s.members(ctx, w.Project)
	if err != nil {
		return w, err
	}
	return w, s.allow(ctx, op, "workspace.get", authz.Object{Kind: "workspace", ID: w.ID, Owner: w.Owner, Members: members}, w.Project)
}

func (s *Server) members(ctx context.Context, project string) ([]string, error) {
	p, err := s.cfg.Permits.Project(ctx, project)
	return p.Members, err
}

// visible narrows projects, nil for all, to those in which the caller may do the operation.
func (s *Server) visible(ctx context.Context, op authz.Operation, projects []string) ([]string, error) {
	if s.may(ctx, op, authz.Object{Kind: "workspace"}) { // even in a project of strangers
		return projects, nil
	}
	c := callOf(ctx)
	own := []string{}
	for after := ""; ; {
		list, err := s.cfg.Permits.Projects(ctx, c.who.Subject, after, 500)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			wanted := projects == nil || p.ID == projects[0]
			if wanted && s.may(ctx, op, authz.Object{Kind: "workspace", Members: p.Members}) {
				own = append(own, p.ID)
			}
			after = p.ID
		}
		if len(list) < 500 {
			return own, nil
		}
	}
}

func operationPath(o gen.Operation) string { return "/v1/operations/" + o.ID }

func workspaceView(w workspace.Workspace) gen.Workspace {
	v := gen.Workspace{
		ID: w.ID, Name: w.Name, Project: w.Project, Dataset: w.Dataset, Image: w.Image, Site: w.Site, Flavor: w.Flavor,
		DataGib: w.DataGiB, Owner: w.Owner, State: gen.WorkspaceState(w.State), Generation: w.Generation, Simulated: w.Simulated,
		Reason: reasonView(w.Reason), Line: optional(w.Line), Server: optional(w.ServerID), DataVolume: optional(w.DataVolumeID),
		CreatedAt: w.CreatedAt.UTC(), UpdatedAt: w.UpdatedAt.UTC(), ReadyAt: utc(w.ReadyAt), DeletedAt: utc(w.DeletedAt),
	}
	if len(w.Measurements) > 0 {
		v.Measurements = &w.Measurements
	}
	return v
}

func reasonView(p *flow.Problem) *gen.Reason {
	if p == nil {
		return nil
	}
	return &gen.Reason{Code: p.Code, Detail: p.Detail, Next: optional(p.Fix)}
}

func factViews(facts []permit.NamedFact) []gen.Fact {
	views := make([]gen.Fact, len(facts))
	for i, f := range facts {
		views[i] = gen.Fact{Name: f.Name, Holds: f.Holds, Why: f.Why, Fix: optional(f.Fix)}
	}
	return views
}
