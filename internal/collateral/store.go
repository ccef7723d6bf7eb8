package collateral

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Every query of the package, so that a test can prepare each of them on the migrated schema.
var queries = map[string]string{
	// Of AMD's lists several are kept: what one of them names stays revoked.
	"current": `
SELECT sha256, kind, key, body, chain, valid_from, valid_until FROM (
  SELECT *, row_number() OVER (PARTITION BY kind, key ORDER BY valid_from DESC, sha256) AS nth FROM collateral_object) o
WHERE nth <= CASE WHEN kind = 'amd-crl' THEN 4 ELSE 1 END ORDER BY kind, key, nth`,
	"count": `SELECT count(*) FROM collateral_object`,
	"store": `
INSERT INTO collateral_object (sha256, kind, key, body, chain, valid_from, valid_until, source, stored_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
	"want": `
INSERT INTO collateral_want AS w (kind, key, registered, state, next_at) VALUES ($1, $2, $3, 'due', $4)
ON CONFLICT (kind, key) DO UPDATE SET registered = w.registered OR excluded.registered,
  state = CASE WHEN w.state = 'absent' AND (excluded.registered OR w.next_at <= excluded.next_at) THEN 'due' ELSE w.state END,
  next_at = CASE WHEN w.state = 'absent' AND (excluded.registered OR w.next_at <= excluded.next_at) THEN excluded.next_at ELSE w.next_at END`,
	"due": `
SELECT kind, key, registered, attempts FROM collateral_want
WHERE state <> 'absent' AND next_at <= $1 ORDER BY next_at, kind, key LIMIT 256`,
	"settle": `UPDATE collateral_want SET state = $3, attempts = $4, next_at = $5, detail = $6 WHERE kind = $1 AND key = $2`,
	"lead": `
UPDATE collateral_lease SET holder = $1, lease_until = clock_timestamp() + interval '60 seconds'
WHERE holder = $1 OR lease_until < clock_timestamp()`,
	"grace":   `INSERT INTO collateral_grace (sha256, until, first_used) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
	"objects": `SELECT DISTINCT ON (kind, sha256) kind, body FROM collateral_object WHERE sha256 = ANY ($1) ORDER BY kind, sha256`,
}

// kept is an object at hand with what it was proved to say.
type kept struct {
	attest.Statement
	digest attest.Digest
	body   []byte
	chain  []byte
}

func (k kept) covers(at time.Time) bool { return !at.Before(k.From) && at.Before(k.Until) }

// snapshot is what memory holds. It is replaced, never changed.
type snapshot struct {
	col attest.Collateral
	// vlekCRLs are the lists that speak of providers' keys; those in col speak of chips'.
	vlekCRLs *attest.CRLs
	current  map[attest.Subject]kept
	count    int64
}

// build makes a snapshot of objects in the database and the configuration. The first of a subject is its newest.
func (s *Service) build(objects []kept) (*snapshot, error) {
	snap := &snapshot{current: make(map[attest.Subject]kept), count: int64(len(objects))}
	all := append([]attest.Object{}, s.Base...)
	var lists [][]byte // of providers' keys
	seen := make(map[attest.Digest]bool)
	add := func(o attest.Object) {
		if len(o.Bytes) > 0 && !seen[o.Digest()] {
			seen[o.Digest()] = true
			all = append(all, o)
		}
	}
	for _, o := range s.Base {
		seen[o.Digest()] = true
		// An object of the configuration that does not prove is given to verdicts, which refuse it; it counts as nothing here.
		if st, err := s.Roots.Prove(o, nil, s.Now()); err == nil {
			if old, ok := snap.current[st.Subject]; !ok || st.From.After(old.From) {
				snap.current[st.Subject] = kept{Statement: st, digest: o.Digest(), body: o.Bytes}
			}
		}
	}
	fromDatabase := make(map[attest.Subject]bool)
	for _, o := range objects {
		if isVLEKs(o.Subject) {
			lists = append(lists, o.body)
		} else {
			add(attest.Object{Kind: o.Kind, Bytes: o.body})
		}
		if o.Kind == attest.KindTCBInfo || o.Kind == attest.KindQEIdentity {
			add(attest.Object{Kind: attest.KindTCBChain, Bytes: o.chain})
		}
		if old, ok := snap.current[o.Subject]; !fromDatabase[o.Subject] && (!ok || o.From.After(old.From)) {
			snap.current[o.Subject] = o
		}
		fromDatabase[o.Subject] = true
	}
	var err error
	if snap.col, err = attest.NewCollateral(s.Roots, all); err != nil {
		return nil, fmt.Errorf("putting collateral together: %w", err)
	}
	if snap.vlekCRLs, err = attest.ParseCRLs(s.Roots, lists...); err != nil {
		return nil, fmt.Errorf("putting collateral together: %w", err)
	}
	return snap, nil
}

// reload replaces memory if the database has more than it. Objects are never removed, so their number tells.
func (s *Service) reload(ctx context.Context) error {
	var count int64
	if err := s.DB.QueryRow(ctx, queries["count"]).Scan(&count); err != nil {
		return fmt.Errorf("counting collateral: %w", err)
	}
	if count == s.snap.Load().count {
		return nil
	}
	objects, err := s.read(ctx)
	if err != nil {
		return err
	}
	snap, err := s.build(objects)
	if err != nil {
		return err
	}
	// An object that came between the two statements is found by the next turn.
	snap.count = count
	s.snap.Store(snap)
	s.metrics.objects.Set(float64(len(snap.current)))
	return nil
}

func (s *Service) read(ctx context.Context) ([]kept, error) {
	rows, err := s.DB.Query(ctx, queries["current"])
	if err != nil {
		return nil, fmt.Errorf("reading collateral: %w", err)
	}
	var out []kept
	var k kept
	var digest []byte
	_, err = pgx.ForEachRow(rows, []any{&digest, &k.Kind, &k.Key, &k.body, &k.chain, &k.From, &k.Until}, func() error {
		k.digest = attest.Digest(digest)
		out = append(out, k)
		k.body, k.chain = nil, nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading collateral: %w", err)
	}
	return out, nil
}

// proved is an object that may be stored.
type proved struct {
	Found
	attest.Statement
}

// prove checks an object as it must be before it is stored: signed by its vendor, and in force now.
func (s *Service) prove(f Found, now time.Time) (proved, error) {
	st, err := s.Roots.Prove(f.Object, f.Chain, now)
	if err != nil {
		return proved{}, err
	}
	if f.VLEK {
		if f.Object.Kind != attest.KindAMDCRL {
			return proved{}, fmt.Errorf("%s is no revocation list: only of lists there is one of providers' keys", f.Object.Kind)
		}
		st.Subject = attest.CRLSubject(st.Key, true)
	}
	if now.Before(st.From) || !now.Before(st.Until) {
		return proved{}, fmt.Errorf("%s %s speaks from %s until %s, not now", st.Kind, st.Key, st.From.UTC().Format(time.RFC3339), st.Until.UTC().Format(time.RFC3339))
	}
	return proved{f, st}, nil
}

func queueStore(batch *pgx.Batch, p proved, source string, now time.Time) {
	digest := p.Object.Digest()
	chain := p.Chain
	if chain == nil {
		chain = []byte{}
	}
	batch.Queue(queries["store"], digest[:], p.Kind, p.Key, p.Object.Bytes, chain, p.From, p.Until, source, now)
}

// isVLEKs reports whether a subject is the list of providers' keys.
func isVLEKs(of attest.Subject) bool {
	return of.Kind == attest.KindAMDCRL && strings.HasSuffix(of.Key, "/vlek")
}

// Register makes what these subjects need be fetched and kept: a chip's certificate and its line's list and chain, or what
// quotes of one kind of platform rest on. It may be repeated.
func (s *Service) Register(ctx context.Context, subjects ...attest.Subject) error {
	batch := &pgx.Batch{}
	for _, subject := range subjects {
		batch.Queue(queries["want"], subject.Kind, subject.Key, true, s.Now())
	}
	if err := s.DB.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("registering %d subjects of collateral: %w", len(subjects), err)
	}
	s.poke()
	return nil
}

// Chip is what a registered AMD chip needs.
func Chip(line string, id []byte, tcb attest.TCB) []attest.Subject {
	return []attest.Subject{attest.VCEKSubject(line, id, tcb), {Kind: attest.KindAMDCRL, Key: line}, {Kind: attest.KindAMDChain, Key: line}}
}

// writePending turns what evidence asked for into wants. What could not be written is kept for the next turn.
func (s *Service) writePending(ctx context.Context) error {
	s.mu.Lock()
	pending := s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, subject := range pending {
		batch.Queue(queries["want"], subject.Kind, subject.Key, false, s.Now())
	}
	if err := s.DB.SendBatch(ctx, batch).Close(); err != nil {
		s.mu.Lock()
		s.pending = append(pending, s.pending...)
		s.mu.Unlock()
		return fmt.Errorf("noting wanted collateral: %w", err)
	}
	return nil
}

func (s *Service) lead(ctx context.Context) (bool, error) {
	tag, err := s.DB.Exec(ctx, queries["lead"], s.holder)
	if err != nil {
		return false, fmt.Errorf("taking the lease of fetching collateral: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// useGrace audits the first use of a list after its end. An error refuses: what cannot be recorded is not done.
func (s *Service) useGrace(ctx context.Context, k kept, now time.Time) error {
	s.mu.Lock()
	known := s.graced[k.digest]
	s.mu.Unlock()
	if known {
		return nil
	}
	until := k.Until.Add(s.Grace)
	err := postgres.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		// A list of the configuration is not in the table; it becomes a row like any other the moment it matters.
		batch := &pgx.Batch{}
		queueStore(batch, proved{Found{Object: attest.Object{Kind: k.Kind, Bytes: k.body}, Chain: k.chain}, k.Statement}, "import", now)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, queries["grace"], k.digest[:], until, now)
		if err != nil || tag.RowsAffected() == 0 {
			return err // another process audited it
		}
		_, err = s.Audit.Append(ctx, tx, audit.Entry{
			Actor: audit.Actor{Kind: audit.System}, Action: "collateral.grace", Object: "collateral/" + k.digest.String(), Outcome: audit.Success,
			Details: map[string]any{"kind": k.Kind, "key": k.Key, "ended": k.Until.UTC().Format(time.RFC3339), "until": until.UTC().Format(time.RFC3339)},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("recording the grace of %s %s: %w", k.Kind, k.Key, err)
	}
	s.mu.Lock()
	s.graced[k.digest] = true
	s.mu.Unlock()
	return nil
}

// ErrUnknown: an object of this digest was never stored.
var ErrUnknown = errors.New("no such collateral")

// Objects gives objects back by digest.
func (s *Service) Objects(ctx context.Context, digests ...attest.Digest) ([]attest.Object, error) {
	list := make([][]byte, len(digests))
	for i := range digests {
		list[i] = digests[i][:]
	}
	rows, err := s.DB.Query(ctx, queries["objects"], list)
	if err != nil {
		return nil, fmt.Errorf("reading collateral by digest: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[attest.Object])
	if err != nil {
		return nil, fmt.Errorf("reading collateral by digest: %w", err)
	}
	if len(out) != len(digests) {
		return nil, ErrUnknown
	}
	return out, nil
}
