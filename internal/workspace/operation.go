package workspace

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/eosc-siesta/siestad/internal/flow"
)

// Operation returns one operation with its steps.
func (s *Service) Operation(ctx context.Context, id string) (Operation, error) {
	status, err := flow.Get(ctx, s.cfg.DB, flow.ID(id))
	if errors.Is(err, flow.ErrNotFound) {
		return Operation{}, fmt.Errorf("reading operation %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Operation{}, err
	}
	w, err := readOne(ctx, s.cfg.DB, strings.TrimPrefix(status.Subject, subject("")))
	if err != nil {
		return Operation{}, err
	}
	return operationOf(status, w.Project), nil
}

// Operations returns the latest operations of a workspace, newest first.
func (s *Service) Operations(ctx context.Context, workspace string) ([]Operation, error) {
	w, err := readOne(ctx, s.cfg.DB, workspace)
	if err != nil {
		return nil, err
	}
	list, err := flow.List(ctx, s.cfg.DB, subject(workspace), 100)
	if err != nil {
		return nil, err
	}
	out := make([]Operation, len(list))
	for i, status := range list {
		out[i] = operationOf(status, w.Project)
	}
	return out, nil
}

func operationOf(f flow.Status, project string) Operation {
	o := Operation{
		ID: string(f.ID), Kind: f.Kind, Workspace: strings.TrimPrefix(f.Subject, subject("")), Project: project,
		State: OperationState(f.State), Detail: f.Detail, Problem: f.Problem, CreatedAt: f.CreatedAt, EndedAt: f.EndedAt,
	}
	if f.State == flow.StateSuperseded { // its problem says by what
		o.State = OperationFailed
	}
	for _, s := range f.Steps {
		o.Steps = append(o.Steps, OperationStep(s))
	}
	return o
}
