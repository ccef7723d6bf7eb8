package keybroker

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
)

// credit is what an address may be refused before it has to wait.
func (l *limits) credit(peer string) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(peer)
	l.settle(a)
	return a.tokens
}

// under is how many requests of an address hold its credit, and how many wait for that.
func (l *limits) under(peer string) (held, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(peer)
	return a.held, len(a.waiting)
}

// A stranger with credit sends all at once: no more of it is under way than he has credit for, each refusal is paid, and
// what is left waits in the line like that of any who has none.
func TestUnderWayIsBoundedByCredit(t *testing.T) {
	t.Parallel()
	const requests = 4 * peerBurst
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	c, req, err := r.boot(testWorkspace, 1).challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := r.boot(testWorkspace, 1).request(c, req, "")
	spoilt.Evidence.Report = nil
	var judged, full atomic.Int64
	release := make(chan struct{})
	collateral := r.broker.Collateral
	r.broker.Collateral = func(ctx context.Context, q CollateralQuery) (attest.Collateral, error) {
		judged.Add(1)
		<-release
		return collateral(ctx, q)
	}
	r.fillLine()
	used, _, _ := r.broker.ticket(c.Challenge)
	var all sync.WaitGroup
	for range requests {
		request := spoilt
		used.id = newID()
		request.Challenge, _ = r.broker.issue(used)
		all.Go(func() {
			_, err := r.broker.Grant(context.Background(), request, stranger)
			var refused *Refusal
			switch {
			case !errors.As(err, &refused):
				t.Error(err)
			case refused.Code == CodeRate:
				full.Add(1)
			case refused.Code != attest.CodeFormat:
				t.Error(err)
			}
		})
	}
	for waiting := 0; int(judged.Load())+waiting < requests; _, waiting = r.broker.limits.under(stranger) {
		runtime.Gosched()
	}
	if n := judged.Load(); n != peerBurst {
		t.Errorf("%d requests of a stranger are under way, want %d", n, peerBurst)
	}
	close(release)
	all.Wait()
	if judged.Load() != peerBurst || full.Load() != requests-peerBurst {
		t.Errorf("%d requests are judged on credit, and %d find the line full; want %d and %d", judged.Load(), full.Load(), peerBurst, requests-peerBurst)
	}
	if left := r.broker.limits.credit(stranger); left != 0 {
		t.Errorf("%v of its credit are left", left)
	}
}

// A site of a thousand guests behind one address reboots in one moment: all of them are let in, and it costs nothing.
func TestThousandGuestsInOneMoment(t *testing.T) {
	t.Parallel()
	const guests = 1000
	r := newRig(t)
	ctx := context.Background()
	r.prepareAndArm(testWorkspace)
	r.exec(`INSERT INTO broker_volume SELECT (jsonb_populate_record(v, jsonb_build_object('workspace', 'w' || i))).* FROM broker_volume v, generate_series(1, $1) i`, guests)
	r.exec(`INSERT INTO broker_arm SELECT (jsonb_populate_record(a, jsonb_build_object('workspace', 'w' || i))).* FROM broker_arm a, generate_series(1, $1) i`, guests)
	moment, err := r.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := moment.Exec(ctx, `LOCK TABLE broker_arm`); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var refused atomic.Int64
	for i := range guests {
		all.Go(func() {
			req := door.ChallengeRequest{Workspace: "w" + strconv.Itoa(i+1), Generation: 1, Purpose: door.Renew}
			if _, err := r.broker.Challenge(ctx, req, siteNAT); err != nil {
				refused.Add(1)
			}
		})
	}
	for {
		held, waiting := r.broker.limits.under(siteNAT)
		if held+waiting+len(r.broker.line.waiting)+len(r.broker.line.places)+int(refused.Load()) >= guests {
			break
		}
		runtime.Gosched()
	}
	if err := moment.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d guests are refused", n)
	}
	if left := r.broker.limits.credit(siteNAT); left != peerBurst {
		t.Errorf("%v of the site's credit are left, want %d", left, peerBurst)
	}
}

// spent is an address of which all credit is held.
func spent(t *testing.T, c *clock) (*limits, []*account) {
	t.Helper()
	l := newLimits(c.now)
	var held []*account
	for range peerBurst {
		held = append(held, l.enter(context.Background(), "p"))
		if held[0] == nil || held[len(held)-1] != held[0] {
			t.Fatal("not let in with credit")
		}
	}
	return l, held
}

func standing2026() *clock { return &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

// Those who wait for credit that is held come in in their order, whoever hangs up takes nothing, and when all of it is spent
// the rest have none.
func TestWaitingForCreditThatIsHeld(t *testing.T) {
	l, held := spent(t, standing2026())
	a := held[0]
	ctx, hangUp := context.WithCancel(context.Background())
	turns := make([]chan *account, 4)
	for i := range turns {
		turns[i] = make(chan *account, 1)
		caller := context.Background()
		if i == 1 {
			caller = ctx
		}
		go func() { turns[i] <- l.enter(caller, "p") }()
		for waiting := 0; waiting <= i; _, waiting = l.under("p") {
			runtime.Gosched()
		}
	}
	hangUp()
	if <-turns[1] != nil {
		t.Error("who has hung up was let in")
	}
	l.exit(a, 1)
	if <-turns[0] != a {
		t.Error("the first was not let in")
	}
	l.exit(a, 1)
	if <-turns[2] != a {
		t.Error("the next who is there was not let in")
	}
	for range peerBurst - 1 {
		l.exit(a, 0)
	}
	if held, waiting := l.under("p"); held != 1 || waiting != 1 {
		t.Errorf("%d hold, %d wait while one may come back", held, waiting)
	}
	l.exit(a, 0)
	if <-turns[3] != nil || l.enter(context.Background(), "p") != nil {
		t.Error("let in on credit that is spent")
	}
	if held, waiting := l.under("p"); held != 0 || waiting != 0 || l.credit("p") != 0 {
		t.Errorf("%d hold, %d wait, %v left", held, waiting, l.credit("p"))
	}
}

// Only so many wait, and there is never more credit than the burst, however long it is held.
func TestHeldCreditIsBounded(t *testing.T) {
	c := standing2026()
	l, held := spent(t, c)
	a := held[0]
	a.waiting = make([]chan bool, peerWaiting)
	if l.enter(context.Background(), "p") != nil || len(a.waiting) != peerWaiting {
		t.Error("one more waits")
	}
	a.waiting = nil
	l.waiting = allWaiting
	if l.enter(context.Background(), "p") != nil || len(a.waiting) != 0 || l.waiting != allWaiting {
		t.Error("one more waits of all")
	}
	if other := l.enter(context.Background(), "other"); other == nil || l.waiting != allWaiting {
		t.Error("who has credit need not wait, and is not let in")
	}
	l.waiting = 0
	c.add(time.Hour)
	if n := l.credit("p"); n != 0 {
		t.Errorf("%v came while all was held", n)
	}
	l.exit(a, 0)
	for range peerBurst - 1 {
		l.exit(a, 1)
	}
	if n := l.credit("p"); n != peerBurst-1 {
		t.Errorf("%v when all came back but one", n)
	}
	c.add(time.Hour)
	if n := l.credit("p"); n != peerBurst {
		t.Errorf("%v after an hour", n)
	}
}

// An address that is forgotten while requests of it are under way: they come to their end, and the address has no more
// credit for what they give back.
func TestForgottenWhileUnderWay(t *testing.T) {
	l, held := spent(t, standing2026())
	turn := make(chan *account)
	go func() { turn <- l.enter(context.Background(), "p") }()
	for waiting := 0; waiting == 0; _, waiting = l.under("p") {
		runtime.Gosched()
	}
	for i := 0; l.peers["p"] != nil; i++ {
		l.peerRefused(strconv.Itoa(i))
	}
	if len(l.peers) != maxBuckets {
		t.Errorf("%d addresses", len(l.peers))
	}
	fresh := l.enter(context.Background(), "p")
	l.exit(held[0], 1)
	if got := <-turn; got != held[0] || got == fresh {
		t.Error("who waited for it was forgotten, too")
	}
	l.exit(held[0], 1)
	if n := l.credit("p"); n != peerBurst-1 {
		t.Errorf("%v left, want what the address has without those", n)
	}
}

// What a request costs does not depend on who of those that end it says so, nor how often.
func TestTurnIsPaidOnce(t *testing.T) {
	for name, row := range map[string]struct {
		end   func(t *turn)
		costs float64
	}{
		"left":                    {func(t *turn) { t.leave() }, 0},
		"left twice":              {func(t *turn) { t.leave(); t.leave() }, 0},
		"refused":                 {func(t *turn) { t.refused(); t.leave() }, 1},
		"refused twice":           {func(t *turn) { t.refused(); t.refused(); t.leave() }, 1},
		"somebody who is refused": {func(t *turn) { t.leave(); t.refused(); t.refused(); t.leave() }, 1},
	} {
		for way, within := range map[string]bool{"on credit": true, "in the line": false} {
			b := &Broker{limits: newLimits(standing2026().now), line: newLine(), aggregate: newAggregate()}
			turn, err := b.admit(context.Background(), "p", within)
			if err != nil {
				t.Fatal(err)
			}
			row.end(turn)
			held, _ := b.limits.under("p")
			if got := peerBurst - b.limits.credit("p"); got != row.costs || held != 0 || len(b.line.places) != 0 {
				t.Errorf("%s, %s: costs %v, want %v; %d held, %d places taken", name, way, got, row.costs, held, len(b.line.places))
			}
		}
	}
	none := &Broker{limits: newLimits(standing2026().now), line: &line{}, aggregate: newAggregate()}
	_, err := none.admit(context.Background(), "p", false)
	wantCode(t, err, CodeRate)
	if n := none.limits.credit("p"); n != peerBurst {
		t.Errorf("%v left of who was not let in", n)
	}
}

// Who has hung up before a turn of his is not let in, and is not counted as one of too many, whether or not there is room.
func TestHungUpBeforeItsTurn(t *testing.T) {
	b := &Broker{limits: newLimits(standing2026().now), line: newLine(), aggregate: newAggregate()}
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	for range peerBurst {
		if b.limits.enter(context.Background(), "p") == nil {
			t.Fatal("not let in with credit")
		}
	}
	hungUp := func(err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that the caller is gone", err)
		}
	}
	for _, within := range []bool{true, false} {
		for range 64 { // a select of two that are ready takes either
			_, err := b.admit(gone, "p", within)
			hungUp(err)
		}
	}
	for range linePlaces {
		if b.line.enter(context.Background()) == nil {
			t.Fatal("not let in by an empty line")
		}
	}
	waiting, hangUp := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := b.admit(waiting, "p", false)
		ended <- err
	}()
	for len(b.line.waiting) == 0 {
		runtime.Gosched()
	}
	hangUp()
	hungUp(<-ended)
	if len(b.aggregate.counts) != 0 || len(b.line.waiting) != 0 || len(b.line.places) != linePlaces {
		t.Errorf("counted: %v; %d wait and %d are in the line", b.aggregate.counts, len(b.line.waiting), len(b.line.places))
	}
}

// What nothing would judge costs its address one, also where the database fails before the challenge is closed.
func TestUnkeptRefusalIsPaidWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	g := r.boot(testWorkspace, 1)
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := g.request(c, req, "")
	spoilt.Evidence.TEE = "none"
	r.exec(`CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$`)
	r.exec(`CREATE TRIGGER fails BEFORE UPDATE ON broker_challenge EXECUTE FUNCTION fails()`)
	_, err = r.broker.Grant(context.Background(), spoilt, stranger)
	var refused *Refusal
	if err == nil || errors.As(err, &refused) {
		t.Errorf("the database's fault is not told: %v", err)
	}
	if n := r.broker.limits.credit(stranger); n > peerBurst-0.5 {
		t.Errorf("%v of the credit are left", n)
	}
}
