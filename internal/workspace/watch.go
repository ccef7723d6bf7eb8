package workspace

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// watched is a workspace whose turn it is to be looked at.
type watched struct {
	ID         string
	Project    string
	Site       string
	State      State
	Generation int
	Version    int64
	Reason     *flow.Problem
	ServerID   string
}

// Run watches ready workspaces for servers that went down by themselves, failed ones for guests that came up after all, and
// both and stopped ones for generations that the broker suspended, until ctx ends. It only shows what it sees: nothing is
// armed again without somebody asking.
func (s *Service) Run(ctx context.Context) error {
	every := during(s.cfg.Times.Watch, time.Minute)
	tick := time.NewTicker(min(every, 5*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.watch(ctx, every); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("watching workspaces failed", zap.Error(err))
			}
		}
	}
}

// watch looks at the workspaces that are due. The row's next turn is moved on first, so of several replicas one looks.
func (s *Service) watch(ctx context.Context, every time.Duration) error {
	rows, err := s.cfg.DB.Query(ctx, queries["watch"], named{"every": every.Seconds(), "limit": 64})
	if err != nil {
		return err
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByName[watched])
	if err != nil {
		return err
	}
	for _, w := range due {
		if err := s.look(ctx, w); err != nil {
			s.cfg.Logger.Info("looking at a workspace failed", zap.String("workspace", w.ID), zap.Error(err))
		}
	}
	return nil
}

func (s *Service) look(ctx context.Context, w watched) error {
	state, err := s.cfg.Broker.State(ctx, w.ID)
	if err != nil && !errors.Is(err, keybroker.ErrNotFound) {
		return err
	}
	if state.Suspended {
		return s.observe(ctx, w, Suspended, standsSuspended(state))
	}
	site, ok := s.sites[w.Site]
	late := w.State == Failed && state.Stage == "ready" && state.LeaseLive && // its reboot failed, and the guest says that it is ready
		w.Reason != nil && w.Reason.Code != codeFlavor // which is no answer to what the server was given
	if w.State != Ready && !late || !ok || w.ServerID == "" {
		return nil
	}
	srv, err := site.Client.Server(ctx, w.ServerID)
	switch {
	case late && err == nil && srv.Status == "ACTIVE":
		return s.observe(ctx, w, Ready, nil)
	case late: // why it failed stays in sight
		return err
	case absent(err):
		return s.observe(ctx, w, Stopped, problem(codeServer, "the operator of "+site.Name+" looks what became of it; the workspace can be deleted", "the server is gone from %s", site.Name))
	case err != nil:
		return err
	case srv.Status == "ERROR":
		return s.observe(ctx, w, Stopped, problem(codeServer, "the operator of "+site.Name+" repairs the server, then reboot the workspace", "the server is in ERROR%s", because(srv.Fault)))
	case srv.Status == "SHUTOFF" && srv.TaskState == "":
		return s.observe(ctx, w, Stopped, problem(codeServer, "reboot the workspace", "the server went down by itself%s", because(state.Detail)))
	}
	return nil
}

// observe shows what was seen, unless somebody has asked for something else meanwhile. p is nil for a ready guest.
func (s *Service) observe(ctx context.Context, w watched, to State, p *flow.Problem) error {
	return postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) error {
		set := named{"id": w.ID, "from": w.State, "version": w.Version, "state": to, "reason": nil}
		entry := audit.Entry{
			Actor: system, Action: "workspace." + string(to), Object: subject(w.ID), Project: w.Project,
			Outcome: audit.Success, Details: map[string]any{"site": w.Site, "generation": w.Generation},
		}
		if p == nil { // the workspace does not tell any more why it had failed
			entry.Details["overcame"] = printable(w.Reason.Code+": "+w.Reason.Detail, 500)
		} else {
			set["reason"], entry.Outcome, entry.Code = p, audit.Failed, p.Code
			entry.Details["problem"] = printable(p.Detail, 500)
		}
		err := change(ctx, tx, "observe", set)
		if errors.Is(err, ErrState) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = s.cfg.Audit.Append(ctx, tx, entry)
		return err
	})
}
