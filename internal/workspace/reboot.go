package workspace

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// rebootFlow restarts a guest. The generation is armed again only when Nova shows the server off and the old guest has
// signed that it stopped, or its lease has run out: Nova's word alone would let two guests hold the key. No step is undone: the
// transaction in which a reboot fails takes the arming back, if no guest has used it, and leaves a failed workspace whose
// data is untouched, to be rebooted again or deleted.
func (s *Service) rebootFlow() flow.Flow[run] {
	return flow.Flow[run]{Kind: kindReboot, Record: s.record(kindReboot), Failed: rebootFailed, Steps: append([]flow.Step[run]{
		{Name: "end-lease", Commit: func(ctx context.Context, tx pgx.Tx, r *run) error {
			return s.cfg.Broker.EndLease(ctx, tx, r.Workspace, "reboot")
		}},
		{Name: "stop", Do: s.on(s.stop), Deadline: 10 * time.Minute},
		{Name: "stopped", Do: s.on(s.awaitStopped), Commit: s.rearm, Deadline: during(s.cfg.Times.Stop, 10*time.Minute)},
		{Name: "start", Do: s.on(s.start), Deadline: during(s.cfg.Times.Boot, 15*time.Minute)},
	}, s.bootSteps(Rebooting)...)}
}

func (s *Service) stop(ctx context.Context, site *Site, r *run) error {
	state, err := s.cfg.Broker.State(ctx, r.Workspace)
	if err != nil {
		return broken(site, err)
	}
	if state.LastRefusal != nil {
		r.OldRefusal = state.LastRefusal.ID
	}
	return s.power(site, site.Client.StopServer(ctx, r.ServerID))
}

func (s *Service) start(ctx context.Context, site *Site, r *run) error {
	return s.power(site, site.Client.StartServer(ctx, r.ServerID))
}

func (s *Service) power(site *Site, err error) error {
	if absent(err) {
		return flow.Fatal(wrap(codeServer, "delete the workspace: its server is gone", err))
	}
	return forward(site, err)
}

func (s *Service) awaitStopped(ctx context.Context, site *Site, r *run) error {
	srv, err := site.Client.Server(ctx, r.ServerID)
	switch {
	case err != nil:
		return s.power(site, err)
	case srv.Status == "SHUTOFF" && srv.TaskState == "":
		until, err := s.cfg.Broker.HeldUntil(ctx, r.Workspace)
		if err != nil {
			return broken(site, err)
		}
		if until.IsZero() {
			return nil
		}
		return flow.Again(pollGuest, "the guest went down without a word; its lease has to run out, at "+until.UTC().Format(time.RFC3339))
	case srv.Status == "ERROR":
		return flow.Fatal(serverFault(site, srv.Err()))
	case srv.Status == "ACTIVE" && srv.TaskState == "":
		// Nova gave up stopping it. Asking again is harmless.
		if err := site.Client.StopServer(ctx, r.ServerID); err != nil {
			return s.power(site, err)
		}
	}
	return flow.Again(pollCloud, "waiting for the server to stop: it is "+srv.Status)
}

// rearm lets the generation boot once more. A suspended one needs the person who allowed it, whom the broker records.
func (s *Service) rearm(ctx context.Context, tx pgx.Tx, r *run) error {
	site, err := s.site(r)
	if err != nil {
		return err
	}
	err = s.cfg.Broker.Rearm(ctx, tx, r.Workspace, r.Generation, "reboot")
	if errors.Is(err, keybroker.ErrState) && r.AllowedBy != nil {
		_, err = s.cfg.Broker.AllowReboot(ctx, tx, *r.AllowedBy, r.Workspace)
	}
	return broken(site, err)
}
