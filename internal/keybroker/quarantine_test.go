package keybroker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/permit"
)

const otherWorkspace = "01jabcdefghjkmnpqrstvwxyz1"

var olga = audit.Actor{Kind: audit.Person, Subject: "https://issuer|olga"}

func nodeOne(string, string) string { return "node-1" }

// place quarantines in a transaction of its own, as package quarantine does.
func (r *rig) place(kind permit.FreezeKind, value string, before func()) (hits []Hit, rounds int, err error) {
	permits := permit.New(r.db, r.log.Recorder, permit.Site{Name: testSite, Hosts: []string{"node-1", "node-2"}})
	err = r.tx(func(tx pgx.Tx) error {
		hits, err = Quarantine(context.Background(), tx, nodeOne, kind, value, func(ctx context.Context, tx pgx.Tx) (string, error) {
			if rounds++; before != nil {
				before()
			}
			_, err := permits.PlaceQuarantine(ctx, tx, olga, permit.Freeze{Kind: kind, Value: value, Reason: "test"})
			return "quarantine", err
		})
		return err
	})
	return hits, rounds, err
}

func TestQuarantineEndsLeasesAndRefuses(t *testing.T) {
	for kind, value := range map[permit.FreezeKind]string{
		"chip": attest.ChipKey(make([]byte, 64)), "host": testSite + "/node-1", "image": testImage, "key": testWorkspace + "/1", "product": "Genoa",
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.broker.Host = nodeOne
			g, answer, _ := r.ready(testWorkspace)
			r.exec(`UPDATE broker_lease SET product = 'Genoa'`) // the plain platform has no product line
			hits, _, err := r.place(kind, value, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(hits) != 1 || hits[0].Workspace != testWorkspace || hits[0].Lease != answer.Lease.ID || hits[0].Host != "node-1" {
				t.Fatalf("hits: %+v", hits)
			}
			if n := r.count(`SELECT count(*) FROM broker_lease WHERE state = 'live' OR sealed_text IS NOT NULL`); n != 0 {
				t.Errorf("%d leases live on", n)
			}
			_, _, err = g.grant(door.Renew)
			want := CodeFreeze
			if kind == "product" {
				want = CodeLease // and the freeze names a line that the plain platform does not have
			}
			wantCode(t, err, want)
		})
	}
}

func TestQuarantineLeavesTheRest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	r.exec(`INSERT INTO image (id, name, state, created_by) VALUES ('another', 'guest', 'draft', 'op')`)
	r.exec(`INSERT INTO broker_key (workspace, version, state, epoch, kek, blob_hash) SELECT workspace, 2, 'prepared', epoch, kek, blob_hash FROM broker_key`)
	for kind, value := range map[permit.FreezeKind]string{
		"chip": strings.Repeat("ab", 64), "host": testSite + "/node-2", "image": "another", "key": testWorkspace + "/2", "product": "Milan",
	} {
		hits, _, err := r.place(kind, value, nil)
		if err != nil || len(hits) != 0 {
			t.Errorf("%s %s: %+v, %v", kind, value, hits, err)
		}
	}
	if _, _, err := g.grant(door.Renew); err != nil {
		t.Errorf("a guest that no quarantine names: %v", err)
	}
}

// TestQuarantineSeesLeasesOfTheLastMoment: a lease that is given while the quarantine waits for its turn is ended, too.
func TestQuarantineSeesLeasesOfTheLastMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ready(testWorkspace)
	var late sync.Once
	hits, rounds, err := r.place("chip", attest.ChipKey(make([]byte, 64)), func() {
		late.Do(func() { r.ready(otherWorkspace) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(hits) != 2 || rounds != 2 {
		t.Errorf("%d hits after %d rounds", len(hits), rounds)
	}
	if n := r.count(`SELECT count(*) FROM broker_lease WHERE state = 'live'`); n != 0 {
		t.Errorf("%d leases live on", n)
	}
	if n := r.count(`SELECT count(*) FROM freeze_order WHERE quarantine`); n != 1 {
		t.Errorf("%d freezes of one quarantine", n)
	}
}

// TestQuarantineAmongRenewals: nobody waits for ever, and nothing is live afterwards.
func TestQuarantineAmongRenewals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, _, _ := r.ready(testWorkspace)
	second, _, _ := r.ready(otherWorkspace)
	var renewing sync.WaitGroup
	var mu sync.Mutex
	var wrong []error
	began := make(chan struct{}, 2)
	for _, g := range []*guest{first, second} {
		renewing.Go(func() {
			for i := 0; ; i++ {
				_, _, err := g.grant(door.Renew)
				if i == 0 {
					began <- struct{}{}
				}
				if err != nil {
					if refused := (*Refusal)(nil); !errors.As(err, &refused) || refused.Code != CodeFreeze && refused.Code != CodeRate {
						mu.Lock()
						wrong = append(wrong, err)
						mu.Unlock()
					}
					return
				}
			}
		})
	}
	<-began
	<-began
	hits, _, err := r.place("image", testImage, nil)
	renewing.Wait()
	if err != nil || len(hits) != 2 || wrong != nil {
		t.Errorf("%d hits, %v, renewals: %v", len(hits), err, wrong)
	}
	if n := r.count(`SELECT count(*) FROM broker_lease WHERE state = 'live'`); n != 0 {
		t.Errorf("%d leases live on", n)
	}
}

// documents narrow to nothing but what the test says.
type documents struct {
	narrow func(attest.Policy) (attest.Policy, error)
	raise  func(attest.Policy) (attest.Policy, error)
}

func (d documents) Narrow(_ context.Context, _ pgx.Tx, _, _ string, p attest.Policy) (attest.Policy, error) {
	return d.narrow(p)
}

func (d documents) Raise(_ context.Context, _ [32]byte, p attest.Policy) (attest.Policy, error) {
	return d.raise(p)
}

func same(p attest.Policy) (attest.Policy, error) { return p, nil }

func TestArmUnderDocuments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	strict := documents{raise: same, narrow: func(p attest.Policy) (attest.Policy, error) {
		p.RequireAliasCheck = true
		return p, nil
	}}
	r.broker.Policies = strict
	r.prepareAndArm(testWorkspace)
	narrowed, _ := strict.narrow(r.platform.policy())
	asked, armed := r.platform.policy().Hash(), narrowed.Hash()
	if n := r.count(`SELECT count(*) FROM broker_arm WHERE asked = $1 AND policy = $2`, asked[:], armed[:]); n != 1 {
		t.Error("not armed under the documents")
	}
	// Documents that change meanwhile do not make the same arm another one.
	r.broker.Policies = documents{narrow: same, raise: same}
	r.arm(testWorkspace, 1)
	if n := r.count(`SELECT count(*) FROM broker_arm WHERE policy = $1`, armed[:]); n != 1 {
		t.Error("arming again changed the policy")
	}
	none := errors.New("nothing is left to admit")
	r.broker.Policies = documents{narrow: func(attest.Policy) (attest.Policy, error) { return attest.Policy{}, none }}
	err := r.tx(func(tx pgx.Tx) error { return r.broker.Arm(context.Background(), tx, r.armOf(testWorkspace, 2)) })
	if !errors.Is(err, none) {
		t.Errorf("armed although the documents leave nothing: %v", err)
	}
}

// TestFloorHoldsFromItsActivation: the next verdict is given under it and says so; an answer that is given again is not
// changed by it.
func TestFloorHoldsFromItsActivation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raised := r.platform.policy()
	raised.RequireAliasCheck = true
	r.broker.Policies = documents{narrow: same, raise: func(attest.Policy) (attest.Policy, error) { return raised, nil }}
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	request := g.request(c, req, "")
	if _, err := r.broker.Grant(context.Background(), request, "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	r.exec(`INSERT INTO security_floor (id, sha256, body, issued, state, proposed_by, activated_by) VALUES ('f', $1, '{}', now(), 'active', 'a', 'b')`, make([]byte, 32))
	again, err := r.broker.Grant(context.Background(), request, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	g.open(c, req, again) // fails when the answer is bound to another policy than its first form

	if _, _, err := g.grant(door.Renew); err != nil {
		t.Fatal(err)
	}
	hash := raised.Hash()
	if n := r.count(`SELECT count(*) FROM broker_decision d JOIN broker_blob b ON b.sha256 = d.policy WHERE d.purpose = 'renew' AND d.policy = $1`, hash[:]); n != 1 {
		t.Error("the renewal was not judged, or its policy not kept, under the floor")
	}
	r.broker.Policies = nil
	if _, _, err := g.grant(door.Renew); err == nil {
		t.Error("a process that cannot read the floor renewed")
	}
}
