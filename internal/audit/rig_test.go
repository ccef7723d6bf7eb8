package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

const origin = "log.example/siesta"

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// rig is a database, and logs on it that run as different processes would.
type rig struct {
	*testing.T
	db       *pgxpool.Pool
	recorder *Recorder
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, db: pgtest.New(t)}
	r.recorder = r.program()
	return r
}

// program opens the log as a program does that records and does not lead.
func (r *rig) program() *Recorder {
	r.Helper()
	recorder, err := OpenRecorder(r.context(), r.db, origin, testKey)
	if err != nil {
		r.Fatal(err)
	}
	return recorder
}

// log makes a Log without running it.
func (r *rig) log(change ...func(*Config)) *Log {
	r.Helper()
	config := Config{
		DB: r.db, Origin: origin, Signer: testKey, Lease: 2 * time.Second,
		Logger: zaptest.NewLogger(r.T, zaptest.Level(zap.WarnLevel)),
	}
	for _, f := range change {
		f(&config)
	}
	l, err := New(r.context(), config)
	if err != nil {
		r.Fatal(err)
	}
	return l
}

// start runs a log; stop ends it as a shutdown would and returns Run's error.
func (r *rig) start(l *Log) (stop func() error) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	r.Cleanup(func() { _ = stop() })
	return stop
}

// running makes and runs a Log.
func (r *rig) running(change ...func(*Config)) *Log {
	r.Helper()
	l := r.log(change...)
	r.start(l)
	return l
}

func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

func entry(n int) Entry {
	return Entry{
		Actor:  Actor{Kind: Person, Subject: "https://idp.example|alice", Name: "Alice Canary"},
		Action: "workspace.create", Object: fmt.Sprintf("workspace/%d", n), Project: "p1",
		Outcome: Success, Request: "r", Details: map[string]any{"n": n},
		Personal: map[string]string{"email": "alice@canary.example"},
	}
}

func (r *rig) append(e Entry) ID {
	r.Helper()
	var id ID
	err := postgres.InTx(r.context(), r.db, func(tx pgx.Tx) error {
		var err error
		id, err = r.recorder.Append(r.context(), tx, e)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return id
}

// fill appends n entries in one transaction and one round trip, and waits until
// all have an index.
func (r *rig) fill(l *Log, n int) {
	r.Helper()
	var last Ref
	err := postgres.InTx(r.context(), r.db, func(tx pgx.Tx) error {
		work := &pgx.Batch{}
		for i := range n {
			var err error
			if last, err = l.Queue(work, entry(i)); err != nil {
				return err
			}
		}
		return tx.SendBatch(r.context(), work).Close()
	})
	if err != nil {
		r.Fatal(err)
	}
	if _, err := l.Wait(r.context(), last); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) exec(sql string, args ...any) {
	r.Helper()
	if _, err := r.db.Exec(r.context(), sql, args...); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) count(sql string, args ...any) (n int64) {
	r.Helper()
	if err := r.db.QueryRow(r.context(), sql, args...).Scan(&n); err != nil {
		r.Fatal(err)
	}
	return n
}

func (r *rig) export(l *Log) []byte {
	r.Helper()
	var out bytes.Buffer
	if err := l.Export(r.context(), &out); err != nil {
		r.Fatal(err)
	}
	return out.Bytes()
}

// intact verifies the whole log and its openings, and returns its head.
func (r *rig) intact(l *Log) Checkpoint {
	r.Helper()
	sum, err := l.verify.VerifyExport(bytes.NewReader(r.export(l)), nil)
	if err != nil {
		r.Fatal(err)
	}
	if n := r.count(`SELECT count(*) FROM audit_entry`); n != sum.Checkpoint.Size {
		r.Fatalf("%d entries under a head of %d", n, sum.Checkpoint.Size)
	}
	return sum.Checkpoint
}

func (r *rig) head(l *Log) Checkpoint {
	r.Helper()
	c, err := l.head(r.context())
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) get(l *Log, index int64) Record {
	r.Helper()
	record, err := l.Get(r.context(), index)
	if err != nil {
		r.Fatal(err)
	}
	return record
}

func (r *rig) badLog(err error) *BadLog {
	r.Helper()
	var b *BadLog
	if !errors.As(err, &b) {
		r.Fatalf("error is %v, want a bad index", err)
	}
	return b
}

// waitID is WaitID for tests that ask for the receipt alone.
func waitID(ctx context.Context, l *Log, id ID) (Receipt, error) {
	receipt, _, err := l.WaitID(ctx, id)
	return receipt, err
}
