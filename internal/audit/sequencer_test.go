package audit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

// TestTakeOver: the leader goes silent without giving back its lease, and
// another takes over; the first wakes up and writes nothing.
func TestTakeOver(t *testing.T) {
	r := newRig(t)
	lease := func(c *Config) { c.Lease = 300 * time.Millisecond }
	silent := r.log(lease)
	conn, err := r.db.Acquire(r.context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	stale := &lead{log: silent, conn: conn}
	head, won, err := stale.acquire(r.context())
	if err != nil || !won {
		t.Fatalf("won %v, %v", won, err)
	}
	if err := stale.load(r.context(), head); err != nil {
		t.Fatal(err)
	}
	r.append(entry(0))
	stale.inbox = true
	if _, err := stale.batch(r.context(), nil); err != nil {
		t.Fatal(err)
	}

	next := r.running(lease)
	if receipt, err := waitID(r.context(), next, r.append(entry(1))); err != nil || receipt.Index != 1 {
		t.Fatalf("after the take-over: index %d, %v", receipt.Index, err)
	}

	// Whatever size the stale leader believes in, the fence raises.
	for _, know := range []int64{1, 2} {
		stale.edge.size = know
		q := &queued{done: make(chan answer, 1)}
		if q.sealed, err = silent.seal(entry(9)); err != nil {
			t.Fatal(err)
		}
		_, err = stale.batch(r.context(), []*queued{q})
		var fault *pgconn.PgError
		if !errors.As(err, &fault) || fault.Code != "SA002" {
			t.Fatalf("a stale leader that knows size %d: %v", know, err)
		}
		if _, err := conn.Exec(r.context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	if head := r.intact(next); head.Size != 2 {
		t.Fatalf("the log has %d entries", head.Size)
	}
}

// TestLeadersKilled cuts the leader's connection again and again while writers
// write. Nothing is lost, nothing is there twice.
func TestLeadersKilled(t *testing.T) {
	r := newRig(t)
	lease := func(c *Config) { c.Lease = 500 * time.Millisecond; c.Logger = nil }
	a, b := r.running(lease), r.running(lease)
	ctx, cancel := context.WithCancel(r.context())
	var killer, writers sync.WaitGroup
	axe, err := r.db.Acquire(r.context()) // never its own victim
	if err != nil {
		t.Fatal(err)
	}
	killer.Go(func() {
		defer axe.Release()
		for range 20 {
			// Whoever runs the sequencer's statements dies, mid-batch or between.
			// (Writers begin and commit in lower case.)
			_, err := axe.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid()
				AND (query IN ('BEGIN', 'COMMIT', 'ROLLBACK') OR query ~ 'audit_(head|fence|batch)|SELECT true FROM audit_inbox')`)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	const writing, each = 6, 40
	var mu sync.Mutex
	objects := map[string]bool{}
	for w := range writing {
		writers.Go(func() {
			l := []*Log{a, b}[w%2]
			for i := range each {
				e := entry(1000*w + i)
				var err error
				if w < 4 {
					_, err = l.Refuse(r.context(), e)
				} else {
					err = r.appendAndWait(l, e)
				}
				if err != nil {
					continue // its own connection was the victim, so nothing was promised
				}
				mu.Lock()
				objects[e.Object] = true
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	cancel()
	killer.Wait()
	r.db.Reset() // connections that were killed while idle
	r.fill(a, 1)
	head := r.intact(a)
	stored := map[string]int{}
	for before := head.Size; before > 0; {
		page, err := a.List(r.context(), Filter{Before: &before, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range page {
			stored[record.Object]++
			before = record.Index
		}
	}
	if len(objects) < writing*each/4 {
		t.Errorf("only %d entries were promised: the log hardly worked", len(objects))
	}
	for object := range objects {
		if stored[object] == 0 {
			t.Errorf("%s was promised and is not in the log", object)
		}
	}
	delete(stored, entry(0).Object) // the filler has the name of the first writer's first
	for object, n := range stored {
		if n > 1 {
			t.Errorf("%s is in the log %d times", object, n)
		}
	}
	t.Logf("%d entries, %d promised, epoch %d", head.Size, len(objects), r.count(`SELECT epoch FROM audit_head`))
}

func (r *rig) appendAndWait(l *Log, e Entry) error {
	var id ID
	err := postgres.InTx(r.context(), r.db, func(tx pgx.Tx) (err error) {
		id, err = l.Append(r.context(), tx, e)
		return err
	})
	if err == nil {
		_, err = waitID(r.context(), l, id)
	}
	return err
}

// TestCommitSeenTooLate: the batch committed and its answer was lost. The next
// term finds the queued entries in the log and stores them no second time.
func TestCommitSeenTooLate(t *testing.T) {
	r := newRig(t)
	l := r.log()
	conn, err := r.db.Acquire(r.context())
	if err != nil {
		t.Fatal(err)
	}
	term := &lead{log: l, conn: conn}
	head, won, err := term.acquire(r.context())
	if err != nil || !won {
		t.Fatalf("won %v, %v", won, err)
	}
	if err := term.load(r.context(), head); err != nil {
		t.Fatal(err)
	}
	stored, lost := &queued{done: make(chan answer, 2)}, &queued{done: make(chan answer, 2)}
	for i, q := range []*queued{stored, lost} {
		if q.sealed, err = l.seal(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := term.batch(r.context(), []*queued{stored}); err != nil {
		t.Fatal(err)
	}
	<-stored.done // pretend that this answer never came
	conn.Release()

	left, err := l.term(canceled(), []*queued{stored, lost})
	if err == nil {
		t.Fatal("a term without a connection settles something")
	}
	ctx, cancel := context.WithCancel(r.context())
	var done sync.WaitGroup
	done.Go(func() { _, _ = l.term(ctx, left) })
	if a := <-stored.done; a.again || a.index != 0 {
		t.Errorf("the stored entry: %+v", a)
	}
	if a := <-lost.done; !a.again {
		t.Errorf("the lost entry: %+v", a)
	}
	cancel()
	done.Wait()
	r.intact(l)
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestCrashBetweenCommitAndWait: the process that appended is gone, its entry
// is not.
func TestCrashBetweenCommitAndWait(t *testing.T) {
	r := newRig(t)
	gone := r.log()
	stop := r.start(gone)
	r.fill(gone, 1)
	_ = stop()
	id := r.append(entry(1)) // committed, nobody waits, nobody leads

	after := r.running()
	receipt, err := waitID(r.context(), after, id)
	if err != nil || receipt.Index != 1 {
		t.Fatalf("index %d, %v", receipt.Index, err)
	}
	// A third process, which never leads, gives the same entry's receipt.
	other, err := waitID(r.context(), r.log(), id)
	if err != nil || other.Index != 1 {
		t.Fatalf("index %d, %v", other.Index, err)
	}
	// Nothing says Notify for this one: it is found by polling.
	late := r.append(entry(2))
	for r.count(`SELECT count(*) FROM audit_entry WHERE id = $1`, late) == 0 {
		if err := r.context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEntriesFromBeforeCodesAreAnswered: whoever repeats a request from before an
// upgrade gets its receipt.
func TestEntriesFromBeforeCodesAreAnswered(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	r.fill(l, 3)
	_ = stop()
	r.disarm()
	r.exec(`UPDATE audit_entry SET mac = NULL, id = 7 WHERE leaf_index = 1`)
	if receipt, err := waitID(r.context(), r.log(), 7); err != nil || receipt.Index != 1 {
		t.Errorf("index %d, %v", receipt.Index, err)
	}
	r.exec(`UPDATE audit_entry SET mac = NULL WHERE leaf_index = 2`)
	var id ID
	if err := r.db.QueryRow(r.context(), `SELECT id FROM audit_entry WHERE leaf_index = 2`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	if _, err := waitID(r.context(), r.log(), id); !errors.Is(err, errTampered) {
		t.Errorf("a later entry without a code: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	r := newRig(t)
	for name, change := range map[string]func(*Config){
		"no database":      func(c *Config) { c.DB = nil },
		"no key":           func(c *Config) { c.Signer = nil },
		"short key":        func(c *Config) { c.Signer = c.Signer[:32] },
		"no origin":        func(c *Config) { c.Origin = "" },
		"origin with plus": func(c *Config) { c.Origin = "a+b" },
		"origin of lines":  func(c *Config) { c.Origin = "a\nb" },
		"negative lease":   func(c *Config) { c.Lease = -1 },
	} {
		c := Config{DB: r.db, Origin: origin, Signer: testKey}
		change(&c)
		if _, err := New(r.context(), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestEveryQueryPrepares on the migrated schema.
func TestEveryQueryPrepares(t *testing.T) {
	r := newRig(t)
	conn, err := r.db.Acquire(r.context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	before := int64(5)
	list, _, err := Filter{Action: "a", Object: "o", Project: "p", Outcome: Failed, Since: time.Now(), Until: time.Now(), Before: &before}.query()
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		sqlAppend, sqlSpan, sqlGiveKey, sqlLogKey, sqlFind, sqlAcquire, sqlRenew, sqlYield, sqlTune, sqlWaiting, sqlFence, sqlMove, sqlDirect, sqlDirectOpenings, sqlTiles,
		sqlBatch, sqlHead, sqlNewestBatch, sqlEdgeLeaves, sqlEdgeRoots, sqlReadTiles, sqlGet, list, sqlErase, sqlBundle,
		sqlExportUntil, sqlExportBatch, sqlExportEntry, sqlExportTile,
	} {
		if _, err := conn.Conn().Prepare(r.context(), "", sql); err != nil {
			t.Errorf("%s\n%v", sql, err)
		}
	}
}

var _ tlog.TileReader = (*tileReader)(nil)
