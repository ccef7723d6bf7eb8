package keybroker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
)

func TestConfigIsChecked(t *testing.T) {
	good := func() Config {
		return Config{
			DB: &pgxpool.Pool{}, Log: &failingLog{}, Facts: nothing{}, Stores: newMemoryStore(), Keyring: &FileKeyring{}, Verifier: plainPlatform{},
			Collateral: func(context.Context, CollateralQuery) (attest.Collateral, error) { return attest.Collateral{}, nil },
			Key:        ed25519.NewKeyFromSeed(make([]byte, 32)), Installation: "testinst", Logger: zap.NewNop(),
		}
	}
	b, err := New(good())
	if err != nil || b.Lease != 5*time.Minute || b.InitialiseLease != 2*time.Minute || b.Now().IsZero() {
		t.Fatalf("%v", err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		word   string
	}{
		"DB": {func(c *Config) { c.DB = nil }, "a part is missing"}, "Log": {func(c *Config) { c.Log = nil }, "a part is missing"}, "Facts": {func(c *Config) { c.Facts = nil }, "a part is missing"},
		"Stores": {func(c *Config) { c.Stores = nil }, "a part is missing"}, "Keyring": {func(c *Config) { c.Keyring = nil }, "a part is missing"}, "Verifier": {func(c *Config) { c.Verifier = nil }, "a part is missing"},
		"Collateral": {func(c *Config) { c.Collateral = nil }, "a part is missing"}, "Logger": {func(c *Config) { c.Logger = nil }, "a part is missing"},
		"no key": {func(c *Config) { c.Key = nil }, "no broker key"}, "a cut key": {func(c *Config) { c.Key = c.Key[:63] }, "no broker key"},
		"no id": {func(c *Config) { c.Installation = "" }, "installation id"}, "a long id": {func(c *Config) { c.Installation = "testinst1" }, "installation id"}, "an id in capitals": {func(c *Config) { c.Installation = "TESTINST" }, "installation id"},
		"a short lease": {func(c *Config) { c.Lease, c.InitialiseLease = minLease-1, minLease }, "out of range"}, "the shortest lease": {func(c *Config) { c.Lease = minLease }, ""},
		"a short first lease": {func(c *Config) { c.InitialiseLease = minLease - 1 }, "out of range"}, "the shortest first lease": {func(c *Config) { c.InitialiseLease = minLease }, ""},
		"a negative lease": {func(c *Config) { c.Lease = -time.Minute }, "out of range"},
	} {
		cfg := good()
		c.change(&cfg)
		if _, err := New(cfg); (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	short := good()
	short.Lease = time.Minute
	if b, err := New(short); err != nil || b.InitialiseLease != time.Minute {
		t.Errorf("the first lease is longer than the lease: %v", err)
	}
}

type nothing struct{ Facts }

// TestEnvelopePrefix: the plain part of a blob decides what it is before anything is opened.
func TestEnvelopePrefix(t *testing.T) {
	blob := append([]byte("siestaK1\x01\x00\x00\x01\x02"), make([]byte, 28)...)
	with := func(at int, b byte) []byte { out := bytes.Clone(blob); out[at] = b; return out }
	for name, c := range map[string]struct {
		blob    []byte
		custody custody
		version int
		word    string
	}{
		"good":                          {blob, volumeCustody, 0x102, ""},
		"of another version":            {blob, volumeCustody, 0x103, "another key version"},
		"of a version beyond 32 bits":   {blob, volumeCustody, 1<<32 + 0x102, "another key version"},
		"short by one":                  {blob[:len(blob)-1], volumeCustody, 0x102, "only 40 bytes"},
		"empty":                         {nil, volumeCustody, 0x102, "only 0 bytes"},
		"as a secret":                   {blob, secretCustody, 0x102, "not one of ours"},
		"of another magic":              {with(7, '2'), volumeCustody, 0x102, "not one of ours"},
		"of an unknown kind of custody": {with(8, 2), volumeCustody, 0x102, "unknown kind of custody"},
		"of custody 0":                  {with(8, 0), volumeCustody, 0x102, "unknown kind of custody"},
	} {
		got, err := c.custody.prefix(c.blob, c.version)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) || err == nil && !bytes.Equal(got, blob[:13]) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	ring, err := CreateFileKeyring(filepath.Join(t.TempDir(), "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := context.Background(), scope{installation: "testinst", site: "s", workspace: "w", version: 7}
	e, err := newEnvelope(ctx, ring, s)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := e.open(ctx, ring, s)
	if err != nil || len(keys.luks) != door.LUKSKeySize || len(keys.headerMAC) != door.HeaderMACKeySize {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*envelope, *scope){
		"installation": func(_ *envelope, s *scope) { s.installation = "other" }, "site": func(_ *envelope, s *scope) { s.site = "x" }, "workspace": func(_ *envelope, s *scope) { s.workspace = "x" },
		"version": func(_ *envelope, s *scope) { s.version = 8 }, "epoch": func(e *envelope, _ *scope) { e.epoch++ }, "hash": func(e *envelope, _ *scope) { e.blobHash[0] ^= 1 },
		"KEK": func(e *envelope, _ *scope) { e.kek = bytes.Clone(e.kek); e.kek[20] ^= 1 }, "a longer blob": func(e *envelope, _ *scope) { e.blob = append(bytes.Clone(e.blob), 0) },
		"a shorter blob": func(e *envelope, _ *scope) { e.blob = e.blob[:len(e.blob)-1] }, "no KEK": func(e *envelope, _ *scope) { e.kek = nil },
	} {
		other, where := e, s
		change(&other, &where)
		if k, err := other.open(ctx, ring, where); err == nil || k.luks != nil || k.headerMAC != nil {
			t.Errorf("another %s: opened, %v", name, err)
		}
	}
	keys.clear()
	if !bytes.Equal(keys.luks, make([]byte, len(keys.luks))) || !bytes.Equal(keys.headerMAC, make([]byte, len(keys.headerMAC))) {
		t.Error("keys that were cleared are there")
	}
	if _, err := wrap(ctx, emptyRing{}, secretCustody, s, []byte("x")); err == nil || !strings.Contains(err.Error(), "the keyring is empty") {
		t.Errorf("an empty keyring: %v", err)
	}
}

type emptyRing struct{ Keyring }

func (emptyRing) Epochs(context.Context) ([]int, error) { return nil, nil }

func TestKeyringFileIsReadStrictly(t *testing.T) {
	dir := t.TempDir()
	root := `"` + strings.Repeat("A", 43) + `="`
	write := func(text string) string {
		path := filepath.Join(dir, fmt.Sprintf("ring%d", time.Now().UnixNano()))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := func(version, next int, roots string) string {
		return fmt.Sprintf(`{"version":%d,"next_epoch":%d,"roots":[%s]}`, version, next, roots)
	}
	one := func(epoch int, key string) string { return fmt.Sprintf(`{"epoch":%d,"key":%s}`, epoch, key) }
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"good": {file(1, 3, one(1, root)+","+one(2, root)), true}, "one root": {file(1, 2, one(1, root)), true}, "padded to the bound": {file(1, 2, one(1, root)) + strings.Repeat(" ", maxKeyringBytes-len(file(1, 2, one(1, root)))), true},
		"too large": {file(1, 2, one(1, root)) + strings.Repeat(" ", maxKeyringBytes-len(file(1, 2, one(1, root)))+1), false}, "another version": {file(2, 2, one(1, root)), false}, "no root": {file(1, 2, ""), false}, "epoch 0": {file(1, 2, one(0, root)), false},
		"an epoch that is to come": {file(1, 2, one(2, root)), false}, "an epoch twice": {file(1, 3, one(1, root)+","+one(1, root)), false}, "a short key": {file(1, 2, one(1, `"AAAA"`)), false},
		"an unknown member": {`{"x":1}`, false}, "nothing": {"", false},
	} {
		if k, err := OpenFileKeyring(write(c.text)); (err == nil) != c.ok || (k == nil) == c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := write(file(1, 2, one(1, root)))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(good, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{good, link, dir, filepath.Join(dir, "none")} {
		if _, err := OpenFileKeyring(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	// A rotation that cannot be written is none, and so is a destruction.
	k, err := CreateFileKeyring(filepath.Join(dir, "sub"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	path := k.path
	k.path = filepath.Join(dir, "gone", "sub")
	if e, err := k.Rotate(context.Background()); err == nil || e != 0 || len(k.epochs()) != 2 || k.next != 3 {
		t.Errorf("a rotation without a disk: %d, %v, %v", e, k.epochs(), err)
	}
	if err := k.Destroy(context.Background(), 1); err == nil || len(k.epochs()) != 2 {
		t.Errorf("a destruction without a disk: %v, %v", k.epochs(), err)
	}
	k.path = path
	if err := k.Destroy(context.Background(), 9); err != nil {
		t.Errorf("an epoch that is not there: %v", err)
	}
}

// TestArmIsChecked: what an arm must name, and what it must not change.
func TestArmIsChecked(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	if _, err := r.broker.Prepare(ctx, volumeOf(testWorkspace)); err != nil {
		t.Fatal(err)
	}
	arm := func(change func(*Arm)) error {
		a := r.armOf(testWorkspace, 1)
		if change != nil {
			change(&a)
		}
		return r.tx(func(tx pgx.Tx) error { return r.broker.Arm(ctx, tx, a) })
	}
	for name, c := range map[string]struct {
		change func(*Arm)
		word   string
	}{
		"workspace": {func(a *Arm) { a.Workspace = "" }, "a name is missing"}, "project": {func(a *Arm) { a.Project = "" }, "a name is missing"}, "dataset": {func(a *Arm) { a.Dataset = "" }, "a name is missing"},
		"owner": {func(a *Arm) { a.Owner = "" }, "a name is missing"}, "image": {func(a *Arm) { a.Image = "" }, "a name is missing"}, "site": {func(a *Arm) { a.Site = "" }, "a name is missing"},
		"volume": {func(a *Arm) { a.VolumeID = "" }, "a name is missing"}, "serial": {func(a *Arm) { a.VolumeSerial = "" }, "a name is missing"}, "generation 0": {func(a *Arm) { a.Generation = 0 }, "begin at 1"},
		"no measurement": {func(a *Arm) { a.Policy.Measurements = nil }, "names no measurement"}, "no chip": {func(a *Arm) { a.Policy.Chips = nil }, "names no measurement"}, "report data": {func(a *Arm) { a.Policy.ReportData[63] = 1 }, "holds report data"},
		"another project": {func(a *Arm) { a.Project = "other" }, "no key is prepared"}, "another site": {func(a *Arm) { a.Site = "other" }, "no key is prepared"}, "unknown": {func(a *Arm) { a.Workspace = "01jabcdefghjkmnpqrstvwxyz9" }, "unknown to the broker"},
	} {
		if err := arm(c.change); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := r.count(`SELECT count(*) FROM broker_arm`); n != 0 {
		t.Fatalf("%d arms", n)
	}
	for range 2 {
		if err := arm(nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*Arm){
		"another owner": func(a *Arm) { a.Owner = "x" }, "another dataset": func(a *Arm) { a.Dataset = "x" }, "another volume": func(a *Arm) { a.VolumeID = "x" }, "another serial": func(a *Arm) { a.VolumeSerial = "x" },
		"another policy": func(a *Arm) { a.Policy.Measurements = [][]byte{bytes.Repeat([]byte{1}, 48)} },
	} {
		if err := arm(change); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rearm := func(generation int) error {
		return r.tx(func(tx pgx.Tx) error {
			return r.broker.Rearm(ctx, tx, testWorkspace, generation, strings.Repeat("w", 600))
		})
	}
	if err := rearm(1); err != nil || r.count(`SELECT epoch FROM broker_arm WHERE state = 'armed'`) != 2 {
		t.Errorf("armed again while armed: %v", err)
	}
	if err := rearm(2); !errors.Is(err, ErrState) {
		t.Errorf("another generation: %v", err)
	}
	allow := func() error {
		return r.tx(func(tx pgx.Tx) error {
			_, err := r.broker.AllowReboot(ctx, tx, audit.Actor{Kind: audit.Person, Subject: testOwner}, testWorkspace)
			return err
		})
	}
	if err := allow(); !errors.Is(err, ErrState) {
		t.Errorf("a reboot of what is armed: %v", err)
	}
	for state, by := range map[string]func() error{stateReleased: func() error { return rearm(1) }, stateSuspended: allow} {
		r.exec(`UPDATE broker_arm SET state = $1, report_id = decode(repeat('ab', 32), 'hex')`, state)
		if state == stateSuspended {
			if err := rearm(1); !errors.Is(err, ErrState) {
				t.Errorf("siestad itself arms what is suspended: %v", err)
			}
		}
		before := r.count(`SELECT epoch FROM broker_arm`)
		if err := by(); err != nil || r.count(`SELECT epoch FROM broker_arm WHERE state = 'armed' AND report_id IS NULL`) != before+1 {
			t.Errorf("%s: %v", state, err)
		}
	}
	if n := r.count(`SELECT max(length(reason)) FROM broker_arm`); n > 500 {
		t.Errorf("%d bytes of reason", n)
	}
	later := func(a *Arm) { a.Generation = 2 }
	if err := arm(later); err != nil || r.count(`SELECT count(*) FROM broker_arm WHERE state = 'disarmed' AND generation = 1`) != 1 {
		t.Errorf("a later generation: %v", err)
	}
	if err := arm(nil); !errors.Is(err, ErrState) {
		t.Errorf("an earlier generation: %v", err)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.Disarm(ctx, tx, testWorkspace) }); err != nil {
		t.Fatal(err)
	}
	if err := arm(later); !errors.Is(err, ErrState) {
		t.Errorf("what was disarmed is armed again: %v", err)
	}
	if err := rearm(2); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing is armed: %v", err)
	}
	if err := allow(); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing is armed: %v", err)
	}
	if err := r.tx(func(tx pgx.Tx) error { return r.broker.EndLease(ctx, tx, testWorkspace, "") }); err != nil {
		t.Error(err)
	}
	if until, err := r.broker.HeldUntil(ctx, testWorkspace); err != nil || !until.IsZero() {
		t.Errorf("%s, %v", until, err)
	}
}

// TestArchiveKeepsItsWord: a decision whose parts are not all there is not replayed, and lists end where they say.
func TestArchiveKeepsItsWord(t *testing.T) {
	r := newSessionRig(t)
	ctx := context.Background()
	g, _, _ := r.ready(testWorkspace)
	for range 3 {
		if _, _, err := g.grant(door.Renew); err != nil {
			t.Fatal(err)
		}
	}
	archive := NewArchive(r.db, attest.AMDRoots())
	all, err := archive.Decisions(ctx, DecisionFilter{Limit: 10})
	if err != nil || len(all) != 4 || all[3].Outcome != "released" || all[0].Outcome != "renewed" {
		t.Fatalf("%+v, %v", all, err)
	}
	whole := Period{Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}
	for limit, want := range map[int]int{0: 0, 1: 1, 3: 3, 4: 4, 5: 4} {
		p := whole
		p.Limit = limit
		ids, more, err := archive.In(ctx, p)
		if err != nil || len(ids) != want || more != (limit < 4) || want > 0 && ids[0] != all[0].ID {
			t.Errorf("%d of a period: %v, more %t, %v", limit, ids, more, err)
		}
	}
	for name, change := range map[string]func(*Period){
		"another site": func(p *Period) { p.Site = "x" }, "another project": func(p *Period) { p.Project = "x" }, "before": func(p *Period) { p.Until = p.Since }, "after": func(p *Period) { p.Since = p.Until },
	} {
		p := whole
		p.Limit = 9
		change(&p)
		if ids, more, err := archive.In(ctx, p); err != nil || len(ids) != 0 || more {
			t.Errorf("%s: %v, %v", name, ids, err)
		}
	}
	for name, f := range map[string]struct {
		f    DecisionFilter
		want int
	}{
		"of a code": {DecisionFilter{Code: "x", Limit: 9}, 0}, "of an outcome": {DecisionFilter{Outcome: "renewed", Limit: 9}, 3}, "of a workspace": {DecisionFilter{Workspace: "x", Limit: 9}, 0},
		"before one": {DecisionFilter{Before: all[1].ID, Limit: 9}, 2}, "since": {DecisionFilter{Since: time.Now().Add(time.Hour), Limit: 9}, 0}, "until": {DecisionFilter{Until: time.Now().Add(-time.Hour), Limit: 9}, 0}, "of any time": {DecisionFilter{Since: whole.Since, Until: whole.Until, Limit: 9}, 4},
	} {
		if got, err := archive.Decisions(ctx, f.f); err != nil || len(got) != f.want {
			t.Errorf("%s: %d, %v", name, len(got), err)
		}
	}
	id := all[0].ID
	s, err := archive.Load(ctx, id)
	if err != nil || s.Verdict.Outcome != attest.Accepted || len(s.Policy.Measurements) != 1 || s.Policy.ReportData == [64]byte{} || s.Asked.Hash() != s.Policy.Hash() || s.Asked.ReportData != s.Policy.ReportData {
		t.Fatalf("%+v, %v", s, err)
	}
	for name, c := range map[string]string{
		"report": `UPDATE broker_decision SET report = NULL`, "report data": `UPDATE broker_decision SET report_data = NULL`, "policy": `UPDATE broker_decision SET policy = NULL`, "collateral": `UPDATE broker_decision SET collateral = NULL`,
		"objects of the collateral": `UPDATE broker_decision SET collateral = sha256('x')`,
	} {
		if _, err := r.db.Exec(ctx, c+` WHERE id = $1`, id); err != nil {
			t.Logf("without its %s: %v", name, err) // the schema does not let it be away
			continue
		}
		_, err := archive.Load(ctx, id)
		now, shown := archive.Decision(ctx, id)
		if shown != nil || now.ID != id {
			t.Errorf("%s: %v", name, shown)
		}
		if !errors.Is(err, ErrNotKept) {
			t.Errorf("without its %s: %v", name, err)
		}
		r.exec(`UPDATE broker_decision d SET report = o.report, report_data = o.report_data, policy = o.policy, collateral = o.collateral FROM broker_decision o WHERE d.id = $1 AND o.id = $2`, id, all[1].ID)
	}
	if _, err := archive.Load(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := archive.Decision(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	standing, err := archive.Standing(ctx)
	if err != nil || len(standing) != 1 || standing[0].Decision != all[0].ID || standing[0].Lease == "" || standing[0].Workspace != testWorkspace {
		t.Errorf("%+v, %v", standing, err)
	}
}

func TestVerdictOf(t *testing.T) {
	s := Stored{Judged: Judged{ID: "d", Collateral: make([]byte, 32)}, Policy: attest.Policy{Simulated: true}}
	s.Checks = []attest.Check{{Name: "a", Status: attest.Passed, Source: "code"}, {Name: "permit", Status: attest.Failed, Source: fromBroker, Code: CodePermit}}
	if v := verdictOf(s); v.Outcome != attest.Accepted || v.Code != "" || len(v.Checks) != 1 || !v.Simulated || v.Objects == nil {
		t.Errorf("%+v", v)
	}
	s.Checks = append(s.Checks, attest.Check{Name: "b", Status: attest.Failed, Source: "policy", Code: "x"}, attest.Check{Name: "c", Status: attest.Failed, Source: "policy", Code: "y"})
	if v := verdictOf(s); v.Outcome != attest.Refused || v.Code != "x" || v.Check != "b" || len(v.Checks) != 3 || v.Simulated {
		t.Errorf("%+v", v)
	}
}

// TestShreddedWhileThePayloadIsWritten: whoever prepares a key learns that the workspace is gone, and not that its key store
// lies.
func TestShreddedWhileThePayloadIsWritten(t *testing.T) {
	r := newRig(t)
	r.store.fault = func(_ int, verb string, applied bool) error {
		if verb == "put" && applied {
			if _, _, _, _, err := r.broker.destroyKey(t.Context(), testWorkspace); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	if _, err := r.broker.Prepare(t.Context(), volumeOf(testWorkspace)); !errors.Is(err, ErrShredded) {
		t.Errorf("prepared: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM broker_key WHERE state <> 'destroyed' OR kek IS NOT NULL`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_inbox WHERE action = 'key.prepare') + (SELECT count(*) FROM audit_entry WHERE action = 'key.prepare')`); n != 0 {
		t.Error("the log says that a key was prepared, or refused")
	}
}

// TestAKeyThatCannotBeSealedToLeavesTheNonce: the guest may ask again with its challenge and a good key.
func TestAKeyThatCannotBeSealedToLeavesTheNonce(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	good := g.request(c, req, "")
	bad := good
	bad.HPKE.PublicKey = make([]byte, len(good.HPKE.PublicKey)-1)
	_, err = r.broker.Grant(t.Context(), bad, "192.0.2.1")
	wantCode(t, err, CodeBinding)
	if _, err := r.broker.Grant(t.Context(), good, "192.0.2.1"); err != nil {
		t.Errorf("the same challenge with a good key: %v", err)
	}
}
