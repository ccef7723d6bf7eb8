package workspace

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// bootSteps wait for a guest from Nova's ACTIVE to an open disk; they end creations and reboots alike.
func (s *Service) bootSteps(from State) []flow.Step[run] {
	t := s.cfg.Times
	patience := during(t.Attest, 10*time.Minute)
	return []flow.Step[run]{
		{Name: "active", Do: s.on(s.awaitActive), Deadline: during(t.Boot, 15*time.Minute)},
		{Name: "attested", Do: s.on(s.awaitStage(1, "its evidence")), Deadline: patience},
		{Name: "unlocked", Do: s.on(s.awaitStage(2, "its disk")), Deadline: patience},
		{
			Name: "ready", Do: s.on(s.awaitStage(3, "the end of its start")), Deadline: patience,
			Commit: func(ctx context.Context, tx pgx.Tx, r *run) error {
				return change(ctx, tx, "ready", named{"id": r.Workspace, "from": from})
			},
		},
	}
}

// awaitActive waits for Nova, and looks whether what Nova embedded in the server is what it was given.
func (s *Service) awaitActive(ctx context.Context, site *Site, r *run) error {
	srv, err := site.Client.Server(ctx, r.ServerID)
	if absent(err) {
		return flow.Fatal(wrap(codeServer, "delete the workspace and create another", err))
	}
	if err != nil {
		return forward(site, err)
	}
	switch srv.Status {
	case "ERROR":
		return flow.Fatal(serverFault(site, srv.Err()))
	case "ACTIVE", "SHUTOFF":
		if srv.TaskState != "" {
			return flow.Again(pollCloud, "the server is "+srv.Status+", "+srv.TaskState)
		}
		// SHUTOFF: a guest that was refused has powered itself off already. The next step says why.
	default:
		return flow.Again(pollCloud, "the server is "+srv.Status)
	}
	if srv.FlavorSpecs != nil && !encrypted(site.TEE, srv.FlavorSpecs) {
		return flow.Fatal(problem(codeFlavor, "the operator of "+site.Name+" looks who changed the flavor", "Nova embedded a flavor in the server that does not ask for encrypted memory"))
	}
	return nil
}

func serverFault(site *Site, err error) error {
	if openstack.KindOf(err) == openstack.Quota { // "no valid host" shows only after Nova has accepted the server
		p := noCapacity(site, err)
		p.Detail = fmt.Sprintf("no capacity at %s: %s", site.Name, err)
		return p
	}
	return wrap(codeServer, "the operator of "+site.Name+" reads the server's fault; then try again", err)
}

// stages in the order in which a guest reports them.
var stages = map[string]int{"attested": 1, "formatted": 1, "unlocked": 2, "ready": 3}

// awaitStage waits until the guest has come at least that far.
func (s *Service) awaitStage(want int, what string) func(context.Context, *Site, *run) error {
	return func(ctx context.Context, site *Site, r *run) error {
		state, done, err := s.reached(ctx, site, r, want)
		if done || err != nil {
			return err
		}
		// A guest that is refused powers off. Nova is asked each time, so that nobody waits for a guest that is gone.
		srv, err := site.Client.Server(ctx, r.ServerID)
		if err != nil && !absent(err) {
			return forward(site, err)
		}
		off := err == nil && srv.Status == "SHUTOFF" && srv.TaskState == ""
		if off || absent(err) || srv.Status == "ERROR" {
			// What it said before it went may have come after the first look. Now there is nothing more to come.
			if state, done, err = s.reached(ctx, site, r, want); done || err != nil {
				return err
			}
			if off {
				return flow.Fatal(poweredOff(newRefusal(state, r), what))
			}
			return flow.Fatal(problem(codeServer, "the operator of "+site.Name+" looks what became of the server", "the server went away while siestad waited for %s", what))
		}
		why := "waiting for the guest: " + what
		if refused := newRefusal(state, r); refused != nil {
			why += fmt.Sprintf("; its last request was refused (%s)", refused.Code)
		}
		return flow.Again(pollGuest, why)
	}
}

// reached asks the broker how far the guest has come, and gives up on one that has given up.
func (s *Service) reached(ctx context.Context, site *Site, r *run, want int) (keybroker.State, bool, error) {
	state, err := s.cfg.Broker.State(ctx, r.Workspace)
	switch {
	case err != nil:
		return state, false, broken(site, err)
	case state.Suspended:
		return state, false, flow.Fatal(standsSuspended(state))
	case stages[state.Stage] >= want:
		return state, true, nil
	case state.Stage == "failed", state.Stage == "stopping":
		return state, false, flow.Fatal(problem(codeGuest, "look at the workspace's image; then try again", "the guest gave up: it reports %q%s", state.Stage, because(state.Detail)))
	}
	return state, false, nil
}

// newRefusal is a refusal of this boot, not of an earlier one.
func newRefusal(state keybroker.State, r *run) *keybroker.LastRefusal {
	if state.LastRefusal == nil || state.LastRefusal.ID == r.OldRefusal {
		return nil
	}
	return state.LastRefusal
}

func poweredOff(refused *keybroker.LastRefusal, what string) *flow.Problem {
	if refused != nil {
		return problem(codeRefused, "explain shows which fact does not hold and who can change that",
			"the guest powered off after its request was refused (%s, decision %s)", refused.Code, refused.ID)
	}
	return problem(codeGuest, "look at the console's last lines, then try again", "the guest powered off while siestad waited for %s", what)
}

func because(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + printable(detail, 200)
}
