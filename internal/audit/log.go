package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

// ErrNotFound says that the log has no such entry.
var ErrNotFound = errors.New("no such audit entry")

// Config is what a Log needs.
type Config struct {
	DB *pgxpool.Pool
	// Origin names the log in its checkpoints, without scheme, such as
	// siesta.example.org/log. It can never change.
	Origin string
	// Signer signs every head. It can never change either.
	Signer ed25519.PrivateKey
	Logger *zap.Logger // optional
	// Lease is how long a silent sequencer keeps the lead; 5 s if zero.
	Lease time.Duration
	// LastSeen is a file outside the database that remembers the newest
	// checkpoint. The sequencer refuses to sign for a tree that does not extend
	// it, and keeps it current. Without it, a restored backup would fork the
	// log in silence.
	LastSeen string
}

// Log is the audit log of an installation.
type Log struct {
	*Recorder

	db       *pgxpool.Pool
	sign     signer
	verify   Verifier
	key      string
	logger   *zap.Logger
	lease    time.Duration
	lastSeen string
	holder   string // this process, for the lease

	wake    chan struct{}
	queue   chan *queued
	leading atomic.Bool

	mu      sync.Mutex
	waiters map[ID][]chan located
	recent  map[ID]located
	order   []ID // of recent, oldest first
}

// located is where an entry went, and what it is: in memory while its batch is recent.
type located struct {
	index int64
	leaf  tlog.Hash
	head  *snapshot
}

// queued is an entry on its way into a batch without passing the inbox.
type queued struct {
	sealed
	done chan answer
}

// answer ends the wait for a queued entry.
type answer struct {
	located
	again   bool // not stored, and this process no longer takes entries directly
	unknown bool // the program is stopping and the last commit was not seen
}

const (
	defaultLease = 5 * time.Second
	maxQueue     = 4096
	maxRecent    = 16 << 10
)

// New checks the configuration, and that the key is the one of the stored log.
func New(ctx context.Context, c Config) (*Log, error) {
	if c.DB == nil {
		return nil, errors.New("making audit log: no database")
	}
	sign, err := newSigner(c.Origin, c.Signer)
	if err != nil {
		return nil, fmt.Errorf("making audit log: %w", err)
	}
	key := VerifierKey(c.Origin, c.Signer.Public().(ed25519.PublicKey))
	verify, err := NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("making audit log: %w", err)
	}
	if c.Lease < 0 {
		return nil, errors.New("making audit log: lease is negative")
	}
	recorder, err := OpenRecorder(ctx, c.DB, c.Origin, c.Signer)
	if err != nil {
		return nil, fmt.Errorf("making audit log: %w", err)
	}
	l := &Log{
		Recorder: recorder,
		db:       c.DB, sign: sign, verify: verify, key: key, logger: c.Logger, lease: c.Lease, lastSeen: c.LastSeen,
		holder: rand.Text(), wake: make(chan struct{}, 1), queue: make(chan *queued, maxQueue),
		waiters: make(map[ID][]chan located), recent: make(map[ID]located),
	}
	if l.logger == nil {
		l.logger = zap.NewNop()
	}
	if l.lease == 0 {
		l.lease = defaultLease
	}
	return l, nil
}

// Key returns the public key that verifies this log, in the signed-note form.
func (l *Log) Key() string { return l.key }

// Notify tells the sequencer of this process that entries were committed.
// It is a hint: entries are found without it, up to 250 ms later.
func (l *Log) Notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Wait blocks until the entry stands under a durable signed head, and returns
// its receipt. It is called after the commit of the transaction that recorded the
// entry; for one that was never committed it waits until ctx ends. That something
// stands under the entry's id does not do: ids are numbers of the database's.
func (l *Log) Wait(ctx context.Context, of Ref) (Receipt, error) {
	r, leaf, err := l.wait(ctx, of.ID)
	if err != nil {
		return Receipt{}, err
	}
	return r, of.is(leaf)
}

// WaitID is Wait for who knows no more of an entry than its id, and that from the
// database. body is what stands there; whether it is what it should be is for
// the caller to find out.
func (l *Log) WaitID(ctx context.Context, id ID) (r Receipt, body []byte, err error) {
	r, leaf, err := l.wait(ctx, id)
	if err != nil {
		return Receipt{}, nil, err
	}
	if err := l.db.QueryRow(ctx, `SELECT body FROM audit_entry WHERE id = $1`, id).Scan(&body); err != nil {
		return Receipt{}, nil, fmt.Errorf("reading audit entry %d: %w", id, err)
	}
	return r, body, Ref{id, tlog.RecordHash(body)}.is(leaf)
}

func (l *Log) wait(ctx context.Context, id ID) (Receipt, tlog.Hash, error) {
	l.mu.Lock()
	at, ok := l.recent[id]
	ch := make(chan located, 1)
	if !ok {
		l.waiters[id] = append(l.waiters[id], ch)
	}
	l.mu.Unlock()
	if ok {
		return at.receipt()
	}
	defer l.forget(id, ch)
	l.Notify()

	// A sequencer in another process cannot signal, so the database is asked too.
	pause := 10 * time.Millisecond
	if l.leading.Load() {
		pause = 100 * time.Millisecond
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return Receipt{}, tlog.Hash{}, fmt.Errorf("waiting for audit entry: %w", ctx.Err())
		case at := <-ch:
			return at.receipt()
		case <-timer.C:
			r, leaf, err := l.stored(ctx, id)
			if !errors.Is(err, ErrNotFound) {
				return r, leaf, err
			}
			pause = min(2*pause, maxPause)
			timer.Reset(pause)
		}
	}
}

func (at located) receipt() (Receipt, tlog.Hash, error) {
	r, err := at.head.receipt(at.index)
	return r, at.leaf, err
}

func (l *Log) forget(id ID, ch chan located) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.waiters[id][:0]
	for _, other := range l.waiters[id] {
		if other != ch {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(l.waiters, id)
	} else {
		l.waiters[id] = rest
	}
}

const sqlFind = `SELECT leaf_index, sha256('\x00'::bytea || body), mac FROM audit_entry WHERE id = $1`

// stored makes a receipt from the database, under the newest head.
func (l *Log) stored(ctx context.Context, id ID) (r Receipt, leaf tlog.Hash, err error) {
	index, leaf, err := l.find(ctx, l.db, id)
	if err != nil {
		return Receipt{}, leaf, err
	}
	head, proof, err := l.proven(ctx, index)
	if err != nil {
		return Receipt{}, leaf, err
	}
	if err := tlog.CheckRecord(proof, head.Size, head.Root, index, leaf); err != nil {
		return Receipt{}, leaf, fmt.Errorf("proving entry %d: %w: %w", index, errTampered, err)
	}
	return formatReceipt(index, proof, head.Text), leaf, nil
}

// find returns the index and leaf of an entry, if what stands there is what was recorded
// under that id.
func (l *Log) find(ctx context.Context, db querier, id ID) (index int64, hash tlog.Hash, err error) {
	var leaf, mac []byte
	err = db.QueryRow(ctx, sqlFind, id).Scan(&index, &leaf, &mac)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, hash, ErrNotFound
	case err != nil:
		return 0, hash, fmt.Errorf("finding audit entry: %w", err)
	case !l.made(id, tlog.Hash(leaf), mac) && (id >= firstID || mac != nil): // those from before have no code
		return 0, hash, fmt.Errorf("finding audit entry: %w: entry %d, at index %d, was not recorded with this log's key", errTampered, id, index)
	}
	return index, tlog.Hash(leaf), nil
}

// Refuse records an entry that has no other rows, such as a denial, and waits
// for its receipt. Where this process leads, the entry goes straight into the
// next batch; elsewhere it takes the inbox.
func (l *Log) Refuse(ctx context.Context, e Entry) (Receipt, error) {
	s, err := l.seal(e)
	if err != nil {
		return Receipt{}, err
	}
	if l.leading.Load() {
		q := &queued{sealed: s, done: make(chan answer, 1)}
		select {
		case <-ctx.Done():
			return Receipt{}, fmt.Errorf("queueing audit entry: %w", ctx.Err())
		case l.queue <- q:
		}
		if !l.leading.Load() {
			// The term ended meanwhile, perhaps after it had turned its queue away.
			l.turnAway()
		}
		select {
		case <-ctx.Done():
			// The entry may still be stored: recording it and answering with an
			// error errs on the right side.
			return Receipt{}, fmt.Errorf("waiting for audit entry: %w", ctx.Err())
		case a := <-q.done:
			switch {
			case a.head != nil:
				return a.head.receipt(a.index)
			case a.unknown:
				return Receipt{}, errors.New("waiting for audit entry: the log is stopping, and whether it was stored is unknown")
			case !a.again:
				return l.Wait(ctx, s.ref())
			}
		}
	}
	err = postgres.InTx(ctx, l.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sqlAppend, s.args()...)
		return err
	})
	if err != nil {
		return Receipt{}, fmt.Errorf("inserting audit entry: %w", err)
	}
	return l.Wait(ctx, s.ref())
}

// settle remembers where a batch's entries went and ends the waits for them.
func (l *Log) settle(ids []ID, leaves []tlog.Hash, first int64, head *snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range ids {
		at := located{first + int64(i), leaves[i], head}
		for _, ch := range l.waiters[id] {
			ch <- at // never blocks: one send per channel
		}
		delete(l.waiters, id)
		l.recent[id] = at
	}
	l.order = append(l.order, ids...)
	if extra := len(l.order) - maxRecent; extra > 0 {
		for _, id := range l.order[:extra] {
			delete(l.recent, id)
		}
		l.order = append(l.order[:0], l.order[extra:]...)
	}
}
