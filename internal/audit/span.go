package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// span is what a program makes ids of: a number, which tells programs apart that
// record at once, and microseconds. The database gives a program one of 1,024
// numbers for an hour of microseconds, and never gives out a microsecond of a number
// again. So no two programs can make the same id, whatever their clocks say and
// however long one was paused or cut off; and a program holds nothing, no lock and
// no connection, that could be lost before it knows.
//
// ids follow the clock through the first half hour. Where no other span comes in
// that time (the log is not run here, or the database is away), they are counted on
// through the second half, a microsecond each: these entries come early in the
// inbox's order, and it takes 1,800,000,000 of them until one is refused. The zero
// span refuses every id.
type span struct {
	number int64
	last   int64 // microsecond of the newest id
	follow int64 // ids follow the clock up to here,
	until  int64 // and end before here
}

const (
	numberBits = 10
	spanLength = time.Hour
	// spanRetry is after how long a program that was given no span asks again.
	spanRetry = time.Minute
)

var errUsedUp = errors.New("making audit id: this program has used up the ids it was given; start it again")

// next returns a new id, greater than those before it.
func (s *span) next(now time.Time) (ID, error) {
	at := max(s.last+1, min(now.UnixMicro(), s.follow))
	if at >= s.until {
		return 0, errUsedUp
	}
	s.last = at
	return ID(at<<numberBits | s.number), nil
}

// The number that was given up to the earliest time is nearly always one that no
// program makes ids with now. Where there is none, the span lies ahead of the clock.
const sqlSpan = `UPDATE audit_program SET until = greatest(until, $1) + $2
WHERE number = (SELECT number FROM audit_program ORDER BY until LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING number, until`

// take gets another span, behind all ids that were made before. It has its own
// transaction: what the database gave must not come back. If we crash here, or the
// answer is lost, a span is lost and nothing else.
func (r *Recorder) take(ctx context.Context, db *pgxpool.Pool, now time.Time) error {
	r.mu.Lock()
	from := max(r.span.last+1, now.UnixMicro())
	r.mu.Unlock()
	var s span
	err := db.QueryRow(ctx, sqlSpan, from, spanLength.Microseconds()).Scan(&s.number, &s.until)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("taking ids for audit entries: every number is being given to some program just now; try again")
	case err != nil:
		return fmt.Errorf("taking ids for audit entries: %w", err)
	}
	start := s.until - spanLength.Microseconds()
	if s.number < 0 || s.number >= 1<<numberBits || start < from {
		return fmt.Errorf("taking ids for audit entries: %w: number %d up to %d was given before", errTampered, s.number, s.until)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.last = max(r.span.last, start-1)
	s.follow = s.until - spanLength.Microseconds()/2
	r.span = s
	return nil
}

// retake takes another span whenever half of the time is over in which ids follow
// the clock, until ctx ends.
func (r *Recorder) retake(ctx context.Context, db *pgxpool.Pool, logger *zap.Logger) {
	timer := time.NewTimer(r.due())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pause := spanRetry
		if err := r.take(ctx, db, time.Now()); err == nil {
			pause = r.due()
		} else if ctx.Err() == nil {
			logger.Warn("audit ids may fall behind the clock", zap.Error(err))
		}
		timer.Reset(pause)
	}
}

func (r *Recorder) due() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(time.UnixMicro(r.span.follow)) - spanLength/4
}
