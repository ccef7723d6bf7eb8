package workspace

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// Kinds of flows, which are the kinds of operations.
const (
	kindCreate = "create"
	kindReboot = "reboot"
	kindDelete = "delete"
)

// run is what a flow carries from step to step: no secrets, and of people none but who allowed a reboot.
type run struct {
	Workspace  string `json:"workspace"`
	Project    string `json:"project"`
	Image      string `json:"image"`
	Site       string `json:"site"`
	Flavor     string `json:"flavor"`
	DataGiB    int    `json:"data_gib"`
	Generation int    `json:"generation"`
	Request    string `json:"request"`

	FlavorID     string   `json:"flavor_id,omitempty"`
	VCPUs        int      `json:"vcpus,omitempty"`
	MemoryMiB    int      `json:"memory_mib,omitempty"`
	NetworkID    string   `json:"network_id,omitempty"`
	KernelID     string   `json:"kernel_id,omitempty"`
	InitrdID     string   `json:"initrd_id,omitempty"`
	SecretID     string   `json:"secret_id,omitempty"`
	GroupID      string   `json:"group_id,omitempty"`
	PortID       string   `json:"port_id,omitempty"`
	DataID       string   `json:"data_id,omitempty"`
	RootID       string   `json:"root_id,omitempty"`
	ServerID     string   `json:"server_id,omitempty"`
	Line         string   `json:"line,omitempty"`
	Measurements []string `json:"measurements,omitempty"`
	Domain       *domain  `json:"domain,omitempty"` // on TDX

	// AllowedBy is who allowed a suspended generation to boot once more; nil for a plain reboot.
	AllowedBy *audit.Actor `json:"allowed_by,omitempty"`
	// Kept is set when unwinding finds a formatted disk: its volume and its key stay for Delete.
	Kept bool `json:"kept,omitempty"`
	// OldRefusal is the last refused request before a reboot.
	OldRefusal string `json:"old_refusal,omitempty"`
	// LookedOnce is set between the two sweeps of a deletion.
	LookedOnce bool `json:"looked_once,omitempty"`
}

func subject(workspace string) string { return "workspace/" + workspace }

// site finds the run's site, which an operator may have taken out of the configuration since.
func (s *Service) site(r *run) (*Site, error) {
	site, ok := s.sites[r.Site]
	if !ok {
		return nil, flow.Fatal(problem(codeConfig, "an operator puts the site back into the configuration; then delete the workspace, or reboot it if it was ready before",
			"site %s is not configured any more", r.Site))
	}
	return site, nil
}

// on makes a step out of a function that needs the site.
func (s *Service) on(fn func(ctx context.Context, site *Site, r *run) error) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		site, err := s.site(r)
		if err != nil {
			return err
		}
		return fn(ctx, site, r)
	}
}

// system is the actor of what flows do: a person asked for the operation, siestad takes its steps.
var system = audit.Actor{Kind: audit.System, Subject: "siestad"}

// record writes the audit entry of a step or of an operation's end, and what the end means for the workspace.
func (s *Service) record(kind string) func(context.Context, pgx.Tx, *run, flow.Event) error {
	return func(ctx context.Context, tx pgx.Tx, r *run, e flow.Event) error {
		entry := audit.Entry{
			Actor: system, Object: subject(r.Workspace), Project: r.Project, Request: r.Request, Outcome: audit.Success,
			Details: map[string]any{"operation": string(e.Flow), "kind": kind, "site": r.Site, "generation": r.Generation},
		}
		if e.Step != "" {
			entry.Details["step"] = e.Step
		}
		if len(e.Calls) > 0 {
			entry.Details["calls"] = shown(e.Calls)
		}
		if e.Problem != nil {
			entry.Code = e.Problem.Code
			entry.Details["problem"] = printable(e.Problem.Detail, 500)
		}
		switch e.Kind {
		case flow.StepDone:
			entry.Action = "workspace.step.done"
		case flow.StepUndone:
			entry.Action = "workspace.step.undone"
		case flow.StepFailed:
			entry.Action, entry.Outcome = "workspace.step.failed", audit.Failed
		case flow.Parked:
			entry.Action, entry.Outcome = "workspace."+kind+".parked", audit.Failed
			if kind == kindCreate { // what it left stands until the workspace is deleted
				if err := s.fail(ctx, tx, kind, r, e.Problem); err != nil {
					return err
				}
			}
		case flow.Failed:
			entry.Action, entry.Outcome = "workspace."+kind+".failed", audit.Failed
			if err := s.fail(ctx, tx, kind, r, e.Problem); err != nil {
				return err
			}
		case flow.Succeeded:
			entry.Action = "workspace." + map[string]string{kindCreate: "ready", kindReboot: "rebooted", kindDelete: "deleted"}[kind]
		default:
			return nil
		}
		_, err := s.cfg.Audit.Append(ctx, tx, entry)
		return err
	}
}

// fail shows on the workspace that its operation came to nothing. Nobody waits for its guest any more: none stays armed.
func (s *Service) fail(ctx context.Context, tx pgx.Tx, kind string, r *run, p *flow.Problem) error {
	if err := change(ctx, tx, "fail", named{"id": r.Workspace, "reason": p}); err != nil {
		return err
	}
	if kind == kindReboot {
		return s.cfg.Broker.Unarm(ctx, tx, r.Workspace, r.Generation, r.AllowedBy != nil, "its reboot failed")
	}
	return s.disarm(ctx, tx, r)
}

// shown are the calls as they enter an audit entry, few and short enough for it.
func shown(calls []flow.Call) []map[string]any {
	const limit = 20
	if len(calls) > limit {
		calls = calls[len(calls)-limit:]
	}
	out := make([]map[string]any, len(calls))
	for i, c := range calls {
		out[i] = map[string]any{"service": c.Service, "method": c.Method, "path": printable(c.Path, 200), "status": c.Status, "request": c.Request}
	}
	return out
}

// printable bounds text from elsewhere before it enters an entry.
func printable(s string, limit int) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "?")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// Trace collects the calls that a step makes, in the form in which flows keep them. It is flow.Config's Trace.
func Trace(ctx context.Context) (context.Context, func() []flow.Call) {
	ctx, trace := openstack.WithTrace(ctx)
	return ctx, func() []flow.Call {
		var calls []flow.Call
		for _, c := range trace.Calls() {
			id := c.RequestID
			if id == "" {
				id = c.Sent
			}
			calls = append(calls, flow.Call{Service: c.Service, Method: c.Method, Path: c.Path, Status: c.Status, Request: id})
		}
		return calls
	}
}

// removal takes one thing away and waits until the cloud says that it is gone.
type removal struct {
	what   string
	id     *string // in the run, so that a thing that no longer answers to its name is still waited for
	find   func(ctx context.Context) (string, error)
	going  func(ctx context.Context, id string) (bool, error) // whether it is being deleted; NotFound when it is gone
	delete func(ctx context.Context, id string) error
}

func (m removal) do(ctx context.Context) error {
	for {
		if *m.id == "" {
			id, err := m.find(ctx)
			if absent(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("finding the %s to delete: %w", m.what, err)
			}
			*m.id = id
		}
		going, err := m.going(ctx, *m.id)
		if err == nil && !going {
			if err = m.delete(ctx, *m.id); err == nil {
				_, err = m.going(ctx, *m.id)
			}
		}
		switch {
		case absent(err):
			*m.id = "" // and look for another of that name
		case openstack.KindOf(err) == openstack.Conflict:
			return flow.Again(pollCloud, fmt.Sprintf("the %s is busy: %s", m.what, err))
		case err != nil:
			return fmt.Errorf("deleting the %s: %w", m.what, err)
		default:
			return flow.Again(pollCloud, "waiting for the "+m.what+" to be gone")
		}
	}
}

func (s *Service) removeServer(ctx context.Context, site *Site, r *run) error {
	return removal{
		what: "server", id: &r.ServerID,
		find: func(ctx context.Context) (string, error) {
			srv, err := site.Client.ServerByName(ctx, s.name(r.Workspace, roleServer, r.Generation))
			return s.orNamed(ctx, site, "server", s.name(r.Workspace, roleServer, r.Generation), srv.ID, err)
		},
		going: func(ctx context.Context, id string) (bool, error) {
			srv, err := site.Client.Server(ctx, id)
			return srv.TaskState == "deleting", err
		},
		delete: site.Client.DeleteServer,
	}.do(ctx)
}

func (s *Service) removeVolume(ctx context.Context, site *Site, r *run, role string, id *string) error {
	name := s.name(r.Workspace, role, r.Generation)
	return removal{
		what: role + " volume", id: id,
		find: func(ctx context.Context) (string, error) {
			v, err := site.Client.VolumeByName(ctx, name)
			return s.orNamed(ctx, site, "volume", name, v.ID, err)
		},
		going: func(ctx context.Context, id string) (bool, error) {
			v, err := site.Client.Volume(ctx, id)
			return v.Status == "deleting", err
		},
		delete: site.Client.DeleteVolume,
	}.do(ctx)
}

func (s *Service) removePort(ctx context.Context, site *Site, r *run) error {
	name := s.name(r.Workspace, rolePort, r.Generation)
	return removal{
		what: "port", id: &r.PortID,
		find: func(ctx context.Context) (string, error) { return s.named(ctx, site, "port", name) },
		going: func(ctx context.Context, id string) (bool, error) {
			_, err := site.Client.Port(ctx, id)
			return false, err
		},
		delete: site.Client.DeletePort,
	}.do(ctx)
}

func (s *Service) removeGroup(ctx context.Context, site *Site, r *run) error {
	name := s.name(r.Workspace, roleGroup, r.Generation)
	return removal{
		what: "security group", id: &r.GroupID,
		find: func(ctx context.Context) (string, error) { return s.named(ctx, site, "security group", name) },
		going: func(ctx context.Context, id string) (bool, error) {
			return false, site.Client.SecurityGroupExists(ctx, id) // rules that others added must not hold it here
		},
		delete: site.Client.DeleteSecurityGroup,
	}.do(ctx)
}

// orNamed takes one of several things of the same name where a lookup refuses to choose: all of them are to go.
func (s *Service) orNamed(ctx context.Context, site *Site, kind, name, id string, err error) (string, error) {
	if openstack.KindOf(err) == openstack.Conflict {
		return s.named(ctx, site, kind, name)
	}
	return id, err
}

// named finds one of the things of that kind and name.
func (s *Service) named(ctx context.Context, site *Site, kind, name string) (string, error) {
	found, err := site.Client.Named(ctx, kind, name)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", &openstack.Error{Kind: openstack.NotFound, Op: "finding " + kind, Object: name}
	}
	return found[0].ID, nil
}

// during gives a step time, and says so where the zero would mean the default of a flow.
func during(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
