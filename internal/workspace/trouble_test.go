package workspace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
)

// impatient starts a process whose steps give up soon.
func (r *rig) impatient(times Times) *rig {
	r.svc, r.runner = r.service(func(_ *flow.Config, c *Config) { c.Times = times })
	flowtest.Run(r.t, r.runner)
	return r
}

// TestNoCapacity exhausts each quota: the operation says what it waits for, then fails with the next step, and leaves nothing.
func TestNoCapacity(t *testing.T) {
	r := newRig(t).impatient(Times{Boot: 300 * time.Millisecond, Volume: 300 * time.Millisecond})
	for name, limits := range map[string]struct {
		quotas cloudsim.Quotas
		noHost bool
		step   string
	}{
		"servers": {quotas: cloudsim.Quotas{Servers: -1}, step: "server"},
		"volumes": {quotas: cloudsim.Quotas{Volumes: -1}, step: "data-volume"},
		"no host": {noHost: true, step: "active"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := flowtest.Context(t)
			r.cloud.SetQuotas(limits.quotas)
			r.cloud.NoValidHost(limits.noHost)
			w, op := r.create(ctx, r.svc)
			status := r.await(ctx, op, flow.StateFailed)
			if p := status.Problem; p.Code != codeCapacity || p.Fix == "" {
				t.Errorf("failed with %+v", p)
			}
			for _, s := range status.Steps {
				if (s.Problem != nil) != (s.Name == limits.step) {
					t.Errorf("step %s has %v", s.Name, s.Problem)
				}
			}
			if got := r.state(ctx, w.ID); got != Failed {
				t.Errorf("workspace is %s", got)
			}
			if err := r.nothing(); err != nil {
				t.Error(err)
			}
			e, err := r.svc.Explain(ctx, w.ID)
			if err != nil || e.Next == "" {
				t.Errorf("%+v (%v)", e, err)
			}
		})
	}
	t.Run("waits and goes on", func(t *testing.T) {
		ctx := flowtest.Context(t)
		r.cloud.SetQuotas(cloudsim.Quotas{SecurityGroups: -1})
		_, op := r.create(ctx, r.svc)
		flowtest.Until(ctx, t, "the operation to wait for capacity", func() (bool, error) {
			got, err := r.svc.Operation(ctx, op.ID)
			return strings.HasPrefix(got.Detail, "waiting for capacity"), err
		})
		r.cloud.SetQuotas(cloudsim.Quotas{})
		r.cloud.NoValidHost(false)
		r.await(ctx, op, flow.StateSucceeded)
	})
}

// nobody's documents admit nothing.
type nobody struct{ keybroker.Policies }

func (nobody) Narrow(context.Context, pgx.Tx, string, string, attest.Policy) (attest.Policy, error) {
	return attest.Policy{}, fmt.Errorf("%w: another firmware", keybroker.ErrDocuments)
}

// TestDocumentsAdmitNothing: the creation ends at once, and says who can change that.
func TestDocumentsAdmitNothing(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	r.broker.Policies = nobody{}
	_, op := r.create(ctx, r.svc)
	got := r.await(ctx, op, flow.StateFailed)
	if got.Problem == nil || got.Problem.Code != codePolicy || !strings.Contains(got.Problem.Fix, "custodian") || !strings.Contains(got.Problem.Detail, "another firmware") {
		t.Errorf("%+v", got.Problem)
	}
}

// TestKeyManagerDown: a creation waits for Barbican to come back, and makes nothing else meanwhile.
func TestKeyManagerDown(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	up := r.cloud.Inject(cloudsim.Fault{Service: "key-manager", Status: http.StatusServiceUnavailable})
	w, op := r.create(ctx, r.svc)
	flowtest.Until(ctx, t, "the step to fail once", func() (bool, error) {
		got, err := r.svc.Operation(ctx, op.ID)
		return got.Problem != nil && got.Problem.Fix != "", err
	})
	if n := r.cloud.Living("volume") + r.cloud.Living("server"); n != 0 {
		t.Errorf("%d things were made without a key", n)
	}
	up()
	r.await(ctx, op, flow.StateSucceeded)

	// The deletion destroys the key first, whatever Barbican says, and ends when Barbican answers.
	up = r.cloud.Inject(cloudsim.Fault{Service: "key-manager", Status: http.StatusServiceUnavailable})
	op = r.begin(ctx, r.svc, r.svc.Delete, w.ID)
	flowtest.Until(ctx, t, "the key to be destroyed", func() (bool, error) {
		var keks int
		err := r.db.QueryRow(ctx, `SELECT count(*) FROM broker_key WHERE kek IS NOT NULL`).Scan(&keks)
		return keks == 0, err
	})
	up()
	r.await(ctx, op, flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestRefusedGuest ends the permit before the guest asks: the creation fails with the refusal's code and leaves nothing.
func TestRefusedGuest(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	r.svc, r.runner = r.service(nil)
	// The permit ends in the transaction that arms the guest: admitted, booted, and refused.
	if _, err := r.db.Exec(ctx, `CREATE FUNCTION end_permits() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN UPDATE permit SET state = 'ended', ended_by = 'test'; RETURN NEW; END $$`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(ctx, `CREATE TRIGGER end_permits AFTER INSERT ON broker_arm FOR EACH ROW EXECUTE FUNCTION end_permits()`); err != nil {
		t.Fatal(err)
	}
	flowtest.Run(t, r.runner)
	w, op := r.create(ctx, r.svc)
	status := r.await(ctx, op, flow.StateFailed)
	if status.Problem.Code != codeRefused || !strings.Contains(status.Problem.Detail, "(permit, decision ") {
		t.Errorf("failed with %+v", status.Problem)
	}
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
	e, err := r.svc.Explain(ctx, w.ID)
	if err != nil || e.Refusal != "permit" || !strings.Contains(e.Next, "custodian") {
		t.Errorf("%+v (%v)", e, err)
	}
}

// TestFormattedDiskOutlivesItsCreation: a guest that dies after it has formatted leaves a failed workspace with its data
// volume and its key, and only Delete takes those away.
func TestFormattedDiskOutlivesItsCreation(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	r.behave = func(stage door.Stage) error {
		if stage == door.Unlocked {
			return errors.New("power cut")
		}
		return nil
	}
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateFailed)
	living := r.living()
	if living["volume"] != 1 || living["secret"] != 1 || living["server"] != 0 || living["port"] != 0 {
		t.Errorf("after the unwinding there are %v", living)
	}
	got, err := r.svc.Get(ctx, w.ID)
	if err != nil || got.State != Failed || got.DataVolumeID == "" || got.ServerID != "" {
		t.Errorf("%+v (%v)", got, err)
	}
	if err := pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error { _, _, _, err := r.svc.Reboot(ctx, tx, operator, w.ID, ""); return err }); !errors.Is(err, ErrState) {
		t.Errorf("rebooting what has no server: %v", err)
	}
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestWatcherShowsWhatWentDown: a server that stops by itself is shown and not started; a second boot suspends, and takes
// somebody's word to boot again.
func TestWatcherShowsWhatWentDown(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	r.mu.Lock()
	guest := r.machines[0]
	r.mu.Unlock()
	guest.Kill()
	flowtest.Until(ctx, t, "the watcher to see it", func() (bool, error) {
		return r.state(ctx, w.ID) == Stopped, r.svc.watch(ctx, 0)
	})
	if boots := r.guests.Load(); boots != 1 {
		t.Fatalf("%d boots", boots)
	}

	// The operator of the cloud starts it: refused, suspended.
	got, err := r.svc.Get(ctx, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.client.StartServer(ctx, got.ServerID); err != nil {
		t.Fatal(err)
	}
	flowtest.Until(ctx, t, "the watcher to see the suspension", func() (bool, error) {
		return r.state(ctx, w.ID) == Suspended, r.svc.watch(ctx, 0)
	})
	e, err := r.svc.Explain(ctx, w.ID)
	if err != nil || !e.Suspended || !strings.Contains(e.Next, "allow a reboot") {
		t.Errorf("%+v (%v)", e, err)
	}
	if err := pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error { _, _, _, err := r.svc.Reboot(ctx, tx, researcher, w.ID, ""); return err }); !errors.Is(err, ErrState) {
		t.Errorf("rebooting a suspended workspace: %v", err)
	}
	// The guest was killed and said nothing: its lease has to run out.
	allowed := r.begin(ctx, r.svc, r.svc.AllowReboot, w.ID)
	flowtest.Until(ctx, t, "the reboot to wait for the old lease", func() (bool, error) {
		var why string
		err := r.db.QueryRow(ctx, `SELECT coalesce(max(f::text), '') FROM flow f WHERE f::text LIKE '%went down without a word%'`).Scan(&why)
		return why != "", err
	})
	if boots := r.guests.Load(); boots != 2 {
		t.Errorf("%d boots while the old guest may hold the key", boots)
	}
	if _, err := r.db.Exec(ctx, `UPDATE broker_lease SET until = now()`); err != nil {
		t.Fatal(err)
	}
	r.await(ctx, allowed, flow.StateSucceeded)
	if got := r.state(ctx, w.ID); got != Ready {
		t.Errorf("%s after the allowed reboot", got)
	}
	if err := pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error {
		if _, _, _, err := r.svc.Reboot(ctx, tx, researcher, w.ID, ""); err != nil {
			return err
		}
		_, _, _, err := r.svc.Reboot(ctx, tx, researcher, w.ID, "")
		return err
	}); !errors.Is(err, ErrBusy) {
		t.Errorf("two reboots at once: %v", err)
	}
}

// TestKilledWhileRebooting: whatever moment a reboot is interrupted at, it boots the guest once and releases one key.
func TestKilledWhileRebooting(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	svc, runner := r.service(nil)
	stop := flowtest.Run(t, runner)
	w, op := r.create(ctx, svc)
	r.await(ctx, op, flow.StateSucceeded)
	stop()
	moments := []flow.Moment{flow.AfterIntent, flow.AfterDo, flow.BeforeCommit, flow.AfterCommit}
	boots := int64(1)
	for i, step := range []string{"end-lease", "stop", "stopped", "start", "active", "attested", "unlocked", "ready"} {
		t.Run(step, func(t *testing.T) {
			ctx := flowtest.Context(t)
			struck := make(chan struct{})
			svc, first := r.service(func(c *flow.Config, _ *Config) {
				done := false
				c.Interrupt = func(p flow.Point) bool {
					if done || p.Step != step || p.At != moments[i%len(moments)] {
						return false
					}
					done = true
					close(struck)
					return true
				}
			})
			flowtest.Run(t, first)
			op := r.begin(ctx, svc, svc.Reboot, w.ID)
			<-struck
			if _, err := r.db.Exec(ctx, `UPDATE flow SET lease_until = clock_timestamp() - interval '1 s' WHERE lease_until IS NOT NULL`); err != nil {
				t.Fatal(err)
			}
			_, second := r.service(nil)
			flowtest.Run(t, second)
			r.await(ctx, op, flow.StateSucceeded)
			boots++
			if n := r.guests.Load(); n != boots || r.state(ctx, w.ID) != Ready {
				t.Errorf("%d boots instead of %d, workspace is %s", n, boots, r.state(ctx, w.ID))
			}
		})
	}
	var releases int
	if err := r.db.QueryRow(ctx, `SELECT count(*) FROM broker_decision WHERE outcome = 'released'`).Scan(&releases); err != nil || int64(releases) != boots {
		t.Errorf("%d releases for %d boots (%v)", releases, boots, err)
	}
}

// TestParkedDeletionGoesOnWhenAskedAgain: a cloud that will not let go parks the deletion; asking again resumes it.
func TestParkedDeletionGoesOnWhenAskedAgain(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).impatient(Times{Delete: 200 * time.Millisecond})
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	yield := r.cloud.Inject(cloudsim.Fault{
		Service: "compute", Method: http.MethodDelete, Path: regexp.MustCompile(`/servers/`), Status: http.StatusConflict,
		Body: `{"conflictingRequest": {"code": 409, "message": "locked"}}`,
	})
	remove := r.begin(ctx, r.svc, r.svc.Delete, w.ID)
	r.await(ctx, remove, flow.StateParked)
	got, err := r.svc.Operation(ctx, remove.ID)
	if err != nil || got.State != OperationParked || got.Problem == nil {
		t.Errorf("%+v (%v)", got, err)
	}
	if s := r.state(ctx, w.ID); s != Deleting {
		t.Errorf("workspace is %s", s)
	}
	if e, err := r.svc.Explain(ctx, w.ID); err != nil || !strings.Contains(e.Next, "ask for the deletion again") {
		t.Errorf("explained by %q (%v)", e.Next, err)
	}
	yield()
	if again := r.begin(ctx, r.svc, r.svc.Delete, w.ID); again.ID != remove.ID {
		t.Errorf("another deletion was started: %s", again.ID)
	}
	r.await(ctx, remove, flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestParkedCreationIsFailedAndDeleted: a creation that cannot be unwound is shown as failed, and a deletion takes its place.
func TestParkedCreationIsFailedAndDeleted(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	r.svc, r.runner = r.service(func(f *flow.Config, c *Config) {
		f.UndoFor, c.Times.Boot = 200*time.Millisecond, 200*time.Millisecond
	})
	flowtest.Run(t, r.runner)
	r.cloud.NoValidHost(true)
	yield := r.cloud.Inject(cloudsim.Fault{
		Service: "volume", Method: http.MethodDelete, Path: regexp.MustCompile(`/volumes/`), Status: http.StatusConflict,
		Body: `{"conflictingRequest": {"code": 409, "message": "attached"}}`,
	})
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateParked)
	got, err := r.svc.Get(ctx, w.ID)
	if err != nil || got.State != Failed || got.Reason.Fix != createParked {
		t.Errorf("%s with %+v (%v)", got.State, got.Reason, err)
	}
	if e, err := r.svc.Explain(ctx, w.ID); err != nil || !strings.HasSuffix(e.Next, createParked) {
		t.Errorf("explained by %q (%v)", e.Next, err)
	}
	yield()
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestParkedCreationArmsNothing: an operator takes the site out of the configuration between "bind" and "server".
func TestParkedCreationArmsNothing(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	r.svc, r.runner = r.service(func(_ *flow.Config, c *Config) {
		c.wrap = func(f flow.Flow[run]) flow.Flow[run] {
			for i, s := range f.Steps {
				if f.Kind == kindCreate && s.Name == "server" {
					f.Steps[i].Do = func(ctx context.Context, rn *run) error {
						if rn.Site != "gone" {
							rn.Site = "gone"
							return flow.Again(0, "the site goes")
						}
						return s.Do(ctx, rn)
					}
				}
			}
			return f
		}
	})
	flowtest.Run(t, r.runner)
	w, op := r.create(ctx, r.svc)
	if s := r.await(ctx, op, flow.StateParked); s.Step != "server" || s.Problem.Code != codeConfig {
		t.Errorf("parked at %s with %+v", s.Step, s.Problem)
	}
	if n := r.armed(ctx); n != 0 {
		t.Errorf("%d guests armed", n)
	}
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestImagesStayWhileSomebodyUsesThem deletes one of two workspaces, then the other.
func TestImagesStayWhileSomebodyUsesThem(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	a, first := r.create(ctx, r.svc)
	b, second := r.create(ctx, r.svc)
	r.await(ctx, first, flow.StateSucceeded)
	r.await(ctx, second, flow.StateSucceeded)
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, a.ID), flow.StateSucceeded)
	if n := r.cloud.Living("image"); n != 2 {
		t.Errorf("%d images while a workspace uses them", n)
	}
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, b.ID), flow.StateSucceeded)
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, b.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// TestConfigurationIsChecked: what would fail much later, or allow too much, fails at the start.
func TestConfigurationIsChecked(t *testing.T) {
	r := newRig(t)
	for name, change := range map[string]func(*Config){
		"no broker":         func(c *Config) { c.Broker = nil },
		"installation":      func(c *Config) { c.Installation = "Siesta" },
		"no key hash":       func(c *Config) { c.BrokerKey = "" },
		"no clients":        func(c *Config) { c.Sites[0].Client = nil },
		"unknown TEE":       func(c *Config) { c.Sites[0].TEE = "none" },
		"policy and TEE":    func(c *Config) { c.Sites[0].TEE = SEVSNP },
		"no signatures":     func(c *Config) { c.Sites[0].VCPUSigs = nil },
		"same site twice":   func(c *Config) { c.Sites = append(c.Sites, c.Sites[0]) },
		"too many measures": func(c *Config) { c.Sites[0].VCPUSigs = make([]uint32, 65) },
	} {
		var cfg Config
		runner, err := flow.New(flow.Config{DB: r.db})
		if err != nil {
			t.Fatal(err)
		}
		r.service(func(_ *flow.Config, c *Config) { cfg = *c })
		cfg.Flow = runner
		cfg.Sites = append([]Site(nil), cfg.Sites...)
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestEncryptedFlavors: the stored extra specs decide, not the words that were sent.
func TestEncryptedFlavors(t *testing.T) {
	for specs, want := range map[[2]string]bool{{"true", "amd-sev-snp"}: true, {"true", ""}: false, {"", ""}: false, {"true", "amd-sev-es"}: false, {"", "amd-sev-snp"}: false} {
		if got := encrypted(SEVSNP, map[string]string{"hw:mem_encryption": specs[0], "hw:mem_encryption_model": specs[1]}); got != want {
			t.Errorf("%v: %t", specs, got)
		}
	}
}
