package api

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	ratePerSecond = 50
	rateBurst     = 300
	maxBuckets    = 10_000
)

// limiter is one token bucket per caller.
type limiter struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, buckets: map[string]bucket{}}
}

// take returns how long the caller has to wait, 0 if not at all.
func (l *limiter) take(subject string) time.Duration {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets[subject]
	if !ok {
		if len(l.buckets) >= maxBuckets {
			clear(l.buckets) // everybody starts with a full bucket again: kinder than remembering without bound
		}
		b = bucket{rateBurst, now}
	}
	b.left = min(rateBurst, b.left+now.Sub(b.at).Seconds()*ratePerSecond)
	b.at = now
	if b.left < 1 {
		l.buckets[subject] = b
		return time.Duration((1 - b.left) / ratePerSecond * float64(time.Second))
	}
	b.left--
	l.buckets[subject] = b
	return 0
}

// refusals counts tokens that were refused. Anybody can cause one, so they are audited in aggregate: a flood of them
// costs one entry a minute.
type refusals struct {
	mu     sync.Mutex
	counts map[string]int64
}

func newRefusals() *refusals { return &refusals{counts: map[string]int64{}} }

func (r *refusals) count(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[why]++
}

func (r *refusals) taken() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.counts
	r.counts = map[string]int64{}
	return taken
}

func (s *Server) flushRefusals(ctx context.Context) {
	for tick(ctx, time.Minute) {
		s.flushOnce(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	s.flushOnce(last)
}

// flushOnce writes one entry about what was refused since the last. Nobody waits for it: the callers have long been
// answered. What could not be written is counted into the next.
func (s *Server) flushOnce(ctx context.Context) (id audit.ID) {
	counts := s.refusals.taken()
	if len(counts) == 0 {
		return 0
	}
	details := map[string]any{}
	for why, n := range counts {
		details[why] = n
	}
	err := postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) (err error) {
		id, err = s.cfg.Log.Append(ctx, tx, audit.Entry{
			Actor: audit.Actor{Kind: audit.System, Subject: "siestad"}, Action: "token.verify", Object: "api",
			Outcome: audit.Refused, Code: "token", Details: details,
		})
		return err
	})
	if err != nil {
		s.cfg.Logger.Error("refused tokens could not be audited", zap.Error(err))
		s.refusals.mu.Lock()
		defer s.refusals.mu.Unlock()
		for why, n := range counts {
			s.refusals.counts[why] += n
		}
	}
	return id
}

// tick waits; false means that ctx has ended.
func tick(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
