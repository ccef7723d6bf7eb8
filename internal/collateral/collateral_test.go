//go:build devtee

package collateral

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/vendors"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

var start = time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)

// rig is a service over a database, with a vendor on loopback and a clock that only the test moves.
type rig struct {
	*Service
	t       *testing.T
	db      *pgxpool.Pool
	psp     *softpsp.PSP
	roots   *attest.Roots
	vendor  *vendors.Service
	address string
	mu      sync.Mutex
	now     time.Time
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, now: start, db: pgtest.New(t)}
	var err error
	if r.psp, err = softpsp.New(softpsp.Config{Now: start}); err != nil {
		t.Fatal(err)
	}
	if r.roots, err = attest.AMDRoots().WithSimulated(softpsp.Line, r.psp.Roots()); err != nil {
		t.Fatal(err)
	}
	r.vendor = &vendors.Service{Now: r.clock}
	r.vendor.PutChip(r.psp)
	server := httptest.NewServer(r.vendor)
	t.Cleanup(server.Close)
	r.address = server.URL
	r.Service = r.open(change...)
	return r
}

// open starts another process on the same database.
func (r *rig) open(change ...func(*Config)) *Service {
	r.t.Helper()
	c := Config{
		DB: r.db, Audit: audittest.Recorder(r.t), Roots: r.roots, Logger: zap.NewNop(), Now: r.clock, Jitter: func() float64 { return 0 },
		Vendor: &HTTPVendor{KDS: r.address, PCS: r.address, RootCRL: r.address + vendors.RootCRLPath, Now: r.clock, Timeout: 200 * time.Millisecond},
	}
	for _, f := range change {
		f(&c)
	}
	s, err := New(c)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.Load(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) turn() {
	r.t.Helper()
	if err := r.step(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) register(subjects ...attest.Subject) {
	r.t.Helper()
	if err := r.Register(r.t.Context(), subjects...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) chip() attest.Subject {
	id := r.psp.ChipID()
	return attest.VCEKSubject(r.psp.ProductLine(), id[:], r.psp.TCB())
}

func evidence(t *testing.T, p *softpsp.PSP) attest.Evidence {
	t.Helper()
	report, err := p.Sign(softpsp.Report{Measurement: [48]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	return attest.Evidence{TEE: attest.SEVSNP, Report: report}
}

// look is For as a release calls it.
func (r *rig) look(s *Service, ev attest.Evidence) (attest.Collateral, State, string) {
	r.t.Helper()
	col, state, err := s.For(r.t.Context(), "study", ev)
	var refusal *attest.Refusal
	if err != nil && !errors.As(err, &refusal) {
		r.t.Fatal(err)
	}
	if refusal != nil {
		return col, state, refusal.Code
	}
	return col, state, ""
}

func (r *rig) requests(want int) {
	r.t.Helper()
	if got := r.vendor.Requests(); len(got) != want {
		r.t.Errorf("%d requests to the vendor, want %d: %q", len(got), want, got)
	}
}

func TestQueriesPrepare(t *testing.T) {
	db := pgtest.New(t)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, sql := range queries {
		if _, err := conn.Conn().Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegisteredChipNeedsNoVendorAtRelease(t *testing.T) {
	r := newRig(t)
	r.register(r.chip())
	r.turn()
	r.requests(1)
	for _, s := range []*Service{r.Service, r.open()} { // the second began with an empty process
		col, state, code := r.look(s, evidence(t, r.psp))
		id := r.psp.ChipID()
		if state != Fresh && state != Missing || code != "" || len(col.VCEKs[attest.ChipKey(id[:])]) != 1 {
			t.Errorf("state %s, code %q", state, code)
		}
	}
	r.requests(1)
}

func TestMissingRefusesAndIsFetchedOnce(t *testing.T) {
	r := newRig(t)
	ev := evidence(t, r.psp)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if _, state, code := r.look(r.Service, ev); code != attest.CodeCollateral || state != Missing {
				t.Errorf("state %s, code %q", state, code)
			}
		})
	}
	wait.Wait()
	r.requests(0) // nobody waited for a vendor
	other := r.open()
	if _, _, code := r.look(other, ev); code != attest.CodeCollateral {
		t.Errorf("code %q", code)
	}
	if err := other.writePending(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.turn()
	if err := other.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.requests(2) // the certificate and the line's list, whichever process asked
	if _, _, code := r.look(r.Service, ev); code != "" {
		t.Errorf("after the fetch: %q", code)
	}
	if _, _, code := r.look(other, ev); code != "" {
		t.Errorf("in the other process: %q", code)
	}
}

func TestBudgetAndNegativeCache(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Budget = 4 })
	for range 20 { // strangers: the vendor has none of them
		p, err := r.psp.Sibling()
		if err != nil {
			t.Fatal(err)
		}
		ev := evidence(t, p)
		for range 3 {
			r.look(r.Service, ev)
		}
	}
	r.turn()
	r.requests(4)
	r.pass(30 * time.Second)
	r.turn()
	r.requests(4) // what the vendor does not have is not asked for again
	ev := evidence(t, r.psp)
	r.look(r.Service, ev)
	r.turn()
	if _, _, code := r.look(r.Service, ev); code != "" {
		t.Errorf("the budget did not come back: %q", code)
	}
}

func TestFaultsOfVendors(t *testing.T) {
	for _, fault := range []vendors.Fault{vendors.Throttled, vendors.Broken, vendors.Hang, vendors.Truncated, vendors.Wrong, vendors.Endless} {
		t.Run(string(fault), func(t *testing.T) {
			r := newRig(t)
			r.register(r.chip())
			r.vendor.SetFault(fault)
			r.turn()
			r.requests(1)
			r.pass(9 * time.Second)
			r.turn()
			r.requests(1) // it backs off
			if _, _, code := r.look(r.Service, evidence(t, r.psp)); code != attest.CodeCollateral {
				t.Errorf("code %q", code)
			}
			r.vendor.SetFault("")
			r.pass(time.Second)
			r.turn()
			if _, _, code := r.look(r.Service, evidence(t, r.psp)); code != "" {
				t.Errorf("after the fault: %q", code)
			}
		})
	}
}

func TestRetryAfterStopsAllRequests(t *testing.T) {
	r := newRig(t)
	r.vendor.SetLimit(vendors.Limit{Every: 10 * time.Second})
	r.register(Chip(r.psp.ProductLine(), make([]byte, 64), r.psp.TCB())...)
	r.turn()
	r.requests(2) // one answered, one told to wait, the third not tried
	r.turn()
	r.requests(2)
	r.pass(10 * time.Second)
	r.turn()
	r.requests(4)
}

// crashing ends the process between the vendor's answer and the transaction that stores it.
type crashing struct {
	Vendor
	stop context.CancelFunc
}

func (c crashing) Fetch(ctx context.Context, of attest.Subject) ([]Found, error) {
	found, err := c.Vendor.Fetch(ctx, of)
	c.stop()
	return found, err
}

func TestCrashBetweenFetchAndStore(t *testing.T) {
	r := newRig(t)
	r.register(r.chip())
	ctx, stop := context.WithCancel(t.Context())
	r.Vendor = crashing{r.Vendor, stop}
	if err := r.step(ctx); err == nil {
		t.Fatal("the process did not end")
	}
	if _, err := r.db.Exec(t.Context(), `UPDATE collateral_lease SET lease_until = '-infinity'`); err != nil {
		t.Fatal(err)
	}
	next := r.open()
	if err := next.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, code := r.look(next, evidence(t, r.psp)); code != "" {
		t.Errorf("code %q", code)
	}
}

func TestOnlyTheHolderOfTheLeaseFetches(t *testing.T) {
	r := newRig(t)
	other := r.open()
	r.turn()
	r.register(r.chip())
	if err := other.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.requests(0)
	r.turn()
	r.requests(1)
}

func TestWindowsGraceAndRefresh(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Grace = time.Hour })
	list, err := r.psp.RevocationList(start.Add(time.Minute), start.Add(10*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r.vendor.PutCRL(r.psp.ProductLine(), list)
	r.register(Chip(r.psp.ProductLine(), chipOf(r.psp), r.psp.TCB())...)
	r.turn()
	ev := evidence(t, r.psp)
	if _, state, _ := r.look(r.Service, ev); state == Stale || r.snap.Load().col.CRLs != nil {
		t.Errorf("a list from the future was stored: %s", state)
	}
	r.pass(time.Minute) // its first instant
	r.turn()
	col, state, _ := r.look(r.Service, ev)
	if state != Fresh || col.Grace != 0 {
		t.Errorf("inside the window: %s, grace %s", state, col.Grace)
	}
	before := len(r.vendor.Requests())
	r.pass(5 * time.Hour)
	r.turn()
	if len(r.vendor.Requests()) != before+1 {
		t.Errorf("no refresh ahead of the end: %q", r.vendor.Requests())
	}
	r.vendor.SetFault(vendors.Broken)
	for _, row := range []struct {
		at    time.Duration
		state State
		grace time.Duration
	}{
		{10*time.Hour - 1, Fresh, 0},
		{10 * time.Hour, Stale, time.Hour},
		{11*time.Hour - 1, Stale, time.Hour},
		{11 * time.Hour, Expired, 0},
	} {
		r.pass(start.Add(row.at).Sub(r.clock()))
		col, state, _ := r.look(r.Service, ev)
		if state != row.state || col.Grace != row.grace {
			t.Errorf("after %s: %s, grace %s; want %s, %s", row.at, state, col.Grace, row.state, row.grace)
		}
		judged := attest.NovaPolicy(map[string]attest.TCB{softpsp.Line: r.psp.TCB()})
		judged.Revocation, judged.Simulated = attest.RevocationRequired, true
		decision := attest.Judge(ev, col, judged, r.clock())
		var status string
		for _, c := range decision.Checks {
			if c.Name == "revocation list" {
				status = string(c.Status)
			}
		}
		if want := map[bool]string{true: string(attest.Failed), false: string(attest.Passed)}[row.state == Expired]; status != want {
			t.Errorf("after %s the check of the list is %s, want %s", row.at, status, want)
		}
		again, err := attest.NewCollateral(r.roots, col.About(ev).Objects())
		if err != nil || again.Grace != row.grace {
			t.Errorf("the grace is not among the objects of the decision: %v", err)
		}
	}
	var audited int
	if err := r.db.QueryRow(t.Context(), `SELECT count(*) FROM audit_inbox WHERE action = 'collateral.grace'`).Scan(&audited); err != nil || audited != 1 {
		t.Errorf("%d entries of the grace, %v", audited, err)
	}
}

// TestListOfProvidersKeys: a VLEK's report is judged by the list of its own issuer, fetched from its own address, and a chip's
// by the other; neither list speaks for the other's keys, even where one file is both.
func TestListOfProvidersKeys(t *testing.T) {
	r := newRig(t)
	line := r.psp.ProductLine()
	chips, err := r.psp.RevocationList(start.Add(-time.Minute), start.Add(40*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	providers, err := r.psp.RevocationList(start.Add(-time.Hour), start.Add(10*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r.vendor.PutCRL(line, chips)
	r.vendor.PutVLEKCRL(line, providers)
	report, err := r.psp.Sign(softpsp.Report{Alter: func(b []byte) { b[0x48] = 1 << 2 }})
	if err != nil {
		t.Fatal(err)
	}
	vlek, vcek := attest.Evidence{TEE: attest.SEVSNP, Report: report}, evidence(t, r.psp)
	lists := func(ev attest.Evidence) (out [][]byte) {
		col, _, _ := r.look(r.Service, ev)
		for _, o := range col.About(ev).Objects() {
			if o.Kind == attest.KindAMDCRL {
				out = append(out, o.Bytes)
			}
		}
		return out
	}
	r.register(Chip(line, chipOf(r.psp), r.psp.TCB())...)
	r.turn()
	if got := lists(vlek); got != nil {
		t.Errorf("the chips' list speaks for a provider's key: %d lists", len(got))
	}
	r.turn()
	if got := r.vendor.Requests(); got[len(got)-1] != "/vlek/v1/"+line+"/crl" {
		t.Errorf("asked for %q", got)
	}
	if got := lists(vlek); len(got) != 1 || !bytes.Equal(got[0], providers) {
		t.Errorf("a provider's key is judged by %d lists, want its own", len(got))
	}
	if got := lists(vcek); len(got) != 1 || !bytes.Equal(got[0], chips) {
		t.Errorf("a chip's key is judged by %d lists, want its own", len(got))
	}
	r.pass(6 * time.Hour) // half of its time: it is fetched anew, and is now the file of the other address
	r.vendor.PutVLEKCRL(line, chips)
	r.turn()
	if got := lists(vlek); len(got) != 2 {
		t.Errorf("with one file at both addresses: %d lists, want that and the one before it", len(got))
	}
	if back, err := r.Objects(t.Context(), attest.Object{Bytes: chips}.Digest()); err != nil || len(back) != 1 {
		t.Errorf("a file that is both lists, by digest: %d objects, %v", len(back), err)
	}

	// What was fetched for is kept in a bundle, and nothing else can be called a list.
	var file bytes.Buffer
	if err := r.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	bundled := file.Bytes()
	r.Service = r.open(func(c *Config) { c.DB = pgtest.New(t) })
	if _, err := r.Import(t.Context(), bytes.NewReader(bundled), audit.Actor{Kind: audit.Service, Subject: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := lists(vlek); len(got) != 2 {
		t.Errorf("after an import: %d lists", len(got))
	}
	wrong, err := json.Marshal(bundle{Version: 1, Objects: []bundleObject{{Object: attest.Object{Kind: attest.KindVCEK, Bytes: r.psp.VCEK()}, VLEK: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Import(t.Context(), bytes.NewReader(wrong), audit.Actor{Kind: audit.Service, Subject: "test"}); err == nil || !strings.Contains(err.Error(), "no revocation list") {
		t.Errorf("a certificate as the list of providers' keys: %v", err)
	}
}

func chipOf(p *softpsp.PSP) []byte {
	id := p.ChipID()
	return id[:]
}

func TestImportIsAllOrNothing(t *testing.T) {
	r := newRig(t)
	offline := r.open(func(c *Config) { c.Vendor = nil })
	actor := audit.Actor{Kind: audit.Service, Subject: "test"}
	good := bundleObject{Object: attest.Object{Kind: attest.KindVCEK, Bytes: r.psp.VCEK()}}
	stranger, err := softpsp.New(softpsp.Config{Now: start})
	if err != nil {
		t.Fatal(err)
	}
	future, err := r.psp.RevocationList(start.Add(time.Second), start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := r.psp.RevocationList(start.Add(-time.Hour), start)
	if err != nil {
		t.Fatal(err)
	}
	write := func(objects ...bundleObject) []byte {
		data, err := json.Marshal(bundle{Version: 1, Objects: objects})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, data := range map[string][]byte{
		"another's root":  write(good, bundleObject{Object: attest.Object{Kind: attest.KindVCEK, Bytes: stranger.VCEK()}}),
		"another kind":    write(good, bundleObject{Object: attest.Object{Kind: attest.KindAMDCRL, Bytes: r.psp.VCEK()}}),
		"from the future": write(good, bundleObject{Object: attest.Object{Kind: attest.KindAMDCRL, Bytes: future}}),
		"ended":           write(good, bundleObject{Object: attest.Object{Kind: attest.KindAMDCRL, Bytes: ended}}),
		"no kind":         write(good, bundleObject{Object: attest.Object{Kind: "grace", Bytes: []byte("1h0m0s")}}),
		"trailing":        append(write(good), "{}"...),
		"empty":           write(),
		"other bytes":     bytes.Replace(write(good), []byte(`"sha256":"`), []byte(`"sha256":"00`), 1),
	} {
		if _, err := offline.Import(t.Context(), bytes.NewReader(data), actor); err == nil {
			t.Errorf("%s: imported", name)
		}
		var rows int
		if err := r.db.QueryRow(t.Context(), `SELECT count(*) FROM collateral_object`).Scan(&rows); err != nil || rows != 0 {
			t.Fatalf("%s: %d objects stored, %v", name, rows, err)
		}
	}
	if n, err := offline.Import(t.Context(), bytes.NewReader(write(good)), actor); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if _, _, code := r.look(offline, evidence(t, r.psp)); code != "" {
		t.Errorf("after the import: %q", code)
	}
	digest := good.Object.Digest()
	if back, err := offline.Objects(t.Context(), digest); err != nil || !bytes.Equal(back[0].Bytes, r.psp.VCEK()) {
		t.Errorf("by digest: %v", err)
	}
	if _, err := offline.Objects(t.Context(), attest.Digest{1}); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown digest: %v", err)
	}
	if _, err := r.db.Exec(t.Context(), `DELETE FROM collateral_object`); err == nil || !strings.Contains(err.Error(), "append-only") {
		t.Errorf("deleting: %v", err)
	}
	var file bytes.Buffer
	if err := offline.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	if n, err := offline.Import(t.Context(), &file, actor); err != nil || n != 1 {
		t.Errorf("importing what was exported: %d, %v", n, err)
	}
	r.requests(0)
}
