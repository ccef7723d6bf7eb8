package workspace

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func TestQueriesPrepare(t *testing.T) {
	conn, err := pgtest.New(t).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	parameter := regexp.MustCompile(`@(\w+)`)
	for name, sql := range queries {
		seen := map[string]string{}
		positional := parameter.ReplaceAllStringFunc(sql, func(m string) string {
			if seen[m] == "" {
				seen[m] = fmt.Sprintf("$%d", len(seen)+1)
			}
			return seen[m]
		})
		if _, err := conn.Conn().Prepare(t.Context(), "", positional); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesAreFrozen: resources under another name would be made anew and the old ones forgotten.
func TestNamesAreFrozen(t *testing.T) {
	s := &Service{cfg: Config{Installation: "abcd1234", BrokerKey: strings.Repeat("k", 43)}}
	const w = "01j9zzzzzzzzzzzzzzzzzzzzzz"
	if got := s.name(w, roleServer, 12); got != "siesta-v1-abcd1234-01j9zzzzzzzzzzzzzzzzzzzzzz-server-g12" || len(got) > 63 {
		t.Errorf("server is named %s", got)
	}
	if got := s.imageName([32]byte{0xab}); got != "siesta-v1-abcd1234-img-ab000000000000000000000000000000" {
		t.Errorf("image is named %s", got)
	}
	if got := s.mac(w, 1); got != "02:4a:a9:18:46:67" {
		t.Errorf("port has %s", got)
	}
	line, err := s.line(&Site{Name: "s", BrokerURL: "https://broker.example.org"}, w, 1)
	want := "console=ttyS0 panic=-1 siesta.ws=" + w + " siesta.gen=1 siesta.broker=https://broker.example.org siesta.kb=" + strings.Repeat("k", 43)
	if err != nil || line != want {
		t.Errorf("line is %q (%v)", line, err)
	}
	if _, err := s.line(&Site{Name: "s", BrokerURL: "https://" + strings.Repeat("a", 150)}, w, 1); err == nil {
		t.Error("a line that Nova would cut is accepted")
	}
	if p := bootProperties(SEVSNP, "k", "r", "l"); p["hw_mem_encryption_model"] != "amd-sev-snp" || p["hw_firmware_stateless"] != "true" || len(p) != 8 {
		t.Errorf("SEV-SNP boots with %v", p)
	}
	if p := bootProperties(SimulatedTEE, "k", "r", "l"); p["hw_mem_encryption"] != "" || p["hw_qemu_guest_agent"] != "yes" || len(p) != 4 {
		t.Errorf("a simulated guest boots with %v", p)
	}
}

func TestLife(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	w, op := r.create(ctx, r.svc)
	status := r.await(ctx, op, flow.StateSucceeded)
	for _, s := range status.Steps {
		if s.State != "succeeded" {
			t.Errorf("step %s is %s", s.Name, s.State)
		}
	}
	if err := r.one(); err != nil {
		t.Fatal(err)
	}
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil || w.State != Ready || w.ReadyAt == nil || len(w.Measurements) != 1 || w.ServerID == "" || !w.Simulated {
		t.Fatalf("%+v (%v)", w, err)
	}
	e, err := r.svc.Explain(ctx, w.ID)
	if err != nil || e.Stage != "ready" || len(e.Facts) != 7 {
		t.Errorf("%+v (%v)", e, err)
	}

	r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateSucceeded)
	if got := r.state(ctx, w.ID); got != Ready || r.guests.Load() != 2 {
		t.Fatalf("%s after reboot, %d boots", got, r.guests.Load())
	}

	remove := r.begin(ctx, r.svc, r.svc.Delete, w.ID)
	r.await(ctx, remove, flow.StateSucceeded)
	if got := r.state(ctx, w.ID); got != Deleted {
		t.Errorf("%s after deletion", got)
	}
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
	if err := postgresErr(ctx, r, func(tx pgx.Tx) error { _, _, _, err := r.svc.Delete(ctx, tx, operator, w.ID, ""); return err }); !errors.Is(err, ErrState) {
		t.Errorf("deleting what is deleted: %v", err)
	}
	checkLog(ctx, t, r, w.ID)
	list, err := r.svc.Operations(ctx, w.ID)
	if err != nil || len(list) != 3 || list[0].Kind != "delete" || list[2].Kind != "create" {
		t.Errorf("operations %+v (%v)", list, err)
	}

	// The site remembers the ids of deleted images: the next workspace needs new ones.
	_, op = r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
}

// TestRulesOfOthersDoNotHoldADeletion: a group goes, whatever rules somebody put into it.
func TestRulesOfOthersDoNotHoldADeletion(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	r.cloud.LetMembersIn()
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// checkLog looks for one entry per effect, and for the cloud's request ids in them.
func checkLog(ctx context.Context, t *testing.T, r *rig, id string) {
	t.Helper()
	rows, err := r.db.Query(ctx, `SELECT action, convert_from(body, 'UTF8') FROM (SELECT action, object, body FROM audit_entry UNION ALL SELECT action, object, body FROM audit_inbox) e WHERE object = $1`, "workspace/"+id)
	if err != nil {
		t.Fatal(err)
	}
	count, traced := map[string]int{}, 0
	var action, body string
	if _, err := pgx.ForEachRow(rows, []any{&action, &body}, func() error {
		count[action]++
		if strings.Contains(body, `"request":"req-`) && strings.Contains(body, `"service":"compute"`) {
			traced++
		}
		if strings.Contains(body, researcher.Subject) {
			t.Errorf("%s names a person", action)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"workspace.create", "workspace.ready", "workspace.reboot", "workspace.rebooted", "workspace.delete", "workspace.deleted", "guest.arm", "guest.rearm"} {
		if count[want] != 1 {
			t.Errorf("%d entries %s", count[want], want)
		}
	}
	if count["workspace.step.done"] != 13+8+10 || traced == 0 {
		t.Errorf("%d steps in the log, %d with Nova's request ids", count["workspace.step.done"], traced)
	}
}

func postgresErr(ctx context.Context, r *rig, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, r.db, fn)
}

func TestAdmission(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).running()
	for name, change := range map[string]func(*CreateSpec){
		"no name":        func(s *CreateSpec) { s.Name = "" },
		"control in it":  func(s *CreateSpec) { s.Name = "a\nb" },
		"other site":     func(s *CreateSpec) { s.Site = "moon" },
		"other flavor":   func(s *CreateSpec) { s.Flavor = "huge" },
		"no data volume": func(s *CreateSpec) { s.DataGiB = 0 },
		"too large":      func(s *CreateSpec) { s.DataGiB = 1025 },
	} {
		spec := r.spec()
		change(&spec)
		if err := postgresErr(ctx, r, func(tx pgx.Tx) error { _, _, _, err := r.svc.Create(ctx, tx, researcher, spec); return err }); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refused *Refused
	err := postgresErr(ctx, r, func(tx pgx.Tx) error { _, _, _, err := r.svc.Create(ctx, tx, operator, r.spec()); return err })
	if !errors.As(err, &refused) || len(refused.Facts) != 2 || refused.Facts[0].Name != "permit" || refused.Facts[1].Name != "project" || refused.Facts[1].Fix == "" {
		t.Errorf("without a permit, and not a member: %v", err)
	}
	if list, err := r.svc.List(ctx, Filter{}); err != nil || len(list) != 0 {
		t.Errorf("%d workspaces after refusals (%v)", len(list), err)
	}
	if _, err := r.svc.Get(ctx, "01j9zzzzzzzzzzzzzzzzzzzzzz"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown workspace: %v", err)
	}
}

func TestListPagesAndFilters(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t)
	svc, _ := r.service(nil) // nothing runs
	var ids []string
	for range 5 {
		w, _ := r.create(ctx, svc)
		ids = append(ids, w.ID)
	}
	slices.Sort(ids)
	var got []string
	for after := ""; ; {
		page, err := svc.List(ctx, Filter{Projects: []string{"cohort"}, Owner: researcher.Subject, Site: "sim", State: Creating, After: after, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, w := range page {
			got = append(got, w.ID)
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, ids) {
		t.Errorf("pages give %v", got)
	}
	for _, f := range []Filter{{Projects: []string{"other"}}, {Projects: []string{}}, {Owner: "x"}, {Site: "x"}, {State: Ready}} {
		if page, err := svc.List(ctx, f); err != nil || len(page) != 0 {
			t.Errorf("%+v gives %d (%v)", f, len(page), err)
		}
	}
}
