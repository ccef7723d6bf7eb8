package workspace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// Create admits a workspace and starts its create flow, in the caller's transaction. It returns *Refused when a fact does
// not hold, ErrInvalid for a spec that no site can serve. After the commit call Wake.
func (s *Service) Create(ctx context.Context, tx pgx.Tx, who audit.Actor, spec CreateSpec) (Workspace, Operation, audit.ID, error) {
	w, op, entry, err := s.create(ctx, tx, who, spec)
	if err != nil {
		return Workspace{}, Operation{}, 0, fmt.Errorf("creating workspace: %w", err)
	}
	return w, op, entry, nil
}

func (s *Service) create(ctx context.Context, tx pgx.Tx, who audit.Actor, spec CreateSpec) (Workspace, Operation, audit.ID, error) {
	fail := func(err error) (Workspace, Operation, audit.ID, error) { return Workspace{}, Operation{}, 0, err }
	site, err := s.admit(who, spec)
	if err != nil {
		return fail(err)
	}
	id := strings.ToLower(ulid.Make().String())
	if _, err := s.line(site, id, 1); err != nil {
		return fail(err)
	}
	// A guest that could get no key would boot for nothing.
	facts, err := s.cfg.Permit.ReleaseFacts(ctx, tx, permit.FactQuery{
		Workspace: id, Project: spec.Project, Dataset: spec.Dataset,
		Person: who.Subject, Image: spec.Image, Site: spec.Site,
	})
	if err != nil {
		return fail(err)
	}
	if missing := untrue(facts); len(missing) > 0 {
		return fail(&Refused{Facts: missing})
	}
	r := run{
		Workspace: id, Project: spec.Project, Image: spec.Image, Site: spec.Site, Flavor: spec.Flavor, DataGiB: spec.DataGiB,
		Generation: 1, Request: spec.Request,
	}
	operation, err := flow.Start(ctx, tx, s.cfg.Flow, kindCreate, subject(id), spec.Request, r)
	if err != nil {
		return fail(err)
	}
	if err := change(ctx, tx, "insert", named{
		"id": id, "name": spec.Name, "project": spec.Project, "dataset": spec.Dataset, "image": spec.Image,
		"site": spec.Site, "flavor": spec.Flavor, "data_gib": spec.DataGiB, "owner": who.Subject, "simulated": site.TEE.Simulated(),
	}); err != nil {
		return fail(err)
	}
	return s.answer(ctx, tx, operation, audit.Entry{
		Actor: who, Action: "workspace.create", Object: subject(id), Project: spec.Project,
		Outcome: audit.Success, Request: spec.Request, Details: map[string]any{
			"operation": string(operation), "dataset": spec.Dataset,
			"image": spec.Image, "site": spec.Site, "flavor": spec.Flavor, "data_gib": spec.DataGiB,
		},
	}, id)
}

// admit checks what can be known without asking anyone.
func (s *Service) admit(who audit.Actor, spec CreateSpec) (*Site, error) {
	site := s.sites[spec.Site]
	switch {
	case who.Subject == "":
		return nil, fmt.Errorf("%w: a workspace belongs to somebody", ErrInvalid)
	case spec.Name == "" || utf8.RuneCountInString(spec.Name) > 100 || !utf8.ValidString(spec.Name) || strings.ContainsFunc(spec.Name, unicode.IsControl):
		return nil, fmt.Errorf("%w: name must have 1 to 100 printable characters", ErrInvalid)
	case spec.Project == "" || spec.Dataset == "" || spec.Image == "":
		return nil, fmt.Errorf("%w: project, dataset and image must be named", ErrInvalid)
	case site == nil:
		return nil, fmt.Errorf("%w: there is no site %q", ErrInvalid, spec.Site)
	case !slices.Contains(site.Flavors, spec.Flavor):
		return nil, fmt.Errorf("%w: flavor %q is not offered at %s; choose one of %s", ErrInvalid, spec.Flavor, site.Name, strings.Join(site.Flavors, ", "))
	case spec.DataGiB < 1 || spec.DataGiB > site.MaxDataGiB:
		return nil, fmt.Errorf("%w: the data volume must have 1 to %d GiB", ErrInvalid, site.MaxDataGiB)
	}
	return site, nil
}

func untrue(f permit.FactSet) []permit.NamedFact {
	return slices.DeleteFunc(factList(f), func(n permit.NamedFact) bool { return n.Holds })
}

func factList(f permit.FactSet) []permit.NamedFact {
	return []permit.NamedFact{{Name: "permit", Fact: f.Permit}, {Name: "project", Fact: f.Project}, {Name: "image", Fact: f.Image}, {Name: "no_freeze", Fact: f.NoFreeze}}
}

// answer writes the entry of what a person asked for and reads back what they are told.
func (s *Service) answer(ctx context.Context, tx pgx.Tx, operation flow.ID, e audit.Entry, id string) (Workspace, Operation, audit.ID, error) {
	entry, err := s.cfg.Audit.Append(ctx, tx, e)
	if err != nil {
		return Workspace{}, Operation{}, 0, err
	}
	w, err := readOne(ctx, tx, id)
	if err != nil {
		return Workspace{}, Operation{}, 0, err
	}
	status, err := flow.Get(ctx, tx, operation)
	if err != nil {
		return Workspace{}, Operation{}, 0, err
	}
	return w, operationOf(status, w.Project), entry, nil
}

// Get returns one workspace, deleted ones included.
func (s *Service) Get(ctx context.Context, id string) (Workspace, error) {
	return readOne(ctx, s.cfg.DB, id)
}

// List returns workspaces in order of id, which is the order of their creation.
func (s *Service) List(ctx context.Context, f Filter) ([]Workspace, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	rows, err := s.cfg.DB.Query(ctx, queries["list"], named{
		"after": f.After, "projects": f.Projects, "owner": f.Owner, "site": f.Site,
		"state": string(f.State), "limit": min(f.Limit, 1000),
	})
	if err != nil {
		return nil, fmt.Errorf("listing workspaces: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Workspace])
	if err != nil {
		return nil, fmt.Errorf("listing workspaces: %w", err)
	}
	return list, nil
}

// Delete refuses all further releases with the commit of the caller's transaction, and starts the delete flow. It works
// from every state. Asked again, it returns the deletion under way; a parked one is resumed.
func (s *Service) Delete(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	w, op, entry, err := s.delete(ctx, tx, who, id, request)
	if err != nil {
		return Workspace{}, Operation{}, 0, fmt.Errorf("deleting workspace %s: %w", id, err)
	}
	return w, op, entry, nil
}

func (s *Service) delete(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	fail := func(err error) (Workspace, Operation, audit.ID, error) { return Workspace{}, Operation{}, 0, err }
	// Flow rows are locked before the workspace's, as the steps do it.
	if err := s.cfg.Flow.Supersede(ctx, tx, subject(id), kindDelete, "the workspace is deleted"); err != nil {
		return fail(err)
	}
	w, err := readOne(ctx, tx, id)
	if err != nil {
		return fail(err)
	}
	if w.State == Deleted {
		return fail(fmt.Errorf("%w: it is deleted already", ErrState))
	}
	entry := audit.Entry{
		Actor: who, Action: "workspace.delete", Object: subject(id), Project: w.Project, Outcome: audit.Success, Request: request,
		Details: map[string]any{"from": string(w.State)},
	}
	live, ok, err := flow.Live(ctx, tx, subject(id))
	if err != nil {
		return fail(err)
	}
	if ok {
		if live.State == flow.StateParked {
			if err := s.cfg.Flow.Resume(ctx, tx, live.ID); err != nil {
				return fail(err)
			}
		}
		entry.Details["operation"] = string(live.ID)
		return s.answer(ctx, tx, live.ID, entry, id)
	}
	r, err := s.runOf(ctx, tx, w, request)
	if err != nil {
		return fail(err)
	}
	operation, err := flow.Start(ctx, tx, s.cfg.Flow, kindDelete, subject(id), request, r)
	if err != nil {
		return fail(busy(err))
	}
	if err := change(ctx, tx, "delete", named{"id": id}); err != nil {
		return fail(err)
	}
	// From this commit on no key leaves for this workspace; what follows only cleans up.
	if err := s.cfg.Broker.Disarm(ctx, tx, id); err != nil {
		return fail(err)
	}
	if err := s.cfg.Broker.EndLease(ctx, tx, id, "the workspace is deleted"); err != nil {
		return fail(err)
	}
	entry.Details["operation"] = string(operation)
	return s.answer(ctx, tx, operation, entry, id)
}

// Reboot ends the lease, restarts the guest and arms its generation again. A suspended workspace needs AllowReboot.
func (s *Service) Reboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	w, op, entry, err := s.reboot(ctx, tx, who, "workspace.reboot", nil, id, request, Ready, Stopped, Failed)
	if err != nil {
		return Workspace{}, Operation{}, 0, fmt.Errorf("rebooting workspace %s: %w", id, err)
	}
	return w, op, entry, nil
}

// AllowReboot lets a suspended generation boot once more, in the name of who, and starts that reboot.
func (s *Service) AllowReboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	w, op, entry, err := s.reboot(ctx, tx, who, "workspace.allow_reboot", &who, id, request, Ready, Stopped, Failed, Suspended)
	if err != nil {
		return Workspace{}, Operation{}, 0, fmt.Errorf("allowing a reboot of workspace %s: %w", id, err)
	}
	return w, op, entry, nil
}

func (s *Service) reboot(ctx context.Context, tx pgx.Tx, who audit.Actor, action string, allowed *audit.Actor, id, request string, from ...State) (Workspace, Operation, audit.ID, error) {
	fail := func(err error) (Workspace, Operation, audit.ID, error) { return Workspace{}, Operation{}, 0, err }
	w, err := readOne(ctx, tx, id)
	if err != nil {
		return fail(err)
	}
	if !slices.Contains(from, w.State) || w.ReadyAt == nil || w.ServerID == "" {
		return fail(notNow(w))
	}
	if _, ok := s.sites[w.Site]; !ok {
		return fail(fmt.Errorf("%w: site %s is not configured any more", ErrState, w.Site))
	}
	r, err := s.runOf(ctx, tx, w, request)
	if err != nil {
		return fail(err)
	}
	r.AllowedBy = allowed
	operation, err := flow.Start(ctx, tx, s.cfg.Flow, kindReboot, subject(id), request, r)
	if err != nil {
		return fail(busy(err))
	}
	if err := change(ctx, tx, "reboot", named{"id": id, "from": from}); err != nil {
		return fail(err)
	}
	return s.answer(ctx, tx, operation, audit.Entry{
		Actor: who, Action: action, Object: subject(id), Project: w.Project, Outcome: audit.Success,
		Request: request, Details: map[string]any{"operation": string(operation), "from": string(w.State), "generation": w.Generation},
	}, id)
}

func notNow(w Workspace) error {
	switch {
	case w.State == Suspended:
		return fmt.Errorf("%w: it is suspended; who may allow a reboot does so", ErrState)
	case w.State == Creating || w.State == Rebooting || w.State == Deleting:
		return fmt.Errorf("%w: it is %s", ErrBusy, w.State)
	case w.State == Failed && w.ServerID == "":
		return fmt.Errorf("%w: it has no server; delete it and create another", ErrState)
	}
	return fmt.Errorf("%w: it is %s", ErrState, w.State)
}

func busy(err error) error {
	if errors.Is(err, flow.ErrBusy) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// runOf begins a flow on a workspace with what is on record about its resources.
func (s *Service) runOf(ctx context.Context, tx pgx.Tx, w Workspace, request string) (run, error) {
	r := run{
		Workspace: w.ID, Project: w.Project, Image: w.Image, Site: w.Site, Flavor: w.Flavor, DataGiB: w.DataGiB, Generation: w.Generation,
		Request: request, Line: w.Line, Measurements: w.Measurements,
	}
	rows, err := tx.Query(ctx, queries["resources"], named{"workspace": w.ID})
	if err != nil {
		return run{}, fmt.Errorf("reading the resources of workspace %s: %w", w.ID, err)
	}
	ids := map[string]*string{roleKey: &r.SecretID, roleGroup: &r.GroupID, rolePort: &r.PortID, roleData: &r.DataID, roleRoot: &r.RootID, roleServer: &r.ServerID}
	var role, id string
	if _, err := pgx.ForEachRow(rows, []any{&role, &id}, func() error {
		*ids[role] = id
		return nil
	}); err != nil {
		return run{}, fmt.Errorf("reading the resources of workspace %s: %w", w.ID, err)
	}
	return r, nil
}

// Wake makes the runner look for work now; call it after the commit of a transaction that started an operation.
func (s *Service) Wake() { s.cfg.Flow.Wake() }
