package workspace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// deleteFlow takes everything away, the key first. It works from names, not from what a create flow remembers, so it does
// not matter how far that came. It is never unwound: a step that cannot go on parks it, and asking for the deletion again
// resumes it.
func (s *Service) deleteFlow() flow.Flow[run] {
	patience := s.patience()
	return flow.Flow[run]{Kind: kindDelete, OneWay: true, Record: s.record(kindDelete), Parked: deleteParked, Steps: []flow.Step[run]{
		{Name: "settle", Do: s.settle, Deadline: patience},
		{Name: "shred", Do: s.shredKey, Commit: s.gone(roleKey), Deadline: patience},
		{Name: "server", Do: s.on(plainly(s.removeServer)), Commit: s.gone(roleServer), Deadline: patience},
		{Name: "data-volume", Do: s.on(plainly(func(ctx context.Context, site *Site, r *run) error {
			return s.removeVolume(ctx, site, r, roleData, &r.DataID)
		})), Commit: s.gone(roleData), Deadline: patience},
		{Name: "root-volume", Do: s.on(plainly(s.undoRoot)), Commit: s.gone(roleRoot), Deadline: patience},
		{Name: "port", Do: s.on(plainly(s.removePort)), Commit: s.gone(rolePort), Deadline: patience},
		{Name: "security-group", Do: s.on(plainly(s.removeGroup)), Commit: s.gone(roleGroup), Deadline: patience},
		{Name: "images", Do: s.on(plainly(s.releaseImages)), Deadline: patience},
		{Name: "sweep", Do: s.on(plainly(s.sweep)), Deadline: patience},
		{Name: "sweep-again", Do: s.on(plainly(s.sweepAgain)), Deadline: patience, Commit: func(ctx context.Context, tx pgx.Tx, r *run) error {
			return change(ctx, tx, "deleted", named{"id": r.Workspace})
		}},
	}}
}

// patience is how long the cloud may take to let go of a resource.
func (s *Service) patience() time.Duration { return during(s.cfg.Times.Delete, time.Hour) }

// settle waits until the flow that the deletion has superseded can send no more calls. Releases are refused already: the
// transaction that started this flow disarmed the guest.
func (s *Service) settle(ctx context.Context, r *run) error {
	d, err := s.cfg.Flow.Quiet(ctx, subject(r.Workspace))
	if err != nil {
		return err
	}
	if d > 0 {
		return flow.Again(min(d, 200*time.Millisecond), "waiting for the interrupted operation to stop")
	}
	return nil
}

func (s *Service) shredKey(ctx context.Context, r *run) error {
	err := s.shred(ctx, r.Workspace)
	if err != nil && openstackError(err) {
		return wrap(codeCloud, "the key is destroyed here; the operator of "+r.Site+" makes the key manager reachable; then ask for the deletion again, so that its secret goes, too", err)
	}
	return err
}

// plainly makes every failure of the cloud one that is tried again: there is no way back from a deletion.
func plainly(fn func(context.Context, *Site, *run) error) func(context.Context, *Site, *run) error {
	return func(ctx context.Context, site *Site, r *run) error {
		err := fn(ctx, site, r)
		var cloud *openstack.Error
		if errors.As(err, &cloud) {
			return wrap(codeCloud, "the operator of "+site.Name+" removes what is in the way; then ask for the deletion again", err)
		}
		return err
	}
}

// sweep deletes whatever still bears one of the workspace's names: what a crash, a duplicate or a late answer left.
func (s *Service) sweep(ctx context.Context, site *Site, r *run) error {
	left, err := s.leftovers(ctx, site, r)
	if err != nil || len(left) == 0 {
		return err
	}
	var names []string
	for _, o := range left {
		if err := s.discard(ctx, o); err != nil {
			return fmt.Errorf("deleting %s %s: %w", o.Kind, o.Name, err)
		}
		names = append(names, o.Kind+" "+o.Name)
	}
	return flow.Again(pollCloud, "waiting to be gone: "+strings.Join(names, ", "))
}

// sweepAgain looks once more after a while, for a service that answered late.
func (s *Service) sweepAgain(ctx context.Context, site *Site, r *run) error {
	if !r.LookedOnce {
		r.LookedOnce = true
		return flow.Again(during(s.cfg.Times.SweepGap, 10*time.Second), "looking once more in a moment")
	}
	return s.sweep(ctx, site, r)
}

type leftover struct {
	openstack.Resource
	client *openstack.Client
}

// leftovers lists what bears the workspace's names. The key manager's credential is asked for secrets only: it may be
// allowed nothing else.
func (s *Service) leftovers(ctx context.Context, site *Site, r *run) ([]leftover, error) {
	var out []leftover
	all, err := site.Client.Leftovers(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		if strings.HasPrefix(o.Name, s.prefix(r.Workspace)) {
			out = append(out, leftover{o, site.Client})
		}
	}
	if site.Keys == site.Client {
		return out, nil
	}
	secrets, err := site.Keys.Named(ctx, "secret", s.name(r.Workspace, roleKey, r.Generation))
	if err != nil {
		return nil, err
	}
	for _, o := range secrets {
		out = append(out, leftover{o, site.Keys})
	}
	return out, nil
}

func (s *Service) discard(ctx context.Context, o leftover) error {
	switch o.Kind {
	case "server":
		return o.client.DeleteServer(ctx, o.ID)
	case "volume":
		return o.client.DeleteVolume(ctx, o.ID)
	case "port":
		return o.client.DeletePort(ctx, o.ID)
	case "security group":
		return o.client.DeleteSecurityGroup(ctx, o.ID)
	case "secret":
		return o.client.DeleteSecret(ctx, o.ID)
	}
	return flow.Fatal(problem(codeCloud, "the operator deletes it and asks for the deletion again", "%s %s bears the workspace's name and was not made by siestad", o.Kind, o.Name))
}
