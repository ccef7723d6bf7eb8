package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

const (
	maxBatch = 1024
	// maxDirect leaves room for the inbox in a batch while denials flood in.
	maxDirect = 768
	minPause  = 5 * time.Millisecond
	gather    = 20 * time.Millisecond
	maxPause  = 250 * time.Millisecond
	goodbye   = 2 * time.Second
)

// errTampered stops the sequencer for good: what is stored is not what was
// signed, and signing on top of it would make it look as if it had been.
var errTampered = errors.New("the stored audit log is not the one that was signed")

// lead is one term of leadership: an epoch, its connection, and the tree.
type lead struct {
	log    *Log
	conn   *pgxpool.Conn
	epoch  int64
	edge   edge
	held   *queued // taken from the queue while idle, first of the next batch
	inbox  bool    // whether the inbox may have entries
	saved  time.Time
	latest []byte // newest checkpoint, to be remembered outside the database
}

// Run leads the log whenever no other process does, until ctx ends. It returns
// an error only when the log must not be signed any further: that needs a human.
func (l *Log) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { l.retake(ctx, l.db, l.logger) })
	defer beside.Wait()
	defer stop()
	var unsettled []*queued // in a batch whose commit was not seen
	defer func() {
		l.turnAway()
		for _, q := range unsettled {
			q.done <- answer{unknown: true}
		}
	}()
	for ctx.Err() == nil {
		pause := l.lease / 4
		left, err := l.term(ctx, unsettled)
		unsettled = left
		switch {
		case errors.Is(err, errTampered):
			return fmt.Errorf("running audit log: %w", err)
		case err != nil && ctx.Err() == nil:
			l.logger.Warn("audit sequencer interrupted", zap.Error(err))
			pause = min(pause, maxPause)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

const (
	sqlAcquire = `UPDATE audit_head SET epoch = epoch + 1, holder = $1, lease_until = clock_timestamp() + $2::interval
WHERE lease_until < clock_timestamp() OR holder = $1 RETURNING epoch, size, root, key`
	sqlRenew = `UPDATE audit_head SET lease_until = clock_timestamp() + $2::interval WHERE epoch = $1`
	sqlYield = `UPDATE audit_head SET lease_until = '-infinity', holder = '' WHERE epoch = $1`
)

// term tries to become leader and leads until something is wrong. It returns
// the queued entries whose fate is unknown.
func (l *Log) term(ctx context.Context, unsettled []*queued) ([]*queued, error) {
	conn, err := l.db.Acquire(ctx)
	if err != nil {
		return unsettled, fmt.Errorf("connecting: %w", err)
	}
	clean := false
	defer func() {
		if !clean {
			// Whatever transaction is open ends with its connection, and so do
			// the session's settings.
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
		}
		conn.Release()
	}()
	t := &lead{log: l, conn: conn}
	head, won, err := t.acquire(ctx)
	if err != nil {
		return unsettled, err
	}
	if won {
		if _, err := conn.Exec(ctx, sqlTune); err != nil {
			return unsettled, fmt.Errorf("preparing the session: %w", err)
		}
		if err := t.load(ctx, head); err != nil {
			return unsettled, err
		}
	}
	// Acquiring waited for the head's row lock, or found a later leader: either
	// way a batch of an earlier term of ours is now committed or gone.
	if unsettled, err = t.settleEarlier(ctx, unsettled); err != nil {
		return unsettled, err
	}
	if !won {
		clean = true
		return nil, nil
	}
	l.leading.Store(true)
	l.logger.Info("leading the audit log", zap.Int64("epoch", t.epoch), zap.Int64("size", t.edge.size))
	left, err := t.run(ctx)
	l.leading.Store(false)
	l.turnAway()
	if ctx.Err() != nil {
		t.yield(context.WithoutCancel(ctx))
	}
	return left, err
}

// turnAway sends the entries that are in no batch yet to the inbox.
func (l *Log) turnAway() {
	for {
		select {
		case q := <-l.queue:
			q.done <- answer{again: true}
		default:
			return
		}
	}
}

type headRow struct {
	size int64
	root []byte
}

func (t *lead) acquire(ctx context.Context) (headRow, bool, error) {
	var h headRow
	var key string
	rows, err := t.conn.Query(ctx, sqlAcquire, t.log.holder, t.log.lease)
	if err != nil {
		return h, false, fmt.Errorf("acquiring the lead: %w", err)
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return h, false, fmt.Errorf("acquiring the lead: %w", err)
		}
		return h, false, nil
	}
	if err := rows.Scan(&t.epoch, &h.size, &h.root, &key); err != nil {
		return h, false, fmt.Errorf("acquiring the lead: %w", err)
	}
	if key != t.log.key {
		return h, false, fmt.Errorf("%w: its key is %q and this program's %q", errTampered, key, t.log.key)
	}
	return h, true, nil
}

// yield gives the lease back, so that the next leader need not wait for it.
func (t *lead) yield(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	if _, err := t.log.db.Exec(ctx, sqlYield, t.epoch); err != nil {
		t.log.logger.Warn("giving back the audit lease", zap.Error(err))
	}
	t.remember(true)
}

const (
	// The inbox is nearly always empty and its heap is full of what has left it:
	// only its index tells quickly. The planner, which sees a small table, would
	// scan heap and log again and again, so the leader's session may not. (Where
	// there is no other way, the forbidden plan looks costly enough to compile.)
	sqlTune = `SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false),
    set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)`
	sqlWaiting = `SELECT coalesce((SELECT true FROM audit_inbox ORDER BY id LIMIT 1), false)`
)

// run makes batches until an error. While somebody waits there is no timer: a
// batch forms by itself out of what came in during the previous one's commit.
// While nobody does, entries gather for a moment, so that the actions they
// belong to keep the disk and the processor.
func (t *lead) run(ctx context.Context) ([]*queued, error) {
	pause := minPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	t.inbox = true
	var last time.Time // of the last batch or renewal
	for {
		select {
		case <-t.log.wake:
			t.inbox = true
		default:
		}
		batch := t.collect()
		if len(batch) > 0 || (t.inbox && (t.log.awaited() || time.Since(last) >= gather)) {
			n, err := t.batch(ctx, batch)
			if err != nil {
				return batch, err
			}
			if n > 0 {
				last, pause = time.Now(), minPause
				t.remember(false)
				continue
			}
		}
		if time.Since(last) >= t.log.lease/3 {
			if err := t.renew(ctx); err != nil {
				return nil, err
			}
			last = time.Now()
		}
		timer.Reset(min(pause, t.log.lease/3))
		select {
		case <-ctx.Done():
			return nil, nil
		case <-t.log.wake:
			t.inbox, pause = true, minPause
		case t.held = <-t.log.queue:
			// Not written alone: the loop collects it with what came meanwhile.
		case <-timer.C:
			if !t.inbox {
				if err := t.conn.QueryRow(ctx, sqlWaiting).Scan(&t.inbox); err != nil {
					return nil, fmt.Errorf("looking for entries: %w", err)
				}
			}
			pause = min(2*pause, maxPause)
		}
	}
}

func (t *lead) renew(ctx context.Context) error {
	tag, err := t.conn.Exec(ctx, sqlRenew, t.epoch, t.log.lease)
	if err != nil {
		return fmt.Errorf("renewing the lead: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return errors.New("renewing the lead: another process leads")
	}
	t.remember(false)
	return nil
}

// awaited says whether anybody in this process waits for an entry.
func (l *Log) awaited() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiters) > 0
}

func (t *lead) collect() []*queued {
	var batch []*queued
	if t.held != nil {
		batch, t.held = append(batch, t.held), nil
	}
	for len(batch) < maxDirect {
		select {
		case q := <-t.log.queue:
			batch = append(batch, q)
		default:
			return batch
		}
	}
	return batch
}
