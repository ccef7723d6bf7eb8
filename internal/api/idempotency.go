package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	keepAnswers = "24 hours"
	waitForLog  = 15 * time.Second
)

var errAuditBehind = errors.New("the entry is committed and not yet under a signed checkpoint")

// lane says whether an answer waits for its audit entry.
type lane bool

const (
	waits lane = true  // a policy change: answered when its entry stands under a signed checkpoint
	flows lane = false // work that starts: its entry is committed with it and follows by itself
)

// once runs fn's effect at most once for the request's Idempotency-Key and returns its answer, or the answer that it
// gave before. Effect, audit entry and stored answer commit together; a failed fn stores nothing, so that the same
// request may be tried again.
//
// A crash before the commit leaves nothing; one after it leaves the answer, which the repeated request then gets. That
// includes the wait: an answer repeated before its entry was signed waits for the signature as the first one did.
func once[T any](ctx context.Context, s *Server, status int, l lane, fn func(tx pgx.Tx) (T, audit.ID, error)) (T, error) {
	c := callOf(ctx)
	var answer T
	var entry audit.ID
	err := postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) error {
		stored, id, found, err := s.earlier(ctx, tx, c)
		if err != nil {
			return err
		}
		if found {
			entry = id
			return json.Unmarshal(stored, &answer)
		}
		if answer, entry, err = fn(tx); err != nil {
			return err
		}
		return s.store(ctx, tx, c, status, answer, entry, l)
	})
	if err != nil {
		var zero T
		return zero, err
	}
	if l == waits && entry != 0 {
		if err := s.await(ctx, entry); err != nil {
			var zero T
			return zero, err
		}
	}
	return answer, nil
}

// effect runs fn in a transaction, for what needs no Idempotency-Key because it names the version that it changes.
func effect[T any](ctx context.Context, s *Server, fn func(tx pgx.Tx) (T, audit.ID, error)) (v T, id audit.ID, err error) {
	err = postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) error {
		v, id, err = fn(tx)
		return err
	})
	return v, id, err
}

// earlier takes the key for this transaction and looks whether it has been used.
func (s *Server) earlier(ctx context.Context, tx pgx.Tx, c *call) (answer []byte, id audit.ID, found bool, err error) {
	var free bool
	if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, c.lock()).Scan(&free); err != nil {
		return nil, 0, false, fmt.Errorf("taking an Idempotency-Key: %w", err)
	}
	if !free {
		p := kindInFlight.because("Another request with this Idempotency-Key is being answered.")
		p.retry = 1
		return nil, 0, false, p
	}
	var hash []byte
	err = tx.QueryRow(ctx, `SELECT body_hash, answer, audit_id FROM idempotency
		WHERE principal = $1 AND method = $2 AND path = $3 AND key = $4 AND created_at > now() - $5::interval`,
		c.who.Subject, c.method, c.path, c.key, keepAnswers).Scan(&hash, &answer, &id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, 0, false, nil
	case err != nil:
		return nil, 0, false, fmt.Errorf("looking up an Idempotency-Key: %w", err)
	case string(hash) != string(c.hash[:]):
		return nil, 0, false, kindKeyReused.because("This Idempotency-Key came with another body before.")
	}
	return answer, id, true, nil
}

// requestHash is what is kept of a request to know it again. It is keyed: a body may hold a secret that could be guessed,
// and who reads the database, or a backup of it, must have nothing to try guesses on.
func (s *Server) requestHash(body []byte) [32]byte {
	h := hmac.New(sha256.New, s.requestKey)
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

func (s *Server) store(ctx context.Context, tx pgx.Tx, c *call, status int, answer any, entry audit.ID, l lane) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("storing an answer: %w", err)
	}
	if l == flows {
		entry = 0
	}
	// A row older than it is kept may still be there; it is this key's no more.
	_, err = tx.Exec(ctx, `INSERT INTO idempotency (principal, method, path, key, body_hash, status, answer, audit_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (principal, method, path, key) DO UPDATE SET body_hash = excluded.body_hash, status = excluded.status,
		  answer = excluded.answer, audit_id = excluded.audit_id, created_at = now()`,
		c.who.Subject, c.method, c.path, c.key, c.hash[:], status, body, entry)
	if err != nil {
		return fmt.Errorf("storing an answer: %w", err)
	}
	return nil
}

// await waits until the entry stands under a signed checkpoint.
func (s *Server) await(ctx context.Context, entry audit.ID) error {
	ctx, cancel := context.WithTimeout(ctx, waitForLog)
	defer cancel()
	if _, _, err := s.cfg.Log.WaitID(ctx, entry); err != nil {
		return fmt.Errorf("%w: %w", errAuditBehind, err)
	}
	return nil
}

// lock is the key's name among the database's advisory locks. Two keys that meet there wait for nobody: one of them
// gets 409 and tries again.
func (c *call) lock() int64 {
	h := sha256.New()
	for _, part := range []string{"siestad/idempotency", c.who.Subject, c.method, c.path, c.key} {
		_ = binary.Write(h, binary.BigEndian, int64(len(part)))
		h.Write([]byte(part))
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil))) // any 64 bits will do
}

func (s *Server) sweepKeys(ctx context.Context) {
	for tick(ctx, 10*time.Minute) {
		if _, err := s.cfg.DB.Exec(ctx, `DELETE FROM idempotency WHERE created_at < now() - $1::interval`, keepAnswers); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("expired answers could not be removed", zap.Error(err))
		}
	}
}
