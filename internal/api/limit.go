package api

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	ratePerSecond = 50
	rateBurst     = 300
	maxBuckets    = 10_000

	// Denials of one caller that have an entry each. Those beyond are counted. What would have changed something has a budget
	// of its own: whoever plans a misdeed could use up one that is shared with reads by reading.
	denialsPerSecond = 0.1
	denialsBurst     = 100
	changesPerSecond = 0.1
	changesBurst     = 20
	maxNamed         = 1000 // callers told apart in one minute's entries about denials
	maxObjects       = 5    // named in such an entry for each operation
)

// looks are the verbs of operations that change nothing. Any other verb changes something.
var looks = []string{"list", "get", "explain", "read", "proof", "test", "check", "bundle", "preflight"}

func changes(op authz.Operation) bool {
	_, verb, _ := strings.Cut(string(op), ".")
	return !slices.Contains(looks, verb)
}

// limiter is one token bucket per caller.
type limiter struct {
	now         func() time.Time
	rate, burst float64

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(now func() time.Time, rate, burst float64) *limiter {
	return &limiter{now: now, rate: rate, burst: burst, buckets: map[string]bucket{}}
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
		b = bucket{l.burst, now}
	}
	b.left = min(l.burst, b.left+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.left < 1 {
		l.buckets[subject] = b
		return time.Duration((1 - b.left) / l.rate * float64(time.Second))
	}
	b.left--
	l.buckets[subject] = b
	return 0
}

// refusals counts what is refused and has no entry of its own: a flood of it costs one entry a minute.
type refusals struct {
	mu     sync.Mutex
	crowds map[crowd]*tally
}

// tally is what is told of a crowd.
type tally struct {
	counts  map[string]int64    // by why
	objects map[string][]string // by operation, the first that somebody wanted to change
}

// crowd is what one entry about many refusals is about.
type crowd struct {
	actor        audit.Actor
	action, code string
}

var (
	siestad = audit.Actor{Kind: audit.System, Subject: "siestad"}
	// Anybody can send a token that is none.
	badTokens = crowd{siestad, "token.verify", "token"}
	// An issuer has accounts that nobody has given a role here.
	strangers = crowd{siestad, "access.deny", "no_role"}
	others    = crowd{siestad, "access.deny", "budget"}
)

func newRefusals() *refusals { return &refusals{crowds: map[crowd]*tally{}} }

func (r *refusals) count(of crowd, why string, n int64, objects ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.crowds[of] == nil {
		if of.actor != siestad && len(r.crowds) >= maxNamed {
			of = others
		}
		if r.crowds[of] == nil {
			r.crowds[of] = &tally{counts: map[string]int64{}, objects: map[string][]string{}}
		}
	}
	t := r.crowds[of]
	t.counts[why] += n
	for _, o := range objects {
		if known := t.objects[why]; len(known) < maxObjects && !slices.Contains(known, o) {
			t.objects[why] = append(known, o)
		}
	}
}

func (r *refusals) taken() map[crowd]*tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.crowds
	r.crowds = map[crowd]*tally{}
	return taken
}

// inCrowd says that a denial of this caller is counted, and where, instead of having an entry of its own.
func (s *Server) inCrowd(c *call, op authz.Operation) (crowd, bool) {
	if len(c.who.Roles) == 0 {
		return strangers, true
	}
	budget := s.denials
	if changes(op) {
		budget = s.changes
	}
	if budget.take(c.who.Subject) > 0 {
		return crowd{c.actor(), others.action, others.code}, true
	}
	return crowd{}, false
}

// flushRefusals writes once a minute, and once more when ctx ends; then it waits, for a moment, until that stands under a
// signed checkpoint. Whoever runs it stops the audit log later.
func (s *Server) flushRefusals(ctx context.Context) {
	for tick(ctx, time.Minute) {
		s.flushOnce(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if id := s.flushOnce(last); id != 0 {
		if _, _, err := s.cfg.Log.WaitID(last, id); err != nil {
			s.cfg.Logger.Warn("the last refusals are in the audit log and not yet signed", zap.Error(err))
		}
	}
}

// flushOnce writes entries about what was refused since the last, and returns the id of one. Nobody waits for them: the
// callers have long been answered. What could not be written is counted into the next.
func (s *Server) flushOnce(ctx context.Context) (id audit.ID) {
	taken := s.refusals.taken()
	if len(taken) == 0 {
		return 0
	}
	err := postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) (err error) {
		for of, t := range taken {
			details := map[string]any{}
			for why, n := range t.counts {
				details[why] = n
			}
			if len(t.objects) > 0 {
				details["objects"] = t.objects
			}
			id, err = s.cfg.Log.Append(ctx, tx, audit.Entry{
				Actor: of.actor, Action: of.action, Object: "api", Outcome: audit.Refused, Code: of.code, Details: details,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.cfg.Logger.Error("refusals could not be audited", zap.Error(err))
		for of, t := range taken {
			for why, n := range t.counts {
				s.refusals.count(of, why, n, t.objects[why]...)
			}
		}
		return 0
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
