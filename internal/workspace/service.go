package workspace

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Create admits a workspace and starts its create flow, in the caller's transaction. It returns *Refused when a fact does
// not hold, ErrInvalid for a spec that no site can serve.
func (s *Service) Create(ctx context.Context, tx pgx.Tx, who audit.Actor, spec CreateSpec) (Workspace, Operation, audit.ID, error) {
	return Workspace{}, Operation{}, 0, errUnwritten
}

// Get returns one workspace, deleted ones included.
func (s *Service) Get(ctx context.Context, id string) (Workspace, error) {
	return Workspace{}, errUnwritten
}

// List returns workspaces in order of id, newest last.
func (s *Service) List(ctx context.Context, f Filter) ([]Workspace, error) {
	return nil, errUnwritten
}

// Delete refuses all further releases at once and starts the delete flow, from any state.
func (s *Service) Delete(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	return Workspace{}, Operation{}, 0, errUnwritten
}

// Reboot ends the lease, restarts the guest and arms its generation again.
func (s *Service) Reboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	return Workspace{}, Operation{}, 0, errUnwritten
}

// AllowReboot lifts the suspension of a generation for one boot and starts a reboot.
func (s *Service) AllowReboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (Workspace, Operation, audit.ID, error) {
	return Workspace{}, Operation{}, 0, errUnwritten
}

// Explain says which facts hold for a workspace and who can fix the others.
func (s *Service) Explain(ctx context.Context, id string) (Explanation, error) {
	return Explanation{}, errUnwritten
}

// Operation returns one operation with its steps.
func (s *Service) Operation(ctx context.Context, id string) (Operation, error) {
	return Operation{}, errUnwritten
}

// Operations returns the operations of a workspace, newest first.
func (s *Service) Operations(ctx context.Context, workspace string) ([]Operation, error) {
	return nil, errUnwritten
}

// Wake makes the runner look for work now; call it after the commit of a transaction that started an operation.
func (s *Service) Wake() {}

// Run watches ready workspaces for servers that went down by themselves, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	return errUnwritten
}

var errUnwritten = errors.New("workspace: not written yet")
