package collateral

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	firstRetry   = 10 * time.Second
	lastRetry    = time.Hour
	maxRetryWait = 24 * time.Hour
	// maxAttempts ends what evidence asked for; what is registered is tried for ever.
	maxAttempts = 8
	// ahead is how long before its end a certificate is fetched anew.
	ahead = 30 * 24 * time.Hour
)

type want struct {
	attest.Subject
	registered bool
	attempts   int
}

// fetchDue asks the vendors for all that is due, one request at a time at each.
func (s *Service) fetchDue(ctx context.Context) error {
	rows, err := s.DB.Query(ctx, queries["due"], s.Now())
	if err != nil {
		return fmt.Errorf("reading wanted collateral: %w", err)
	}
	byVendor := make(map[string][]want)
	var w want
	if _, err := pgx.ForEachRow(rows, []any{&w.Kind, &w.Key, &w.registered, &w.attempts}, func() error {
		vendor, _, _ := strings.Cut(w.Kind, "-")
		byVendor[vendor] = append(byVendor[vendor], w)
		return nil
	}); err != nil {
		return fmt.Errorf("reading wanted collateral: %w", err)
	}
	var pauses [2]time.Time
	g, ctx := errgroup.WithContext(ctx)
	vendors := []string{"amd", "intel"}
	for i, vendor := range vendors {
		pauses[i] = s.notBefore[vendor]
		g.Go(func() error {
			for _, w := range byVendor[vendor] {
				if s.Now().Before(pauses[i]) {
					return nil // the vendor asked for a pause: what is due stays due
				}
				pause, err := s.fetch(ctx, w)
				if err != nil {
					return err
				}
				pauses[i] = s.Now().Add(pause)
			}
			return nil
		})
	}
	err = g.Wait()
	for i, vendor := range vendors {
		s.notBefore[vendor] = pauses[i]
	}
	return err
}

// fetch asks for one subject and settles its want, the object and the want's state in one transaction. A crash before the
// commit leaves the want due. An error is of the database; pause is what the vendor asked for.
func (s *Service) fetch(ctx context.Context, w want) (pause time.Duration, err error) {
	found, err := s.Vendor.Fetch(ctx, w.Subject)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	now := s.Now()
	var all []proved
	if err == nil {
		all, err = s.proveAnswer(w.Subject, found, now)
	}
	state, attempts, next, detail := "held", 0, now, ""
	var said *VendorError
	switch {
	case err == nil:
		next = s.refreshAt(all[0].Statement, now)
	case errors.As(err, &said) && said.Absent:
		state, next, detail = "absent", now.Add(negative), "the vendor does not have it"
		if w.registered {
			state = "due" // the vendor may come to have it
		}
	default:
		state, attempts, detail = "due", w.attempts+1, short(err)
		wait := s.backOff(attempts)
		if said != nil && said.RetryAfter > 0 {
			pause = min(said.RetryAfter, maxRetryWait)
			wait = max(pause, wait)
		}
		next = now.Add(wait)
		if !w.registered && attempts >= maxAttempts {
			state, next = "absent", now.Add(negative)
		}
	}
	outcome := map[bool]string{true: "stored", false: state}[err == nil]
	if err != nil && state == "due" {
		outcome = "failed"
		s.Logger.Warn("fetching collateral", zap.String("kind", w.Kind), zap.String("key", w.Key), zap.Error(err))
	}
	s.metrics.requests.WithLabelValues(w.Kind, outcome).Inc()
	return pause, postgres.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for _, p := range all {
			queueStore(batch, p, "vendor", now)
		}
		batch.Queue(queries["settle"], w.Kind, w.Key, state, attempts, next, detail)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("storing %s %s: %w", w.Kind, w.Key, err)
		}
		return nil
	})
}

// proveAnswer admits an answer whose first object is of the subject that was asked for; a vendor, or who stands before it,
// cannot have another stored in its place.
func (s *Service) proveAnswer(of attest.Subject, found []Found, now time.Time) ([]proved, error) {
	var all []proved
	for _, f := range found {
		p, err := s.prove(f, now)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 || all[0].Subject != of {
		return nil, errors.New("the vendor sent another object than was asked for")
	}
	return all, nil
}

// refreshAt is when an object is fetched anew: certificates ahead of their end, what can change every Refresh.
func (s *Service) refreshAt(st attest.Statement, now time.Time) time.Time {
	left := st.Until.Sub(now)
	wait := min(s.Refresh, left/2)
	if st.Kind == attest.KindVCEK || st.Kind == attest.KindAMDChain {
		wait = max(left-ahead, left/2)
	}
	// At most a tenth earlier, so that what was fetched together is not fetched together again.
	wait -= time.Duration(s.Jitter() * float64(wait) / 10)
	return now.Add(max(wait, time.Minute))
}

func (s *Service) backOff(attempts int) time.Duration {
	wait := min(lastRetry, firstRetry<<min(attempts-1, 16))
	return wait + time.Duration(s.Jitter()*float64(wait)/4)
}

func short(err error) string {
	text := strings.ToValidUTF8(err.Error(), "?")
	return strings.ToValidUTF8(text[:min(len(text), 300)], "")
}
