package workspace

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Explain says which facts of a key release hold for a workspace, who can fix the others, and what would get it going.
func (s *Service) Explain(ctx context.Context, id string) (Explanation, error) {
	w, err := readOne(ctx, s.cfg.DB, id)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Workspace: w}
	state, err := s.cfg.Broker.State(ctx, id)
	switch {
	case errors.Is(err, keybroker.ErrNotFound):
		if e.Facts, err = s.factsWithoutGuest(ctx, w); err != nil {
			return Explanation{}, fmt.Errorf("explaining workspace %s: %w", id, err)
		}
	case err != nil:
		return Explanation{}, fmt.Errorf("explaining workspace %s: %w", id, err)
	default:
		e.Stage, e.Guest, e.Suspended, e.Destruction = state.Stage, state.Detail, state.Suspended, state.Destruction
		if state.LastRefusal != nil {
			e.Refusal, e.Decision = state.LastRefusal.Code, state.LastRefusal.ID
		}
		if e.Facts, err = s.cfg.Broker.Explain(ctx, id); errors.Is(err, keybroker.ErrNotFound) {
			e.Facts, err = s.factsWithoutGuest(ctx, w)
		}
		if err != nil {
			return Explanation{}, fmt.Errorf("explaining workspace %s: %w", id, err)
		}
	}
	e.Next = next(e, state)
	// Nothing goes on by itself where an operation is parked: what stands in its way comes first.
	live, ok, err := flow.Live(ctx, s.cfg.DB, subject(id))
	if err != nil {
		return Explanation{}, fmt.Errorf("explaining workspace %s: %w", id, err)
	}
	if ok && live.State == flow.StateParked {
		e.Next = "its operation (" + live.Kind + ") stands still: " + live.Problem.Fix
	}
	return e, nil
}

// factsWithoutGuest are the facts of a workspace that the broker has not armed yet.
func (s *Service) factsWithoutGuest(ctx context.Context, w Workspace) ([]permit.NamedFact, error) {
	var set permit.FactSet
	err := postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) (err error) {
		set, err = s.cfg.Permit.ReleaseFacts(ctx, tx, permit.FactQuery{
			Workspace: w.ID, Project: w.Project, Dataset: w.Dataset, Person: w.Owner,
			Image: w.Image, Site: w.Site,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return append(factList(set), permit.NamedFact{Name: "guest", Fact: permit.Fact{Why: "no guest of this workspace is armed", Fix: "create or reboot arms it"}}), nil
}

// next is the one sentence that a person in a hurry reads.
func next(e Explanation, state keybroker.State) string {
	w := e.Workspace
	switch w.State {
	case Deleted:
		return "the workspace is deleted" + because(e.Destruction)
	case Deleting:
		return "it is being deleted; its key can no longer be released"
	}
	if state.Suspended || w.State == Suspended {
		p := standsSuspended(state)
		return p.Detail + ": " + p.Fix
	}
	for _, f := range e.Facts {
		if !f.Holds && f.Fix != "" && (f.Name == "permit" || f.Name == "project" || f.Name == "image" || f.Name == "no_freeze") {
			return f.Why + ": " + f.Fix
		}
	}
	switch w.State {
	case Ready:
		return "nothing: it is ready"
	case Stopped:
		return "its owner or an operator reboots it"
	case Failed:
		if w.ReadyAt != nil && w.ServerID != "" {
			return "its owner or an operator reboots it, or deletes it"
		}
		return "its owner deletes it and creates another"
	}
	return "its operation is under way; its steps say what it waits for"
}
